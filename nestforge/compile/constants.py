"""Constants of a graph: new ones, and those that it computes for itself, computed once.

Exporters write such computations for pads and views, which shape inference sees through in few cases only: what it
cannot see has no size, no MACs, no place to cut. And weights may be computed: stored in 16 or 8 bits, transposed,
scaled, standardised, merged from factors. A layer is quantized where its weights are a constant.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import RemoveUnusedNodesPass

MAX_ELEMENTS = 64  # that a node may make of fewer
MAX_PRODUCTS = 1 << 26  # elements that all products together may make of smaller factors
_PRODUCTS = frozenset({"Add", "Div", "Einsum", "Gemm", "MatMul", "Mul", "Sub"})
_NOT_COMPUTED = frozenset(  # of chance, of images or text, or of no fixed value
    {
        "Bernoulli",
        "Constant",
        "Dropout",
        "ImageDecoder",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_NEWER = {"DequantizeLinear": 21, "QuantizeLinear": 21}  # opsets that say the same, and that the evaluator knows
Array = npt.NDArray[np.generic]


def add_initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Add a constant; where the name is taken it gets underscores."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def fold_constants(model: ir.Model) -> int:
    """Replace, in place, nodes that compute constants from constants; return how many.

    A node may not make more elements than it reads, but for a few, and for products of smaller factors up to a limit.
    """
    folded, products = 0, 0
    for node in model.graph:
        arrays = _read_inputs(node)
        used = [output for output in node.outputs if output.uses()]
        if arrays is None or not used or any(output.is_graph_output() for output in node.outputs):
            continue
        read, made = sum(array.size for array in arrays.values()), _count_made(node, arrays, model.opset_imports)
        is_product = node.op_type in _PRODUCTS and products + (made or 0) <= MAX_PRODUCTS
        if made is None or (made > max(read, MAX_ELEMENTS) and not is_product):
            continue
        results = _evaluate(node, arrays, model.opset_imports)
        if results is None:
            continue
        products += max(made - read, 0)
        for output, result in zip((output for output in node.outputs if output.name), results, strict=True):
            if output.uses():
                constant = add_initializer(model.graph, f"{output.name}.constant", result)
                ir.convenience.replace_all_uses_with(output, constant)
        folded += 1
    if folded:
        RemoveUnusedNodesPass()(model)
    return folded


def _read_inputs(node: ir.Node) -> dict[str, Array] | None:
    """Return the arrays that a node reads, by name; None where it reads others, or is not to be computed."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _NOT_COMPUTED or "Sequence" in node.op_type:
        return None
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return None
    inputs = [value for value in node.inputs if value is not None]
    tensors = {str(value.name): ir.convenience.get_const_tensor(value) for value in inputs}
    known = {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}
    return known if known.keys() == tensors.keys() and known else None


def _count_made(node: ir.Node, arrays: dict[str, Array], opsets: dict[str, int]) -> int | None:
    """Return how many elements a node will make, or None where that is not known before."""
    small = {name: array for name, array in arrays.items() if array.size <= MAX_ELEMENTS}
    proto = _make_model(node, {name: array for name, array in arrays.items() if name not in small}, small, opsets)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except Exception:  # the node is invalid, and the engine says so
        return None
    shapes = [info.type.tensor_type.shape.dim for info in inferred.output if info.type.tensor_type.HasField("shape")]
    if len(shapes) < len(inferred.output) or not all(dim.HasField("dim_value") for shape in shapes for dim in shape):
        return None
    return sum(math.prod(int(dim.dim_value) for dim in shape) for shape in shapes)


def _evaluate(node: ir.Node, arrays: dict[str, Array], opsets: dict[str, int]) -> list[Array] | None:
    """Return what the node makes of its inputs; None where that is no number or the node is invalid.

    The node then stays, and the engine says what is wrong with it.
    """
    newer = max(opsets.get("", 0), _NEWER.get(node.op_type, 0))
    proto = _make_model(node, arrays, {}, {**opsets, "": newer})
    try:
        with np.errstate(all="raise", under="ignore"):
            results = ReferenceEvaluator(proto).run(None, arrays)
    except Exception:  # the evaluator has no common class of errors
        return None
    return [np.asarray(result) for result in results]


def _make_model(
    node: ir.Node, inputs: dict[str, Array], initializers: dict[str, Array], opsets: dict[str, int]
) -> onnx.ModelProto:
    """Return a model of one node."""
    values = [
        onnx.helper.make_tensor_value_info(name, int(ir.DataType.from_numpy(array.dtype)), array.shape)
        for name, array in inputs.items()
    ]
    tensors = [ir.to_proto(ir.tensor(array, name=name)) for name, array in initializers.items()]
    outputs = [onnx.ValueInfoProto(name=str(output.name)) for output in node.outputs if output.name]
    graph = onnx.helper.make_graph([ir.to_proto(node)], "constant", values, outputs, tensors)
    imports = [onnx.helper.make_opsetid(domain, number) for domain, number in opsets.items()]
    return onnx.helper.make_model(graph, opset_imports=imports)
