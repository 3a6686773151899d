"""Compute the R parts of a split-attention convolution where they are needed, instead of splitting their tensor.

    u = relu(conv(x, groups = R*K)), then Split(u) in R parts along the channels

becomes R convolutions of K groups, each on its own slice of x; and where x itself comes from a dense convolution
(the 1x1 before it), that one is made in R slices too. The same sums in the same order; the copies of Split go.

Matches a Split in equal parts of a value that only it reads, reached from a grouped convolution through channelwise
nodes that nothing else reads.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from nestforge.compile.constants import add_initializer
from nestforge.compile.onnxfile import make_split

PART = ".radix"  # in the names of parts
CHANNELWISE = frozenset({"Relu", "AveragePool", "MaxPool"})


def split_radix(model: ir.Model) -> int:
    """Rewrite `model` in place; return the number of splits replaced."""
    replaced = sum(_replace_split(model.graph, node) for node in list(model.graph) if node.op_type == "Split")
    if replaced:
        RemoveUnusedNodesPass()(model)
    return replaced


def find_origin(name: str) -> str:
    """Return the name of the node that the node called `name` is a part of, or is."""
    return name.split(PART)[0]


def _replace_split(graph: ir.Graph, split: ir.Node) -> bool:
    parts = len(split.outputs)
    value = split.inputs[0]
    if split.attributes.get_int("axis", 0) != 1 or value is None or parts < 2 or not _is_equal(split):
        return False
    if not _is_made_by_groups(value, parts):
        return False
    for index, output in enumerate(split.outputs):
        part = _slice(graph, value, index, parts)
        part.type, part.shape = output.type, output.shape
        ir.convenience.replace_all_uses_with(output, part, replace_graph_outputs=True)
    return True


def _is_equal(split: ir.Node) -> bool:
    """Tell whether all parts have one size: sizes as attribute (opset 11), as input, or not given at all."""
    sizes = split.attributes.get_ints("split")
    if sizes is None and len(split.inputs) > 1 and split.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(split.inputs[1])
        if tensor is None:
            return False
        sizes = tensor.numpy().tolist()
    return sizes is None or len(set(sizes)) == 1


def _is_made_by_groups(value: ir.Value, parts: int) -> bool:
    """Tell whether a slice of `value` would be made by a grouped convolution."""
    node = _get_sliceable(value, parts)
    if node is None or node.inputs[0] is None:
        return False
    return _read_groups(node) > 1 if node.op_type == "Conv" else _is_made_by_groups(node.inputs[0], parts)


def _get_sliceable(value: ir.Value, parts: int) -> ir.Node | None:
    """Return the node that can make `value` in `parts` slices of its channels; None: the value itself must be cut."""
    node = value.producer()
    if node is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    if node.op_type in CHANNELWISE and len(node.outputs) == 1:
        return node
    if node.op_type != "Conv":
        return None
    weight = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
    constants = [ir.convenience.get_const_tensor(bias) for bias in node.inputs[2:] if bias is not None]
    if weight is None or None in constants or weight.numpy().shape[0] % parts:
        return None
    groups = _read_groups(node)
    return node if groups == 1 or groups % parts == 0 else None


def _read_groups(node: ir.Node) -> int:
    return int(node.attributes.get_int("group", 1))


def _slice(graph: ir.Graph, value: ir.Value, index: int, parts: int) -> ir.Value:
    """Return channels [index * C/parts, (index + 1) * C/parts) of `value`, made by nodes of their own."""
    node = _get_sliceable(value, parts)
    if node is None or node.inputs[0] is None:
        return _cut(graph, value, index, parts)
    attributes = dict(node.attributes)
    if node.op_type == "Conv":
        groups = _read_groups(node)
        source = node.inputs[0] if groups == 1 else _slice(graph, node.inputs[0], index, parts)
        if groups > 1:
            attributes["group"] = ir.AttrInt64("group", groups // parts)
        inputs = [source, *(_slice_constant(graph, value, index, parts) for value in node.inputs[1:])]
    else:
        inputs = [_slice(graph, node.inputs[0], index, parts)]
    part = ir.Node("", node.op_type, inputs, list(attributes.values()), name=f"{node.name}{PART}{index}")
    part.outputs[0].name = f"{value.name}{PART}{index}"
    graph.insert_before(node, part)
    return part.outputs[0]


def _slice_constant(graph: ir.Graph, value: ir.Value | None, index: int, parts: int) -> ir.Value | None:
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None  # see _get_sliceable
    array = tensor.numpy()
    size = len(array) // parts
    return add_initializer(graph, f"{value.name}{PART}{index}", array[index * size : (index + 1) * size])


def _cut(graph: ir.Graph, value: ir.Value, index: int, parts: int) -> ir.Value:
    """Return one output of a Split of `value`, which is made once."""
    name = f"{value.name}.cut"
    split = next((user for user, _ in value.uses() if user.name == name), None)
    if split is None:
        split = make_split(graph, value, parts, name=name)
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], split)
        else:
            graph.insert_after(producer, split)
    return split.outputs[index]
