"""Parts add up to the whole, one layer at a time is what a build would make, and an interruption keeps the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nestforge.accuracy import sensitivity as module
from nestforge.accuracy.segments import cut_graph, find_affected_segments, list_boundary_values, run_chain
from nestforge.accuracy.sensitivity import _Probe, compare_logits, measure_layers, sensitivity
from nestforge.compile.calibrate import Range
from nestforge.compile.onnxfile import serialize
from nestforge.compile.plan import Prepared, QuantizationPlan, prepare
from nestforge.compile.quantize import find_activations, is_weighted
from nestforge.compile.source import load_source
from nestforge.config import parse_config
from nestforge.engines.base import Settings
from nestforge.errors import ArtifactError, ConfigError
from nestforge.pages.sensitivity import draw_noise
from nestforge.progress import no_progress

IMAGES = 6


@pytest.fixture(scope="module")
def prepared(slim_config: dict[str, Any]) -> Prepared:
    passes = {"split_radix": False}  # so that a layer alone reads the sum before it
    config = parse_config({**slim_config, "passes": passes, "output": "unused"}, source="test")
    return prepare(config, load_source(config, no_progress), no_progress)


def copy_model(prepared: Prepared) -> ir.Model:
    return ir.from_proto(ir.to_proto(prepared.source.model))


def run_whole(prepared: Prepared, model: ir.Model) -> np.ndarray:
    batches = list(prepared.images.load(IMAGES, batch=IMAGES))
    settings = Settings(batch=IMAGES, height=56, width=56)
    return run_chain([prepared.engine.open(serialize(model), settings)], batches)[0]


def test_parts_are_the_whole(prepared: Prepared) -> None:
    plan = prepared.plan
    assert plan is not None
    settings = Settings(batch=IMAGES, height=56, width=56)
    segments = cut_graph(prepared.source.model, prepared.engine, settings)
    assert len(segments) > 5
    nodes = [name for segment in segments for name in segment.nodes]
    assert sorted(nodes) == sorted(str(node.name) for node in prepared.source.model.graph)
    batches = list(prepared.images.load(IMAGES, batch=IMAGES))
    expected = run_whole(prepared, copy_model(prepared))
    found = run_chain([segment.open(prepared.engine) for segment in segments], batches)[0]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    requested = find_activations(prepared.source.model)
    quantized = copy_model(prepared)
    plan.apply(quantized)
    expected = run_whole(prepared, quantized)
    boundary_values = list_boundary_values(segments, prepared.source.model, requested, skip=())
    parts = [
        segment.open_quantized(prepared.engine, plan, requested.keys() - theirs, kept_in_float=())
        for segment, theirs in zip(segments, boundary_values, strict=True)
    ]
    found = run_chain(parts, batches)[0]
    assert compare_logits(expected, found).sqnr_db > 35  # a rounding that falls the other way is a whole step


def list_quantizers(proto: onnx.ModelProto) -> dict[str, bytes]:
    """Return what makes a graph an int8 one: every quantizer, and every tensor bit for bit."""
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in proto.graph.initializer}
    quantizers = {node.name: b"" for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    return tensors | quantizers


def compare_quantizers(model: ir.Model, plan: QuantizationPlan, prepared: Prepared, settings: Settings) -> int:
    """Spare each layer in turn: the parts together must be what a build makes. Return how many parts there are."""
    segments = cut_graph(model, prepared.engine, settings)
    requested = find_activations(model)
    boundary_values = list_boundary_values(segments, model, requested, skip=())
    for node in filter(is_weighted, model.graph):
        name = str(node.name)
        left = find_activations(model, skip={name})
        whole = ir.from_proto(ir.to_proto(model))
        plan.apply(whole, kept_in_float={name})
        place = next(index for index, segment in enumerate(segments) if name in segment.nodes)
        touched = find_affected_segments(segments, boundary_values, requested.keys() ^ left.keys(), place)
        parts: dict[str, bytes] = {}
        for index, (segment, theirs) in enumerate(zip(segments, boundary_values, strict=True)):
            kept_in_float, activations = ({name}, left) if index in touched else (set(), requested)
            parts |= list_quantizers(segment.quantize(plan, activations.keys() - theirs, kept_in_float=kept_in_float))
        assert parts == list_quantizers(ir.to_proto(whole)), name
    return len(segments)


@pytest.mark.parametrize("split_radix", [True, False])
def test_a_spared_layer_leaves_the_quantizers_of_a_build(slim_config: dict[str, Any], split_radix: bool) -> None:
    """Also where one layer alone reads a residual sum in 8 bits, as the first of a stage does that is not split."""
    passes = {"split_radix": split_radix}
    config = parse_config({**slim_config, "passes": passes, "output": "unused"}, source="test")
    prepared = prepare(config, load_source(config, no_progress), no_progress)
    assert prepared.plan is not None
    settings = Settings(batch=IMAGES, height=56, width=56)
    assert compare_quantizers(prepared.source.model, prepared.plan, prepared, settings) > 5


def test_the_same_where_nothing_rectifies_what_a_layer_reads(prepared: Prepared) -> None:
    """As in MobileNets: `b` is asked for by its reader alone, `d` by its producer alone."""
    text = """<ir_version: 9, opset_import: ["" : 17]> linear (float[n,3,h,w] x) => (float[n,4] y)
        { a = Conv(x, w0)  b = Conv(a, w1)  c = Conv(b, w2)  d = Relu(c)  e = Sigmoid(d)  f = Conv(e, w3)
          p = GlobalAveragePool(f)  y = Flatten(p) }"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w0", (8, 3, 1, 1)), ("w1", (8, 8, 1, 1)), ("w2", (8, 8, 1, 1)), ("w3", (4, 8, 1, 1))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    model = ir.from_proto(proto)
    assert set(find_activations(model)) == {"x", "a", "b", "d", "e"}
    plan = QuantizationPlan(
        histograms={},
        ranges=dict.fromkeys("xabde", Range(-1.0, 2.0)),
        skip=frozenset(),
        per_channel=True,
        avoid_saturation=True,
        means=None,
    )
    assert compare_quantizers(model, plan, prepared, Settings(batch=2, height=8, width=8)) > 4


