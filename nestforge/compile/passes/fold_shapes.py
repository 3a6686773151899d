"""Read sizes that are known, or those of the image, where a graph asks an activation for its shape.

    Gather(Shape(v), i)   becomes   a constant where dimension i of v is known,
                                    Gather(Shape(images), j) where it is dimension j of the input by name

Exporters write such questions for every view; each keeps its activation alive for a number that is known beforehand
(a batch is the same everywhere), and blocks the passes that would remove the activation.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from nestforge.compile.constants import add_initializer


def fold_shapes(model: ir.Model) -> int:
    """Rewrite `model` in place; return the number of questions answered."""
    shapes = [node for node in model.graph if node.op_type == "Shape" and node.inputs[0] is not model.graph.inputs[0]]
    if not shapes:
        return 0
    ShapeInferencePass()(model)
    folded = sum(_answer(model.graph, user) for shape in shapes for user, _ in list(shape.outputs[0].uses()))
    if folded:
        RemoveUnusedNodesPass()(model)
    return folded


def _answer(graph: ir.Graph, gather: ir.Node) -> bool:
    shape_node = gather.inputs[0].producer() if gather.op_type == "Gather" and gather.inputs[0] else None
    index = ir.convenience.get_const_tensor(gather.inputs[1]) if shape_node and gather.inputs[1] else None
    if shape_node is None or index is None or shape_node.op_type != "Shape" or index.numpy().size != 1:
        return False
    value = shape_node.inputs[0]
    plain = not shape_node.attributes.get_int("start", 0) and shape_node.attributes.get_int("end") is None
    if value is None or value.shape is None or not plain or gather.attributes.get_int("axis", 0) != 0:
        return False
    axis = int(index.numpy().reshape(()))
    if not -len(value.shape) <= axis < len(value.shape):
        return False
    dimension = value.shape[axis]
    name = str(gather.outputs[0].name)
    if isinstance(dimension, int):
        constant = add_initializer(graph, f"{name}.known", np.full(index.numpy().shape, dimension, np.int64))
        ir.convenience.replace_all_uses_with(gather.outputs[0], constant)
        return not gather.outputs[0].is_graph_output()
    images = graph.inputs[0]
    if dimension.value is None or images.shape is None or dimension not in images.shape:
        return False
    place = np.full(index.numpy().shape, list(images.shape).index(dimension), np.int64)
    shape = ir.node("Shape", [images], name=f"{name}.image_shape")
    graph.insert_before(gather, shape)
    gather.replace_input_with(0, shape.outputs[0])
    gather.replace_input_with(1, add_initializer(graph, f"{name}.place", place))
    return True
