"""Foreign ONNX files: what is read off them, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from rich.console import Console

from nestforge.artifact.artifact import inspect
from nestforge.builder import build
from nestforge.compile.classifier import adapt_classifier
from nestforge.compile.constants import add_initializer, fold_constants
from nestforge.compile.onnxfile import (
    count_graph_macs,
    count_layer_macs,
    read_onnx,
    serialize,
)
from nestforge.config import parse_config
from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from nestforge.errors import ModelError
from nestforge.measure.benchmark import bench
from nestforge.networks.layers import count_kernel_macs
from nestforge.networks.zoo import get_variant
from nestforge.tables.builds import list_manifest_rows
from nestforge.tables.measurements import show_bench
from tests.support.onnx_models import (
    build_artifact,
    list_initializer_inputs,
    make_classifier,
    make_images,
    make_weights,
    run_artifact,
    run_reference,
    save,
)


def write_model(text: str, path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_reads_our_export(slim_onnx: Path) -> None:
    model = read_onnx(slim_onnx)
    classifier = adapt_classifier(model)
    assert (classifier.num_classes, classifier.fixed_batch, classifier.scores) == (10, None, None)
    assert count_graph_macs(model, 56, 56) == count_kernel_macs(get_variant("resnest14_slim"))


def test_constants_old_opset_and_softmax(tmp_path: Path) -> None:
    text = """<ir_version: 7, opset_import: ["" : 11]> g (float[1,3,8,8] x) => (float[1,4] y)
        <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
        { p = GlobalAveragePool(x)  f = Flatten(p)  c = Constant<value = float[4] {0,0,0,0}>()
          l = Gemm<transB = 1>(f, w, c)  y = Softmax<axis = 1>(l) }"""
    model = read_onnx(write_model(text, tmp_path / "m.onnx"))
    classifier = adapt_classifier(model)
    assert classifier.scores == "probabilities"
    assert (classifier.fixed_batch, classifier.fixed_height, classifier.num_classes) == (1, 8, 4)
    assert count_graph_macs(model, 8, 8) == 12
    assert "Constant" not in {node.op_type for node in model.graph}


def test_broken_files(slim_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no ONNX file"):
        read_onnx(tmp_path / "none.onnx")
    data = slim_onnx.read_bytes()
    for content in (b"", b"\x00" * 64, b"text", data[: len(data) // 2]):
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not a valid ONNX model"):
            read_onnx(path)


def write_legacy(opset: int, path: Path) -> tuple[onnx.ModelProto, Path]:
    """A classifier of IR version 3 as opset 1 to 12 write it: weights are inputs, and attributes come and go."""
    weights = make_weights()
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    arrays = {**weights, "scale": ones * 2, "shift": ones, "mean": zeros, "var": ones * 3}
    in_place = {"consumed_inputs": [0]} if opset < 6 else {}
    norm = {"is_test": 1} if opset < 7 else {}
    norm |= {"consumed_inputs": [0, 0, 0, 1, 1]} if opset < 6 else {}
    node = onnx.helper.make_node
    shape = [] if opset < 5 else ["shape"]
    arrays |= {} if opset < 5 else {"shape": np.array([-1, 8])}
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], epsilon=1e-3, **norm),
        node("Relu", ["n"], ["r"], **in_place),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Reshape", ["p", *shape], ["f"], **({"shape": [-1, 8], **in_place} if opset < 5 else {})),
        node("Gemm", ["f", "fw", "fb"], ["y"], transB=1, **({"broadcast": 1} if opset < 7 else {})),
    ]
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "legacy",
        [make("x", 1, [1, 3, 16, 16])],
        [make("y", 1, [1, 10])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    list_initializer_inputs(proto)
    onnx.checker.check_model(proto)
    return proto, save(proto, path)


@pytest.mark.parametrize("opset", range(1, 13))
def test_old_opsets_and_weights_that_are_inputs(opset: int, tmp_path: Path) -> None:
    """Opsets 7 and 8 are MXNet's, 9 Caffe2's, below 7 those of the first exporters."""
    _, path = write_legacy(opset, tmp_path / "m.onnx")
    reference, _ = write_legacy(9, tmp_path / "nine.onnx")
    images = make_images(1)
    artifact = build_artifact(path, tmp_path / "artifact")
    assert (inspect(artifact).classes, inspect(artifact).fixed_batch) == (10, 1)
    np.testing.assert_allclose(run_artifact(artifact, images), run_reference(reference, {"x": images}, "y"), rtol=1e-4)
    built = onnx.load(artifact / "model.onnx")
    assert built.ir_version >= 8
    assert [value.name for value in built.graph.input] == ["x"]


@pytest.mark.parametrize("ir_version", [3, 4, 6, 8, 10, 12])
def test_any_ir_version(ir_version: int, tmp_path: Path) -> None:
    proto = make_classifier()
    list_initializer_inputs(proto)
    proto.ir_version = ir_version
    images = make_images(2)
    found = run_artifact(build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a"), images)
    np.testing.assert_allclose(found, run_reference(make_classifier(), {"x": images}, "y"), atol=1e-5)


def test_an_input_with_a_default_keeps_it(tmp_path: Path) -> None:
    """A caller could give another one; an artifact is always called with the image alone."""
    proto = make_classifier(before="q = Mul(x, gain) ", image="q", weights={**make_weights(), "gain": np.float32(3)})
    proto.graph.input.append(onnx.helper.make_tensor_value_info("gain", 1, []))
    images = make_images(2)
    expected = run_reference(proto, {"x": images, "gain": np.array(3, np.float32)}, "y")
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a")
    np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=1e-5)


def test_softmax_before_a_reshape_counts(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[n,3,8,8] x) => (float[n,3] y)
        { p = GlobalAveragePool(x)  s = Softmax<axis = 1>(p)  f = Flatten(s)  y = Identity(f) }"""
    assert adapt_classifier(read_onnx(write_model(text, tmp_path / "m.onnx"))).scores == "probabilities"


