"""Model-local functions: what they do takes their place, unless that has no end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from nestforge.compile.functions import MAX_NODES
from nestforge.compile.onnxfile import read_onnx
from nestforge.errors import ModelError
from tests.support.onnx_models import build_artifact, make_classifier, make_images, run_artifact, run_reference, save

OPSET = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def add_function(proto: onnx.ModelProto, name: str, nodes: list[onnx.NodeProto], opset: int = 17) -> None:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    proto.functions.append(helper.make_function("local", name, ["a"], ["z"], nodes, imports))


def call(name: str, given: str, result: str) -> onnx.NodeProto:
    return helper.make_node(name, [given], [result], domain="local")


def test_functions_are_what_they_do(tmp_path: Path) -> None:
    """One that calls another, as exporters of modules write them."""
    proto = make_classifier(before="q = local.Outer(x) ", image="q", imports=', "local" : 1')
    add_function(
        proto, "Inner", [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["z"])]
    )
    add_function(proto, "Outer", [call("Inner", "a", "i"), helper.make_node("Neg", ["i"], ["z"])])
    path = save(proto, tmp_path / "m.onnx")
    model = read_onnx(path)
    assert not model.functions
    assert [node.op_type for node in model.graph][:3] == ["Sigmoid", "Mul", "Neg"]
    images = make_images(3)
    found = run_artifact(build_artifact(path, tmp_path / "artifact"), images)
    np.testing.assert_allclose(found, run_reference(proto, {"x": images}, "y"), atol=1e-5)


def test_a_function_that_calls_itself_has_no_end(tmp_path: Path) -> None:
    proto = make_classifier(before="q = local.First(x) ", image="q", imports=', "local" : 1')
    add_function(proto, "First", [call("Second", "a", "z")])
    add_function(proto, "Second", [call("First", "a", "z")])
    with pytest.raises(ModelError, match=r"calls itself|must not be recursive"):
        read_onnx(save(proto, tmp_path / "m.onnx"))


def test_functions_that_double_and_double_are_not_written_out(tmp_path: Path) -> None:
    levels = MAX_NODES.bit_length()
    proto = make_classifier(before=f"q = local.F{levels}(x) ", image="q", imports=', "local" : 1')
    add_function(proto, "F0", [helper.make_node("Relu", ["a"], ["z"])])
    for level in range(1, levels + 1):
        add_function(proto, f"F{level}", [call(f"F{level - 1}", "a", "m"), call(f"F{level - 1}", "m", "z")])
    with pytest.raises(ModelError, match="stand for over 1,048,576 nodes"):
        read_onnx(save(proto, tmp_path / "m.onnx"))
