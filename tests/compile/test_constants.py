"""Weights that a graph computes from constants are constants: they are quantized, and the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nestforge.artifact.artifact import inspect
from nestforge.builder import build
from nestforge.compile.constants import fold_constants
from nestforge.compile.onnxfile import read_onnx
from nestforge.compile.passes import apply_passes
from nestforge.config import parse_config
from tests.support.graphs import make_proto, make_weights, quantize_on, run_engine, run_exactly

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
FLOATS = make_weights(
    w=(40, 3, 3, 3), v=(6, 40), t=(40, 6), scale=(40, 1, 1, 1), left=(40, 5), right=(5, 6), flat=(40, 27), bias=(40,)
)
CONSTANTS: dict[str, np.ndarray] = {
    **FLOATS,
    "half": FLOATS["w"].astype(np.float16),
    "double": FLOATS["w"].astype(np.float64),
    "bytes": np.random.default_rng(1).integers(-127, 128, (40, 3, 3, 3)).astype(np.int8),
    "steps": np.abs(FLOATS["scale"]).reshape(40) / 100,
    "zero_points": np.zeros(40, np.int8),
    "one_step": np.array(0.01, np.float32),
    "sizes": np.array([40, 3, 3, 3], np.int64),
    "rows": np.array([40, -1], np.int64),
    "stacked": np.array([1, 40, -1], np.int64),
    "axes": np.array([1, 2, 3], np.int64),
    "epsilon": np.array(1e-6, np.float32),
    "two": np.array(2, np.float32),
    "count": np.array(27, np.float32),
    "ones": np.ones(40, np.float32),
    "zeros": np.zeros(40, np.float32),
    "mean": np.zeros(40, np.float32),
    "variance": np.ones(40, np.float32),
    "parts": np.array([20, 20], np.int64),
    "order": np.arange(39, -1, -1),
}
MEAN = "m = ReduceMean<axes = [1, 2, 3], keepdims = 1>(w)  d = Sub(w, m)"
TAIL = "c = Conv<pads = [1, 1, 1, 1]>(x, k)  a = Relu(c)  p = GlobalAveragePool(a)  f = Flatten(p)"
HEAD = "y = Gemm<transB = 1>(f, v)"
WEIGHTS = {
    "float16": f"k = Cast<to = 1>(half)  {TAIL}  {HEAD}",
    "float64": f"k = Cast<to = 1>(double)  {TAIL}  {HEAD}",
    "an Identity": f"k = Identity(w)  {TAIL}  {HEAD}",
    "a Transpose": f"k = Identity(w)  {TAIL}  q = Transpose<perm = [1, 0]>(v)  y = MatMul(f, q)",
    "a view": f"k = Reshape(flat, sizes)  {TAIL}  {HEAD}",
    "int8 of a channel": f"k = DequantizeLinear<axis = 0>(bytes, steps, zero_points)  {TAIL}  {HEAD}",
    "int8 of a tensor": f"k = DequantizeLinear(bytes, one_step)  {TAIL}  {HEAD}",
    "quantized and back": (
        f"i = QuantizeLinear<axis = 0>(w, steps, zero_points)  k = DequantizeLinear<axis = 0>(i, steps, zero_points)"
        f"  {TAIL}  {HEAD}"
    ),
    "a scale": f"k = Mul(w, scale)  {TAIL}  {HEAD}",
    "a scale from its logarithm": f"e = Exp(scale)  k = Mul(e, w)  {TAIL}  {HEAD}",
    "a norm": f"n = ReduceL2<axes = [1, 2, 3], keepdims = 1>(w)  u = Div(w, n)  k = Mul(u, scale)  {TAIL}  {HEAD}",
    "standardised": (
        f"{MEAN}  s = Mul(d, d)  t1 = ReduceMean<axes = [1, 2, 3], keepdims = 1>(s)  t2 = Add(t1, epsilon)"
        f"  t3 = Sqrt(t2)  k = Div(d, t3)  {TAIL}  {HEAD}"
    ),
    "standardised by a batch norm": (
        f"r = Reshape(w, stacked)  n, o1, o2 = BatchNormalization<training_mode = 1>(r, ones, zeros, mean, variance)"
        f"  k = Reshape(n, sizes)  {TAIL}  {HEAD}"
    ),
    "standardised by an instance norm": (
        f"r = Reshape(w, stacked)  n = InstanceNormalization(r, ones, zeros)  k = Reshape(n, sizes)  {TAIL}  {HEAD}"
    ),
    "two halves": f"k1, k2 = Split<axis = 0>(w, parts)  k = Concat<axis = 0>(k2, k1)  {TAIL}  {HEAD}",
    "rows in another order": f"k = Gather<axis = 0>(w, order)  {TAIL}  {HEAD}",
    "a product of factors": f"k = Identity(w)  {TAIL}  q = MatMul(left, right)  y = MatMul(f, q)",
    "a correction of low rank": f"k = Identity(w)  {TAIL}  q = MatMul(left, right)  u = Add(t, q)  y = MatMul(f, u)",
}


def save(body: str, path: Path) -> onnx.ModelProto:
    proto = make_proto(body, CONSTANTS)
    onnx.save(proto, path)
    return proto


@pytest.mark.parametrize("body", WEIGHTS.values(), ids=WEIGHTS)
def test_computed_weights_are_quantized(body: str, tmp_path: Path) -> None:
    expected = run_exactly(save(body, tmp_path / "m.onnx"), IMAGES)
    model = read_onnx(tmp_path / "m.onnx")
    assert [node.op_type for node in model.graph][:4] == ["Conv", "Relu", "GlobalAveragePool", "Flatten"]
    assert len(list(model.graph)) == 5
    assert np.abs(run_exactly(model, IMAGES) - expected).max() <= 2e-6 * np.abs(expected).max()
    summary = quantize_on(model, IMAGES)
    assert (summary.weighted_layers, summary.float_weighted_layers) == (2, ())
    for engine in ("openvino", "onnxruntime"):
        found = run_engine(engine, model, IMAGES)
        assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_build_quantizes_computed_weights(engine: str, slim_config: dict[str, Any], tmp_path: Path) -> None:
    save(WEIGHTS["standardised"], tmp_path / "m.onnx")
    config = {key: value for key, value in slim_config.items() if key != "labels"} | {
        "model": {"onnx": str(tmp_path / "m.onnx")},
        "preprocess": {"ops": [{"op": "resize", "size": [8, 8]}]},
        "engine": engine,
        "output": str(tmp_path / "artifact"),
    }
    build(parse_config(config, source="test"))
    manifest = inspect(tmp_path / "artifact")
    assert manifest.quantization is not None
    assert manifest.quantization.weighted_layers == 2
    assert manifest.parity.cosine > 0.999


BOMBS = {
    "a filled tensor": "size = Constant<value = int64[3] {100000, 100000, 100000}>()  huge = ConstantOfShape(size)",
    "an expansion": "size = Constant<value = int64[2] {1000000, 1000000}>()  huge = Expand(one, size)",
    "tiles": "size = Constant<value = int64[1] {1000000000000}>()  huge = Tile(vector, size)",
    "a range": "huge = Range(start, end, step)",
    "an outer product": "huge = Mul(column, row)",
    "a product of matrices": "huge = MatMul(column, row)",
    "indices": "depth = Constant<value = int64[1] {1000000000000}>()  huge = OneHot(start, depth, pair)",
    "a pad": "huge = Pad(vector, wide)",
}
BOMB_CONSTANTS: dict[str, np.ndarray] = {
    "one": np.array(1, np.float32),
    "vector": np.ones(2, np.float32),
    "start": np.array(0, np.int64),
    "end": np.array(10**12, np.int64),
    "step": np.array(1, np.int64),
    "column": np.ones((100_000, 1), np.float32),
    "row": np.ones((1, 100_000), np.float32),
    "pair": np.array([0, 1], np.float32),
    "wide": np.array([0, 10**12], np.int64),
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_what_would_fill_the_memory_is_not_computed(body: str) -> None:
    proto = make_proto(f"{body}  z = Size(huge)  p = GlobalAveragePool(x)  y = Flatten(p)", BOMB_CONSTANTS)
    proto.graph.output.add(name="z").type.tensor_type.elem_type = onnx.TensorProto.INT64
    model = ir.from_proto(proto)
    for node in [node for node in model.graph if node.op_type == "Constant"]:
        node.outputs[0].const_value = node.attributes["value"].as_tensor()
    assert fold_constants(model) == 0


def test_many_products_have_one_limit() -> None:
    """Each alone is allowed."""
    body = "".join(
        f"  h{index} = MatMul(column, row)  s{index} = ReduceSum<keepdims = 0>(h{index})" for index in range(9)
    )
    names = ", ".join(f"s{index}" for index in range(9))
    constants = {"column": np.ones((4000, 1), np.float32), "row": np.ones((1, 4000), np.float32)}
    proto = make_proto(f"{body}  t = Sum({names})  p = GlobalAveragePool(x)  f = Flatten(p)  y = Mul(f, t)", constants)
    model = ir.from_proto(proto)
    fold_constants(model)
    assert 0 < sum(node.op_type == "MatMul" for node in model.graph) < 9


def test_chance_is_not_a_constant() -> None:
    body = "k = RandomNormalLike(w)  c = Conv(x, k)  p = GlobalAveragePool(c)  y = Flatten(p)"
    model = ir.from_proto(make_proto(body, CONSTANTS))
    assert fold_constants(model) == 0


def test_biases_and_batch_norms_from_constants_are_folded_too(tmp_path: Path) -> None:
    body = f"{TAIL.replace('(x, k)', '(x, w, h)')}  {HEAD}"
    proto = make_proto(f"h = Mul(bias, two)  {body}", CONSTANTS)
    onnx.save(proto, tmp_path / "m.onnx")
    model = read_onnx(tmp_path / "m.onnx")
    assert apply_passes(model) == {}
    assert ir.convenience.get_const_tensor(model.graph[0].inputs[2]) is not None