def test_parts_opened_anew_run_from_where_they_begin(prepared: Prepared) -> None:
    """Exactly what comes of opening all parts anew, for layers that change earlier parts and for one that does not."""
    plan = prepared.plan
    assert plan is not None
    batches = list(prepared.images.load(IMAGES, batch=IMAGES))
    probe = _Probe(prepared, plan, Settings(batch=IMAGES, height=56, width=56), batches)
    names = ["layer1.0.conv3", "layer2.0.conv1", "layer4.0.conv1"]
    starts = [next(place for place, part in enumerate(probe._segments) if name in part.nodes) for name in names]
    choices = [probe._choose(name, place) for name, place in zip(names, starts, strict=True)]
    assert [choice.parts.start - place for choice, place in zip(choices, starts, strict=True)] == [0, -1, -1]
    for choice, (name, _, kept_in_float) in zip(choices, probe.visit(names), strict=True):
        sessions = [
            part.open_quantized(prepared.engine, plan, choice.activations - theirs, kept_in_float={name})
            for part, theirs in zip(probe._segments, probe._boundary_values, strict=True)
        ]
        assert kept_in_float == compare_logits(probe._expected, np.concatenate(run_chain(sessions, batches)))


def test_spared_is_what_a_build_makes_of_it(prepared: Prepared) -> None:
    layers, total, complete = measure_layers(prepared, IMAGES, no_progress)
    assert complete
    assert len(layers) == 28
    plan = prepared.plan
    assert plan is not None
    expected = run_whole(prepared, copy_model(prepared))
    first_of_stage = next(layer for layer in layers if layer.name == "layer2.0.conv1")
    for layer in (layers[3], first_of_stage, layers[-1]):
        model = copy_model(prepared)
        plan.apply(model, kept_in_float={layer.name})
        whole = compare_logits(expected, run_whole(prepared, model)).sqnr_db
        assert layer.kept_in_float_sqnr_db == pytest.approx(whole, abs=1)  # roundings that fall the other way in a part
    assert all(layer.alone_sqnr_db > total.sqnr_db for layer in layers)
    assert sum(layer.macs_share for layer in layers) == pytest.approx(1)
    shares = [layer.time_share for layer in layers if layer.time_share is not None]
    assert len(shares) == len(layers)
    assert 0 < sum(shares) <= 1
    assert all(layer.range_low <= 0 < layer.range_high for layer in layers)
    assert all(0 <= layer.clipped_share < 1e-3 for layer in layers)


