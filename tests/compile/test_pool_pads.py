"""Pads before max pools: folded where a pool gives the same, and never in the range of what is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nestforge.artifact.artifact import inspect
from nestforge.builder import build
from nestforge.compile.passes import apply_passes
from nestforge.compile.passes.fold_pool_pads import fold_pool_pads
from nestforge.compile.quantize import find_activations
from nestforge.config import parse_config
from tests.support.graphs import make_model, make_proto, make_weights, quantize_on, run_engine, run_exactly

LOWEST = float(np.finfo(np.float32).min)
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 9, 9)).astype(np.float32)
CONSTANTS: Mapping[str, np.ndarray] = make_weights(w=(6, 3, 3, 3), v=(6, 6, 3, 3)) | {
    "pads": np.array([0, 0, 0, 1, 0, 0, 1, 1], np.int64),
    "two": np.array([1, 1, 1, 0], np.int64),
    "axes": np.array([2, -1], np.int64),
    "wide": np.array([0, 0, 3, 3, 0, 0, 3, 3], np.int64),
    "channels": np.array([0, 1, 0, 0, 0, 0, 0, 0], np.int64),
    "infinite": np.array(-np.inf, np.float32),
    "lowest": np.array(LOWEST, np.float32),
    "half": np.array(-65504, np.float32),
    "zero": np.array(0, np.float32),
    "small": np.array(-5, np.float32),
    "one": np.array(1, np.float32),
    "six": np.array(6, np.float32),
}
CONV = "c = Conv<pads = [1, 1, 1, 1]>(x, w)"
VALID = ', auto_pad = "VALID"'
INFINITE = "d = Pad(c, pads, infinite)"


def pool(attributes: str = "") -> str:
    return f"m = MaxPool<kernel_shape = [3, 3], strides = [2, 2]{attributes}>(d)"


POOL = pool()
TAIL = "e = Conv<pads = [1, 1, 1, 1]>(m, v)  r = Relu(e)  p = GlobalAveragePool(r)  y = Flatten(p)"
FOLDED = {
    "infinite": f"{CONV}  d = Pad(c, pads, infinite)  {POOL}  {TAIL}",
    "lowest float": f"{CONV}  d = Pad(c, pads, lowest)  {POOL}  {TAIL}",
    "lowest float16": f"{CONV}  d = Pad(c, pads, half)  {POOL}  {TAIL}",
    "with axes": f"{CONV}  d = Pad(c, two, lowest, axes)  {POOL}  {TAIL}",
    "behind a ReLU": f"{CONV}  a = Relu(c)  d = Pad(a, pads, lowest)  {POOL}  {TAIL}",
    "zeros behind a ReLU": f"{CONV}  a = Relu(c)  d = Pad(a, pads)  {POOL}  {TAIL}",
    "zeros behind a ReLU6": f"{CONV}  a = Clip(c, zero, six)  d = Pad(a, pads, zero)  {POOL}  {TAIL}",
    "zeros behind a pool of a ReLU": (
        f"{CONV}  a = Relu(c)  b = MaxPool<kernel_shape = [2, 2]>(a)  d = Pad(b, pads)  {POOL}  {TAIL}"
    ),
    "a pool that pads too": f"{CONV}  {INFINITE}  {pool(', pads = [1, 1, 0, 0]')}  {TAIL}",
    "a valid pool": f"{CONV}  {INFINITE}  {pool(VALID)}  {TAIL}",
    "a pool of every second": f"{CONV}  {INFINITE}  {pool(', dilations = [2, 2]')}  {TAIL}",
    "two pools": (
        f"{CONV}  d = Pad(c, pads, infinite)  {POOL}  n = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d)"
        "  q = ReduceMax<keepdims = 1>(n)  e = Conv<pads = [1, 1, 1, 1]>(m, v)  r = Add(e, q)  p = GlobalAveragePool(r)"
        "  y = Flatten(p)"
    ),
}
KEPT = {
    "zeros before anything": f"{CONV}  d = Pad(c, pads)  {POOL}  {TAIL}",
    "a number that may be larger": f"{CONV}  d = Pad(c, pads, small)  {POOL}  {TAIL}",
    "ones": f"{CONV}  a = Relu(c)  d = Pad(a, pads, one)  {POOL}  {TAIL}",
    "more than a window": f"{CONV}  d = Pad(c, wide, lowest)  {POOL}  {TAIL}",
    "another reader": (
        f"{CONV}  d = Pad(c, pads, lowest)  {POOL}  s = Sigmoid(d)  t = ReduceMax<keepdims = 1>(s)"
        "  e = Conv<pads = [1, 1, 1, 1]>(m, v)  r = Add(e, t)  p = GlobalAveragePool(r)  y = Flatten(p)"
    ),
    "rounded up": f"{CONV}  d = Pad(c, pads, lowest)  {pool(', ceil_mode = 1')}  {TAIL}",
    "copies": f'{CONV}  d = Pad<mode = "edge">(c, pads)  {POOL}  {TAIL}',
}


@pytest.mark.parametrize("body", FOLDED.values(), ids=FOLDED)
def test_pools_pad_for_themselves(body: str, tmp_path: Path) -> None:
    model = make_model(body, CONSTANTS, tmp_path, opset=18 if "axes)" in body else 17)
    expected = run_exactly(model, IMAGES)
    assert fold_pool_pads(model) == 1
    assert "Pad" not in {node.op_type for node in model.graph}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert (run_exactly(model, IMAGES) == expected).all()
    assert fold_pool_pads(model) == 0


@pytest.mark.parametrize("body", KEPT.values(), ids=KEPT)
def test_other_pads_stay(body: str, tmp_path: Path) -> None:
    model = make_model(body, CONSTANTS, tmp_path)
    assert fold_pool_pads(model) == 0


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("body", [*FOLDED.values(), *KEPT.values()], ids=[*FOLDED, *KEPT])
def test_nothing_infinite_is_in_a_range(body: str, engine: str, tmp_path: Path) -> None:
    model = make_model(body, CONSTANTS, tmp_path, opset=18 if "axes)" in body else 17)
    if "wide" in body:
        body = body.replace("wide", "pads")  # what a window sees of nothing but pads is not finite in any way
        model = make_model(body, CONSTANTS, tmp_path)
    expected = run_exactly(model, IMAGES)
    apply_passes(model)
    assert not any(
        value.producer() is not None and value.producer().op_type == "Pad"
        for value in find_activations(model).values()
        if "lowest" in body or "infinite" in body
    )
    assert quantize_on(model, IMAGES).weighted_layers == 2
    found = run_engine(engine, model, IMAGES)
    assert np.abs(found - expected).max() <= 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_network_of_timm_s_same_padding_is_built(engine: str, slim_config: dict[str, Any], tmp_path: Path) -> None:
    onnx.save(make_proto(FOLDED["infinite"], CONSTANTS), tmp_path / "m.onnx")
    config = {key: value for key, value in slim_config.items() if key != "labels"} | {
        "model": {"onnx": str(tmp_path / "m.onnx")},
        "preprocess": {"ops": [{"op": "resize", "size": [9, 9]}]},
        "engine": engine,
        "output": str(tmp_path / "artifact"),
    }
    build(parse_config(config, source="test"))
    assert inspect(tmp_path / "artifact").parity.cosine > 0.999
    assert inspect(tmp_path / "artifact").passes["fold_pool_pads"] == 1
