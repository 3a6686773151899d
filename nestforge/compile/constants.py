"""Constants of a graph: new ones, and small ones that it computes for itself, computed once.

Exporters write such computations for pads and views. Shape inference sees through few of them, and what it cannot see
has no size: no MACs, no place to cut.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import RemoveUnusedNodesPass

MAX_ELEMENTS = 64  # of what is read and made: sizes and pads, never weights
_ARITHMETIC = ("Add", "Cast", "Div", "Mul", "Sub")
_VIEWS = ("Concat", "ConstantOfShape", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def add_initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Add a constant; where the name is taken it gets underscores."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def fold_constants(model: ir.Model) -> int:
    """Replace, in place, nodes that make small constants of small constants; return how many."""
    folded = 0
    for node in model.graph:
        inputs = [value for value in node.inputs if value is not None]
        tensors = {str(value.name): ir.convenience.get_const_tensor(value) for value in inputs}
        if node.domain not in ("", "ai.onnx") or node.op_type not in (*_ARITHMETIC, *_VIEWS) or len(node.outputs) != 1:
            continue
        arrays = {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None and _is_small(tensor)}
        if arrays.keys() != tensors.keys() or node.outputs[0].is_graph_output():
            continue
        if node.op_type == "ConstantOfShape" and math.prod(map(int, next(iter(arrays.values())))) > MAX_ELEMENTS:
            continue
        result = _evaluate(node, arrays, model.opset_imports)
        if result is None or result.size > MAX_ELEMENTS:
            continue
        constant = add_initializer(model.graph, f"{node.outputs[0].name}.constant", result)
        ir.convenience.replace_all_uses_with(node.outputs[0], constant)
        folded += 1
    if folded:
        RemoveUnusedNodesPass()(model)
    return folded


def _is_small(tensor: ir.TensorProtocol) -> bool:
    return math.prod(map(int, tensor.shape.numpy())) <= MAX_ELEMENTS


def _evaluate(
    node: ir.Node, arrays: dict[str, npt.NDArray[np.generic]], opsets: dict[str, int]
) -> npt.NDArray[np.generic] | None:
    """Return what the node makes of its inputs; None where that is no number or the node is invalid.

    The node then stays, and the engine says what is wrong with it.
    """
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    output = onnx.ValueInfoProto(name=str(node.outputs[0].name))
    graph = onnx.helper.make_graph([ir.to_proto(node)], "constant", [], [output], tensors)
    imports = [onnx.helper.make_opsetid(domain, number) for domain, number in opsets.items()]
    try:
        with np.errstate(all="raise"):
            (result,) = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports)).run(None, {})
    except Exception:  # the evaluator has no common class of errors
        return None
    return np.asarray(result)