def test_a_bad_range_is_found(slim_config: dict[str, Any], tmp_path: Path) -> None:
    """Percentile 90 ruins what has tails; the clipped share says so."""
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({**slim_config, "quantize": {"percentile": 90.0}, "output": "unused"}))
    result = sensitivity(path, images=IMAGES)
    assert result.complete
    assert result.images == IMAGES
    assert [layer.alone_sqnr_db for layer in result.layers] == sorted(layer.alone_sqnr_db for layer in result.layers)
    assert result.layers[0].clipped_share > 0.05
    assert result.layers[0].alone_sqnr_db < 20


def test_interruption_keeps_what_is_done(artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    compare, calls = module.compare_logits, []

    def interrupt(*arguments: np.ndarray) -> module.OutputError:
        calls.append(1)
        if len(calls) == 30:  # the whole model, then two for a layer
            raise KeyboardInterrupt
        return compare(*arguments)

    monkeypatch.setattr(module, "compare_logits", interrupt)
    result = sensitivity(artifacts["int8"], images=2)
    assert not result.complete
    assert 5 < len(result.layers) < 20
    drawn = "".join(ElementTree.fromstring(draw_noise(result)).itertext())
    assert all(layer.name in drawn for layer in result.layers)

    done = {layer.name: layer for layer in result.layers}
    calls.clear()
    monkeypatch.setattr(module, "compare_logits", lambda *logits: calls.append(1) or compare(*logits))
    with pytest.warns(UserWarning, match="continuing an interrupted"):
        resumed = sensitivity(artifacts["int8"], images=2)
    assert resumed.complete
    assert len(calls) == 1 + 2 * (len(resumed.layers) - len(done))  # nothing is measured twice
    untouched = sensitivity(artifacts["int8"], images=2)
    assert [_without_time(layer) for layer in resumed.layers] == [_without_time(layer) for layer in untouched.layers]


def _without_time(layer: module.LayerSensitivity) -> module.LayerSensitivity:
    return replace(layer, time_share=None)


def test_refusals(artifacts: dict[str, Path], slim_config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="below 1"):
        sensitivity(artifacts["int8"], images=0)
    with pytest.raises(ArtifactError, match="is not a nestforge artifact"):
        sensitivity(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({**slim_config, "calibration": None, "dtype": "fp32", "output": "unused"}))
    with pytest.raises(ConfigError, match="no calibration images"):
        sensitivity(path)


SHAPES = """<ir_version: 9, opset_import: ["" : 17]> foreign (float[n,3,h,w] x) => (float[n,4] y)
    {
        s = Shape(x)
        zero = Constant<value = int64 {0}>()
        n = Gather(s, zero)
        axis = Constant<value = int64[1] {0}>()
        u = Unsqueeze(n, axis)
        rest = Constant<value = int64[1] {-1}>()
        t = Concat<axis = 0>(u, rest)
        a = Conv<pads = [1,1,1,1]>(x, w1)
        b = Relu(a)
        c = Conv(b, w2)
        p = GlobalAveragePool(c)
        y = Reshape(p, t)
    }"""


def test_shapes_computed_in_the_graph_do_not_hinder_cutting(prepared: Prepared) -> None:
    proto = onnx.parser.parse_model(SHAPES)
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (4, 8, 1, 1))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    model = ir.from_proto(proto)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    settings = Settings(batch=3, height=16, width=16)
    segments = cut_graph(model, prepared.engine, settings)
    assert len(segments) == 4
    images = rng.standard_normal((3, 3, 16, 16), np.float32)
    expected = prepared.engine.open(serialize(model), settings).run(images)
    found = run_chain([segment.open(prepared.engine) for segment in segments], [images])[0]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
