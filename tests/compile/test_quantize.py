"""Where quantizers stand, what weights become, and that 16-bit sums cannot overflow."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from nestforge.compile.calibrate import Range
from nestforge.compile.onnxfile import read_onnx, serialize
from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.compile.quantize import find_activations, quantize_graph, scale_weights
from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from tests.support.graphs import quantize_on, run_engine, run_exactly
from tests.support.overflow import CONVOLUTIONS, make_worst_case, run_worst_case

ROOT = Path(__file__).parents[2]


def make_folded(name: str = "resnest14_slim", **changes: object) -> ir.Model:
    variant = dataclasses.replace(get_variant(name), **changes)
    model = build_graph(variant, make_seeded_weights(variant, 0))
    fold_batch_norm(model)
    return model


def quantize_all(model: ir.Model, **options: bool) -> None:
    ranges = dict.fromkeys(find_activations(model), Range(0.0, 6.0)) | {"input": Range(-2.0, 2.6)}
    quantize_graph(model, ranges, **({"per_channel": True, "avoid_saturation": True} | options))


def test_batch_norms_are_folded_exactly() -> None:
    variant = get_variant("resnest14_slim")
    original = build_graph(variant, make_seeded_weights(variant, 0))
    before = serialize(original)
    assert fold_batch_norm(original) == 3 + 5 * 4
    assert fold_batch_norm(original) == 0
    assert not any(node.op_type == "BatchNormalization" for node in original.graph)
    images = np.random.default_rng(0).standard_normal((2, 3, 56, 56), np.float32)
    engine, options = get_engine("onnxruntime"), Settings(batch=2, height=56, width=56)
    a, b = engine.open(before, options).run(images), engine.open(serialize(original), options).run(images)
    assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def test_folding_leaves_shared_convolutions_alone() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] z)
        <float[2,2,1,1] w = {1,2,3,4}, float[2] one = {1,1}, float[2] zero = {0,0}>
        { c = Conv(x, w)  y = BatchNormalization(c, one, zero, zero, one)  z = Relu(c) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert fold_batch_norm(model) == 0
    assert len(list(model.graph)) == 3


def test_quantizers_stand_where_kernels_need_them() -> None:
    model = make_folded()
    quantize_all(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm"):
            source = node.inputs[0].producer()
            while source.op_type in ("MaxPool", "Flatten"):
                source = source.inputs[0].producer()
            assert source.op_type == "DequantizeLinear", node.name
            assert node.inputs[1].producer().op_type == "DequantizeLinear", node.name
        if node.op_type == "Add" and str(node.name).endswith(".add"):
            read_in_8_bits = not str(node.name).startswith("layer4.0")
            sources = {value.producer().op_type == "DequantizeLinear" for value in node.inputs}
            assert sources == {read_in_8_bits}
        if node.op_type == "Split" and str(node.name).endswith("conv2.split"):
            assert node.inputs[0].producer().op_type == "DequantizeLinear"


def test_every_value_is_quantized_once() -> None:
    model = make_folded(depths=(2, 1, 1, 1))
    quantize_all(model)
    sources = [node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear"]
    assert len(sources) == len(set(sources))
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            assert {use.node.op_type for use in node.inputs[0].uses()} == {"QuantizeLinear"}


def test_attention_softmax_and_logits_stay_in_float() -> None:
    model = make_folded()
    quantized = set(find_activations(model))
    assert not any("rsoftmax" in name or "fc2" in name for name in quantized)
    assert "output" not in quantized


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_engines_do_not_overflow(kind: str, engine: str) -> None:
    error, _ = run_worst_case(kind, engine, avoid_saturation=True)
    assert error <= 0.02


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="16-bit sums are of x86")
@pytest.mark.parametrize(("isa", "kernels"), [("AVX2", "jit_avx2"), ("AVX", "jit_sse42")])
def test_nothing_overflows_on_older_cpus(isa: str, kernels: str) -> None:
    """OpenVINO without VNNI: the kernels of older CPUs overflow with full-range weights, and not with ours."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    command = [sys.executable, "-m", "tests.support.overflow"]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(child.stdout)
    assert found.keys() == CONVOLUTIONS.keys()
    for kind, (avoided, ignored, implementations) in found.items():
        assert avoided <= 0.01, kind
        if kind != "depthwise":  # its products are not added in pairs
            assert all(name.startswith((kernels, "jit_gemm")) for name in implementations), (kind, implementations)
            assert ignored > 0.1, kind


