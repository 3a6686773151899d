"""Operators that change nothing: removed where they do nothing, kept where they do something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nestforge.compile.calibrate import observe_activations
from nestforge.compile.passes import apply_passes
from nestforge.compile.passes.remove_noops import remove_noops
from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from tests.support.graphs import make_model, make_proto, make_weights, run_exactly

CONSTANTS: dict[str, np.ndarray] = {
    "zero": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "zero_map": np.zeros((1, 4, 1, 1), np.float32),
    "zero_channels": np.zeros((4, 1, 1), np.float32),
    "one_channels": np.ones((4, 1, 1), np.float32),
    "one_batch": np.ones((2, 4, 8, 8), np.float32),
    "some": np.array([0, 0, 0, 1], np.float32).reshape(4, 1, 1),
    "false": np.array(False),
    "true": np.array(True),
    "ratio": np.array(0.5, np.float32),
    "own_sizes": np.array([0, 4, -1, 8], np.int64),
    "full_sizes": np.array([-1, 4, 8, 8], np.int64),
    "other_sizes": np.array([0, 2, 2, -1, 8], np.int64),
    "no_amounts": np.zeros(8, np.int64),
    "amounts": np.array([0, 0, 1, 0, 0, 0, 0, 0], np.int64),
    "zeros": np.array([0, 0], np.int64),
    "ends": np.array([8, 2**31 - 1], np.int64),
    "short_ends": np.array([8, 7], np.int64),
    "axes": np.array([2, 3], np.int64),
    "steps": np.array([1, 1], np.int64),
    "ones": np.array([1, 1, 1, 1], np.int64),
    "scales": np.ones(4, np.float32),
    "double_scales": np.array([1, 1, 2, 2], np.float32),
    "low": np.array(-np.inf, np.float32),
    "high": np.array(np.inf, np.float32),
    "two": np.array(2, np.float32),
} | make_weights(w=(4, 3, 3, 3), v=(4, 4, 3, 3))

NOTHING = {
    "Add zero": "Add(a, zero)",
    "zero Add": "Add(zero, a)",
    "Add zeros of a channel": "Add(a, zero_channels)",
    "Add zeros of four dimensions": "Add(zero_map, a)",
    "Sub zero": "Sub(a, zero)",
    "Mul one": "Mul(a, one)",
    "one Mul": "Mul(one_channels, a)",
    "Div one": "Div(a, one)",
    "Pow one": "Pow(a, one)",
    "Identity": "Identity(a)",
    "Dropout": "Dropout(a)",
    "Dropout, not in training": "Dropout(a, ratio, false)",
    "Cast": "Cast<to = 1>(a)",
    "CastLike": "CastLike(a, one)",
    "Concat of one": "Concat<axis = 1>(a)",
    "Sum of one": "Sum(a)",
    "Max of one": "Max(a)",
    "Reshape that copies": "Reshape(a, own_sizes)",
    "Reshape to known sizes": "Reshape(a, full_sizes)",
    "Pad by nothing": "Pad(a, no_amounts, zero)",
    "Slice of all": "Slice(a, zeros, ends, axes, steps)",
    "Transpose": "Transpose<perm = [0, 1, 2, 3]>(a)",
    "Expand": "Expand(a, ones)",
    "Tile": "Tile(a, ones)",
    "Resize": 'Resize<mode = "linear">(a, , scales)',
    "pool of one": "MaxPool<kernel_shape = [1, 1]>(a)",
    "mean of one": "AveragePool<kernel_shape = [1, 1], strides = [1, 1]>(a)",
    "Split in one": "Split<axis = 1>(a)",
    "Clip without bounds": "Clip(a)",
    "Clip with infinite bounds": "Clip(a, low, high)",
    "Relu of Relu": "Relu(a)",
}
SOMETHING = {
    "Add": "Add(a, some)",
    "Sub from zero": "Sub(zero, a)",
    "Mul by a batch": "Mul(a, one_batch)",
    "Div of one": "Div(one, e)",
    "Pow two": "Pow(a, two)",
    "Floor": "Floor(a)",
    "Concat of two": "Concat<axis = 1>(a, a)",
    "Pad": "Pad(a, amounts)",
    "Slice": "Slice(a, zeros, short_ends, axes, steps)",
    "Transpose": "Transpose<perm = [0, 1, 3, 2]>(a)",
    "Resize": 'Resize<mode = "linear">(a, , double_scales)',
    "pool": "MaxPool<kernel_shape = [1, 1], strides = [2, 2]>(a)",
    "Clip": "Clip(a, low, one)",
    "Reshape": "Reshape(a, other_sizes)",
}
INPUTS = "float[n,3,8,8] x"
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
TAIL = "c = Conv<pads = [1, 1, 1, 1]>(b, v)  r = Relu(c)  p = GlobalAveragePool(r)  y = Flatten(p)"
HEAD = "i = Conv<pads = [1, 1, 1, 1]>(x, w)  e = Exp(i)  a = Relu(i)"


@pytest.mark.parametrize("operator", NOTHING.values(), ids=NOTHING)
def test_what_changes_nothing_is_removed(operator: str, tmp_path: Path) -> None:
    model = make_model(f"{HEAD}  b = {operator}  {TAIL}", CONSTANTS, tmp_path, inputs=INPUTS)
    expected = run_exactly(model, IMAGES)
    assert remove_noops(model) == 1
    assert [node.op_type for node in model.graph if node.op_type != "Exp"] == [
        "Conv",
        "Relu",
        "Conv",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
    ]
    assert (run_exactly(model, IMAGES) == expected).all()
    assert remove_noops(model) == 0


@pytest.mark.parametrize("operator", SOMETHING.values(), ids=SOMETHING)
def test_what_changes_something_stays(operator: str, tmp_path: Path) -> None:
    body = f"{HEAD}  b = {operator}  r = Relu(b)  g = GlobalAveragePool(r)  y = Flatten(g)"
    model = make_model(body, CONSTANTS, tmp_path, inputs=INPUTS)
    before = [node.op_type for node in model.graph]
    assert remove_noops(model) == 0
    assert [node.op_type for node in model.graph] == before


def test_chains_go_and_outputs_keep_their_names(tmp_path: Path) -> None:
    tail = f"{TAIL.replace('y = ', 'f = ')}  g = Mul(f, one)  h = Cast<to = 11>(g)  y = Cast<to = 1>(h)"
    body = f"{HEAD}  b = Add(a, zero)  {tail}"
    model = make_model(body, CONSTANTS, tmp_path, inputs=INPUTS)
    expected = run_exactly(model, IMAGES)
    assert remove_noops(model) == 3
    assert [value.name for value in model.graph.outputs] == ["y"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert (run_exactly(model, IMAGES) == expected).all()


def test_narrowing_and_masks_are_kept(tmp_path: Path) -> None:
    narrow = make_model(
        f"{HEAD}  n = Cast<to = 10>(a)  b = Cast<to = 1>(n)  {TAIL}", CONSTANTS, tmp_path, inputs=INPUTS
    )
    assert remove_noops(narrow) == 0
    masked = make_model(
        f"{HEAD}  b, m = Dropout(a)  k = Cast<to = 1>(m)  d = Add(b, k)  {TAIL}", CONSTANTS, tmp_path, inputs=INPUTS
    )
    assert remove_noops(masked) == 0


def test_an_output_that_is_the_input_stays() -> None:
    model = ir.from_proto(make_proto("y = Identity(x)", {}, inputs=INPUTS, outputs="float[n,3,8,8] y"))
    assert remove_noops(model) == 0


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("operator", NOTHING.values(), ids=NOTHING)
def test_engines_name_outputs_as_the_graph_does(operator: str, engine: str) -> None:
    """OpenVINO removes the operator, and one tensor stands for two outputs."""
    outputs = "float[n,k] y, float[n,4,8,8] a, float[n,4,8,8] b"
    proto = make_proto(
        f"{HEAD.replace('e = Exp(i)', '')}  b = {operator}  {TAIL}", CONSTANTS, inputs=INPUTS, outputs=outputs
    )
    session = get_engine(engine).open(proto.SerializeToString(), Settings(batch=2, height=8, width=8))
    values = session.run_all(IMAGES)
    assert set(values) == {"y", "a", "b"}
    assert np.abs(values["a"] - values["b"]).max() < 1e-6
    assert (session.run(IMAGES) == values["y"]).all()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_every_value_can_be_observed(engine: str, tmp_path: Path) -> None:
    chain = "".join(
        f"  b{index} = {operator.replace('(a', f'(b{index - 1}').replace(', a)', f', b{index - 1})')}"
        for index, operator in enumerate(NOTHING.values(), start=1)
    )
    body = f"{HEAD.replace('e = Exp(i)', '')}  b0 = Relu(i)  {chain}  {TAIL.replace('(b,', f'(b{len(NOTHING)},')}"
    model = make_model(body, CONSTANTS, tmp_path, inputs=INPUTS)
    names = [str(node.outputs[0].name) for node in model.graph]
    settings = Settings(batch=2, height=8, width=8)
    histograms = observe_activations(model, names, [IMAGES], engine=get_engine(engine), settings=settings)
    assert {name: histogram.total > 0 for name, histogram in histograms.items()} == dict.fromkeys(names, True)
    assert apply_passes(model)["remove_noops"] == len(NOTHING)