def test_weights_that_are_also_inputs_and_fixed_batches(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[4,3,8,8] x, float[3,2] w) => (float[4,2] y)
        <float[3,2] w = {1,2,3,4,5,6}, int64[2] shape = {4,-1}>
        { p = GlobalAveragePool(x)  f = Reshape(p, shape)  y = MatMul(f, w) }"""
    model = read_onnx(write_model(text, tmp_path / "m.onnx"))
    assert [value.name for value in model.graph.inputs] == ["x"]
    classifier = adapt_classifier(model)
    assert (classifier.fixed_batch, classifier.num_classes) == (4, 2)


def test_taken_names_are_avoided(slim_onnx: Path) -> None:
    graph = read_onnx(slim_onnx).graph
    first, second = (add_initializer(graph, "fc.weight", np.zeros(1, np.float32)) for _ in range(2))
    assert len({"fc.weight", first.name, second.name}) == 3


PADS = """<ir_version: 9, opset_import: ["" : 17]> padded (float[n,3,h,w] x) => (float[n,4] y)
    {
        one = Constant<value = int64[1] {4}>()
        zeros = ConstantOfShape<value = int64[1] {0}>(one)
        ends = Constant<value = int64[4] {1, 1, 1, 1}>()
        flat = Concat<axis = 0>(ends, zeros)
        pair = Constant<value = int64[2] {2, 4}>()
        table = Reshape(flat, pair)
        turned = Transpose<perm = [1, 0]>(table)
        start = Constant<value = int64[1] {-1}>()
        end = Constant<value = int64[1] {-9}>()
        axis = Constant<value = int64[1] {0}>()
        step = Constant<value = int64[1] {-1}>()
        backwards = Slice(turned, start, end, axis, step)
        all = Constant<value = int64[1] {-1}>()
        mixed = Reshape(backwards, all)
        order = Constant<value = int64[8] {1, 3, 0, 2, 5, 7, 4, 6}>()
        pads = Gather(mixed, order)
        wide = Pad(x, pads)
        c = Conv(wide, w)
        p = GlobalAveragePool(c)
        y = Flatten(p)
    }"""


def test_pads_that_the_graph_computes_become_constants(tmp_path: Path) -> None:
    """As torch.onnx.export writes ZeroPad2d: without it no size is known, and no multiplication counted."""
    proto = onnx.parser.parse_model(PADS)
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "a.onnx"
    onnx.save(proto, path)
    model = read_onnx(path)
    assert [node.op_type for node in model.graph] == ["Pad", "Conv", "GlobalAveragePool", "Flatten"]
    pads = model.graph[0].inputs[1].const_value.numpy()
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    engine, settings = get_engine("onnxruntime"), Settings(batch=2, height=8, width=8)
    expected, found = (engine.open(data, settings).run(images) for data in (path.read_bytes(), serialize(model)))
    assert (expected == found).all()
    height, width = 8 + int(pads[2] + pads[6]) - 2, 8 + int(pads[3] + pads[7]) - 2
    assert height * width > 36
    assert count_graph_macs(model, 8, 8) == 4 * 27 * height * width


UNKNOWN = """<ir_version: 9, opset_import: ["" : 17]> odd (float[n,3,h,w] x) => (float[n,4] y)
    { a = Conv(x, w)  m = ReduceMax<keepdims = 0>(a)  i = Cast<to = 7>(m)  z = Mul(i, zeros)
      wide = Pad(a, z)  b = Conv(wide, v)  p = GlobalAveragePool(b)  y = Flatten(p) }"""
UNKNOWN_CONSTANTS = {
    "w": np.ones((4, 3, 1, 1), np.float32),
    "v": np.ones((4, 4, 1, 1), np.float32),
    "zeros": np.zeros(8, np.int64),
}


def test_sizes_that_are_not_known_count_nothing() -> None:
    """One convolution's size depends on what is in the image: the count of the other alone would be wrong."""
    proto = onnx.parser.parse_model(UNKNOWN)
    for name, array in UNKNOWN_CONSTANTS.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    model = ir.from_proto(proto)
    assert sorted(count_layer_macs(model, 8, 8).values()) == [0, 4 * 3 * 64]
    assert count_graph_macs(model, 8, 8) == 0