def test_full_range_weights_are_kept_where_nothing_overflows() -> None:
    for kind in ("even 3x3", "rgb 3x3", "odd groups", "depthwise"):
        safe, _ = make_worst_case(*CONVOLUTIONS[kind])
        full, _ = make_worst_case(*CONVOLUTIONS[kind])
        for model, avoid in ((safe, True), (full, False)):
            ranges = dict.fromkeys(find_activations(model), Range(0.0, 1.0))
            quantize_graph(model, ranges, per_channel=True, avoid_saturation=avoid)
        largest = [
            np.abs(
                model.graph.initializers[f"node{1 if kind == 'rgb 3x3' else 2}.weight_int8"].const_value.numpy()
            ).max()
            for model in (safe, full)
        ]
        assert largest[1] == 127
        assert largest[0] == (127 if kind == "depthwise" else 64)


def list_int8_weights(model: ir.Model) -> dict[str, np.ndarray]:
    tensors = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    return {name: array for name, array in tensors.items() if name.endswith("weight_int8")}


def test_scales_per_channel_and_per_tensor() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 9, 4)).astype(np.float32)
    rows[3] = 0
    per_channel = scale_weights(rows, per_channel=True, avoid_saturation=False)
    assert per_channel == pytest.approx([*np.abs(rows[:3]).max((1, 2)) / 127, 1 / 127, np.abs(rows[4]).max() / 127])
    per_tensor = scale_weights(rows, per_channel=False, avoid_saturation=False)
    assert per_tensor == pytest.approx([np.abs(rows).max() / 127] * 5)
    avoided = scale_weights(rows, per_channel=True, avoid_saturation=True)
    assert (avoided >= per_channel * (1 - 1e-6)).all()
    assert (avoided <= per_channel * 2.001).all()


def test_weights_are_rounded_to_nearest() -> None:
    model = make_folded()
    original = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    quantize_all(model)
    tensors = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    for name, int8 in list_int8_weights(model).items():
        layer = name.removesuffix(".weight_int8")
        scale = tensors[f"{layer}.weight_scale"].reshape(-1, *[1] * (int8.ndim - 1))
        source = original.get(f"{layer}.folded_weight", original.get(f"{layer}.weight"))
        assert source is not None
        assert np.abs(int8 * scale - source).max() <= 0.5001 * scale.max()


@pytest.mark.parametrize("name", ["resnest14", "resnest50", "resnest50_fast_1s4x24d", "resnest50_fast_4s2x40d"])
@pytest.mark.parametrize("batch", [1, 2])
def test_openvino_runs_every_convolution_in_int8(name: str, batch: int) -> None:
    model = make_folded(name)
    quantize_all(model)
    session = get_engine("openvino").open(serialize(model), Settings(batch=batch, height=64, width=64))
    kernels = session.list_kernels()
    weighted = [kernel for kernel in kernels if kernel.layer_type in ("Convolution", "FullyConnected", "MatMul")]
    assert len(weighted) == sum(node.op_type in ("Conv", "Gemm") for node in model.graph)
    assert {kernel.precision for kernel in weighted} <= {"u8", "i8"}


def test_biases_take_up_what_rounding_does_to_the_mean() -> None:
    """With every channel at its mean the outputs of the layer are those of the exact weights."""
    rng = np.random.default_rng(0)
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[n,4,1,1] x) => (float[n,6,1,1] y)
        { y = Conv<group = 2>(x, w, b) }"""
    for name in ("with a bias", "without"):
        proto = onnx.parser.parse_model(text if name == "with a bias" else text.replace(", b)", ")"))
        weight = rng.standard_normal((6, 2, 1, 1)).astype(np.float32)
        arrays = {"w": weight, "b": np.arange(6, dtype=np.float32)}
        for key, array in arrays.items():
            if key in text and (key == "w" or name == "with a bias"):
                proto.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
        proto.graph.node[0].name = "conv"
        model = ir.from_proto(proto)
        mean = np.array([1.0, 0.5, 2.0, 0.25])
        exact = onnxruntime.InferenceSession(serialize(model))
        images = mean.astype(np.float32).reshape(1, 4, 1, 1)
        (expected,) = exact.run(None, {"x": images})
        quantize_graph(model, {"x": Range(0.0, 255 / 128)}, per_channel=True, avoid_saturation=False, means={"x": mean})
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        (found,) = onnxruntime.InferenceSession(serialize(model)).run(None, {"x": images})
        assert np.abs(found - expected).max() < 0.02
        assert "b" not in model.graph.initializers


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_quantized_graph_is_quantized_again(engine: str, slim_onnx: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 56, 56), np.float32)
    model = read_onnx(slim_onnx)
    quantize_on(model, images)
    expected = run_exactly(model, images)
    (tmp_path / "int8.onnx").write_bytes(serialize(model))
    again = read_onnx(tmp_path / "int8.onnx")
    assert quantize_on(again, images).weighted_layers == 28
    onnx.checker.check_model(ir.to_proto(again), full_check=True)
    assert np.abs(run_engine(engine, again, images) - expected).max() < 0.05 * np.abs(expected).max()
