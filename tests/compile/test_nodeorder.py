"""Nodes that stand before what they read: sorted, and otherwise left where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from nestforge.compile.nodeorder import sort_nodes
from nestforge.compile.onnxfile import read_onnx, serialize
from nestforge.errors import ModelError
from tests.support.onnx_models import make_classifier, make_images, run_reference, save


def list_nodes(proto: onnx.ModelProto) -> list[str]:
    return [node.name for node in proto.graph.node]


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [0, 2, 1, 4, 3, 5], [4, 0, 5, 1, 2, 3]])
def test_any_order_becomes_the_only_one(order: list[int], tmp_path: Path) -> None:
    proto = make_classifier(scores="l", after="y = Softmax(l)")
    images = make_images(2)
    expected = run_reference(proto, {"x": images}, "y")
    names = list_nodes(proto)
    nodes = [proto.graph.node[index] for index in order]
    shuffled = onnx.GraphProto(node=nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(shuffled.node)
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        onnx.checker.check_model(proto)
    model = read_onnx(save(proto, tmp_path / "m.onnx"))
    assert [node.name for node in model.graph] == names
    np.testing.assert_array_equal(run_reference(onnx.load_from_string(serialize(model)), {"x": images}, "y"), expected)


def test_sorted_nodes_stay() -> None:
    proto = make_classifier()
    names = list_nodes(proto)
    assert not sort_nodes(proto.graph)
    assert list_nodes(proto) == names


def test_what_a_subgraph_takes_from_around_it_comes_before() -> None:
    """The node that makes `a` stands last; only inside the branches of If is it read."""
    branches = [
        helper.make_graph(
            [helper.make_node("Relu", ["b"], ["c"]), helper.make_node("Neg", ["a"], ["b"])],
            name,
            [],
            [helper.make_tensor_value_info("c", 1, None)],
        )
        for name in ("then", "else")
    ]
    nodes = [
        helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Abs", ["x"], ["a"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    assert sort_nodes(graph)
    assert [node.op_type for node in graph.node] == ["Abs", "If"]
    assert [node.op_type for node in graph.node[1].attribute[0].g.node] == ["Neg", "Relu"]


def test_a_circle_is_an_error(tmp_path: Path) -> None:
    proto = make_classifier()
    proto.graph.node[0].input[0] = "r"
    with pytest.raises(ModelError, match="its nodes read each other in a circle"):
        read_onnx(save(proto, tmp_path / "m.onnx"))


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_what_onnx_runtime_s_converter_to_float16_leaves(keep_io_types: bool, tmp_path: Path) -> None:
    """It puts casts at the end of the graph, after the nodes that read them."""
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    proto = make_classifier(scores="l", after="y = Softmax<axis = 1>(l)")
    half = float16.convert_float_to_float16(proto, keep_io_types=keep_io_types, op_block_list=["GlobalAveragePool"])
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        onnx.checker.check_model(half)
    onnx.checker.check_model(onnx.load_from_string(serialize(read_onnx(save(half, tmp_path / "m.onnx")))))
