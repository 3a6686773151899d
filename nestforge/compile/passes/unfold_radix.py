"""Write the sums over radix without a fifth dimension.

timm and others view the output u of the grouped convolution as (B, R, C, H, W) and sum over R:

    sum = ReduceSum(view(u), 1)        out = ReduceSum(view(u) * attention, 1)        attention (B, R, C, 1, 1)

becomes, with u and attention (as (B, R*C, 1, 1)) split in R parts along the channels,

    sum = u0 + u1 + ...                out = u0 * attention0 + u1 * attention1 + ...

Engines keep four-dimensional activations in the layout of their convolutions; a fifth dimension costs a reordering.
Matches a Reshape to five dimensions, the second a constant above 1, that nothing but such sums reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from nestforge.compile.constants import add_initializer
from nestforge.compile.onnxfile import make_split


def unfold_radix(model: ir.Model) -> int:
    """Rewrite `model` in place; return the number of views replaced."""
    views = [node for node in model.graph if node.op_type == "Reshape"]
    if views:
        ShapeInferencePass()(model)
    unfolded = sum(_unfold(model.graph, view) for view in views)
    if unfolded:
        RemoveUnusedNodesPass()(model)
    return unfolded


def _unfold(graph: ir.Graph, view: ir.Node) -> bool:
    value = view.outputs[0]
    radix = _read_radix(value)
    users = [user for user, _ in value.uses()]
    if radix is None or value.is_graph_output() or not users:
        return False
    sums = [user for user in users if _sums_over_radix(user)]
    products = [user for user in users if user.op_type == "Mul" and _is_weighted_sum(user, value, radix)]
    if len(sums) + len(products) != len(users):
        return False
    split = make_split(graph, view.inputs[0], radix, name=f"{view.name}.parts")
    graph.insert_before(view, split)
    for node in sums:
        _replace(graph, node, split.outputs)
    for product in products:
        attention = product.inputs[1] if product.inputs[0] is value else product.inputs[0]
        sizes = add_initializer(graph, f"{product.name}.flat_sizes", np.array([0, -1, 1, 1], np.int64))
        flat = ir.node("Reshape", [attention, sizes], name=f"{product.name}.flat")
        weights = make_split(graph, flat.outputs[0], radix, name=f"{product.name}.attention")
        graph.insert_before(product, [flat, weights])
        scaled = []
        for index, (part, weight) in enumerate(zip(split.outputs, weights.outputs, strict=True)):
            scale = ir.node("Mul", [part, weight], name=f"{product.name}.scale{index}")
            graph.insert_before(product, scale)
            scaled.append(scale.outputs[0])
        _replace(graph, next(iter(product.outputs[0].uses())).node, scaled)
    return True


def _read_radix(value: ir.Value) -> int | None:
    shape = value.shape
    return shape[1] if shape is not None and len(shape) == 5 and isinstance(shape[1], int) and shape[1] > 1 else None


def _sums_over_radix(node: ir.Node) -> bool:
    """Tell whether `node` is a ReduceSum over axis 1 that drops it, axes as attribute (opset 11) or input."""
    if node.op_type != "ReduceSum" or node.attributes.get_int("keepdims", 1) != 0:
        return False
    axes: Sequence[int] | None = node.attributes.get_ints("axes")
    if axes is None and len(node.inputs) > 1:
        tensor = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
        axes = None if tensor is None else tensor.numpy().tolist()
    return axes is not None and list(axes) in ([1], [-4])


def _is_weighted_sum(node: ir.Node, value: ir.Value, radix: int) -> bool:
    """Tell whether `node` multiplies the view by an attention (B, R, C, 1, 1) and only a sum over R reads it."""
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    product = node.outputs[0]
    return (
        other is not None
        and other is not value
        and _read_radix(other) == radix
        and other.shape is not None
        and list(other.shape)[3:] == [1, 1]
        and not product.is_graph_output()
        and len(product.uses()) == 1
        and _sums_over_radix(next(iter(product.uses())).node)
    )


def _replace(graph: ir.Graph, node: ir.Node, values: Sequence[ir.Value]) -> None:
    """Let the sum of `values` stand for the output of `node`."""
    total = values[0]
    for index, value in enumerate(values[1:], start=1):
        add = ir.node("Add", [total, value], name=f"{node.name}.add{index}")
        graph.insert_before(node, add)
        total = add.outputs[0]
    ir.convenience.replace_all_uses_with(node.outputs[0], total, replace_graph_outputs=True)
    graph.remove(node, safe=True)