def test_what_is_not_known_is_said_and_not_shown_as_a_share(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(UNKNOWN)
    for name, array in UNKNOWN_CONSTANTS.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "a.onnx")
    config = {
        "model": {"onnx": str(tmp_path / "a.onnx")},
        "dtype": "fp32",
        "preprocess": {"ops": [{"op": "resize", "size": [8, 8]}]},
        "output": str(tmp_path / "artifact"),
    }
    build(parse_config(config, source="test"))
    rows = dict(list_manifest_rows(inspect(tmp_path / "artifact")))
    assert rows["model"] == "a, 4 classes, 8x8, MACs unknown"
    result = bench(tmp_path / "artifact", seconds=0.3)
    assert (result.macs, result.peak_share) == (0, None)
    show_bench(result, Console(file=(text := io.StringIO()), width=100))
    assert "share of peak" in text.getvalue()


def test_large_constants_are_not_computed() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> big (float[n,3,h,w] x) => (float[n,3] y)
        { size = Constant<value = int64[3] {100000, 100000, 100000}>()  huge = ConstantOfShape(size)
          p = GlobalAveragePool(x)  y = Flatten(p)  z = Identity(huge) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    assert fold_constants(model) == 0


@pytest.mark.parametrize("body", ["q = Div(one, zero)", "q = Add(one, three)"], ids=["by zero", "of two sizes"])
def test_what_has_no_result_stays(body: str) -> None:
    text = f"""<ir_version: 9, opset_import: ["" : 17]> bad (float[n,3,h,w] x) => (float[n,3] y, int64[k] z)
        <int64[2] one = {{1, 1}}, int64[2] zero = {{0, 0}}, int64[3] three = {{1, 2, 3}}>
        {{ {body}  z = Shape(q)  p = GlobalAveragePool(x)  y = Flatten(p) }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert fold_constants(model) == 0
    assert [node.op_type for node in model.graph][1] == "Shape"
