"""What passes know of shapes: inferred ones, and the sizes that a graph computes for itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

Dim = int | ir.SymbolicDim | None
_DIM_NAMES = ("batch", "channels", "height", "width")
_ARITHMETIC = {"Add": int.__add__, "Div": int.__floordiv__, "Mul": int.__mul__, "Sub": int.__sub__}


def infer_shapes(model: ir.Model) -> None:
    """Give every value its type and shape, in place, as far as they can be known."""
    _separate_names(model.graph)
    ShapeInferencePass(check_type=False, strict_mode=False)(model)


def get_constant(value: ir.Value | None) -> npt.NDArray[np.generic] | None:
    """Return the array that a value always is, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor.numpy() if tensor is not None else None


def get_dims(value: ir.Value | None) -> list[Dim] | None:
    """Return the size of each dimension: a number, a symbol, or None where it is unknown; None: not even how many."""
    if value is None:
        return None
    constant = get_constant(value)
    if constant is not None:
        return list(constant.shape)
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) or dim.value is not None else None for dim in value.shape]


def get_fixed_dims(value: ir.Value | None) -> list[int | None] | None:
    """Return the size of each dimension where it is a number, and None where it is not."""
    dims = get_dims(value)
    return None if dims is None else [dim if isinstance(dim, int) else None for dim in dims]


def read_vector(value: ir.Value | None) -> list[Dim] | None:
    """Return the elements of an integer vector that is computed from constants and shapes, or None.

    An element is a number, the symbol of a dimension, or None where it is neither. A scalar is a vector of one.
    """
    constant = get_constant(value)
    if constant is not None:
        whole = constant.ndim <= 1 and constant.dtype.kind == "i"
        return [int(number) for number in constant.reshape(-1)] if whole else None
    node = value.producer() if value is not None else None
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Shape":
        dims = get_dims(node.inputs[0])
        end = node.attributes.get_int("end")
        return None if dims is None else dims[node.attributes.get_int("start", 0) : end]
    if node.op_type == "Concat":
        parts = [read_vector(part) for part in node.inputs]
        known = [part for part in parts if part is not None]
        return [element for part in known for element in part] if len(known) == len(parts) else None
    first = read_vector(node.inputs[0])
    if first is None:
        return None
    if node.op_type in ("Cast", "Identity", "Squeeze", "Unsqueeze") or (node.op_type == "Reshape" and len(first) == 1):
        return first
    if node.op_type == "Gather":
        return _gather(first, get_constant(node.inputs[1]))
    if node.op_type == "Slice":
        return _slice(first, [get_constant(part) for part in node.inputs[1:]])
    if node.op_type in _ARITHMETIC and len(first) == 1:
        return [_compute(node.op_type, first[0], read_vector(node.inputs[1]))]
    return None


def _gather(elements: list[Dim], indices: npt.NDArray[np.generic] | None) -> list[Dim] | None:
    if indices is None or not all(-len(elements) <= int(index) < len(elements) for index in indices.reshape(-1)):
        return None
    return [elements[int(index)] for index in indices.reshape(-1)]


def _slice(elements: list[Dim], bounds: list[npt.NDArray[np.generic] | None]) -> list[Dim] | None:
    if len(bounds) < 2 or any(bound is None or bound.size != 1 for bound in bounds):
        return None
    start, end, _, step = (*(int(bound.reshape(())) for bound in bounds if bound is not None), 0, 1)[:4]
    return elements[start:end:step] if step > 0 else None


def _compute(op_type: str, first: Dim, others: list[Dim] | None) -> Dim:
    second = others[0] if others is not None and len(others) == 1 else None
    if not isinstance(first, int) or not isinstance(second, int) or (op_type == "Div" and second == 0):
        return None
    return _ARITHMETIC[op_type](first, second)


def _separate_names(graph: ir.Graph) -> None:
    """Give the dimensions of the images names of their own, where an exporter was told one name for several."""
    shape = graph.inputs[0].shape if graph.inputs else None
    symbols = [dim for dim in shape if isinstance(dim, ir.SymbolicDim)] if shape is not None else []
    if shape is None or len(shape) != 4 or len(set(symbols)) == len(symbols):
        return
    named = [dim if isinstance(dim, int) else name for dim, name in zip(shape, _DIM_NAMES, strict=True)]
    graph.inputs[0].shape = ir.Shape(named)
    for value in (value for node in graph for value in node.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) else None for dim in value.shape])
