"""Remove operators that change nothing.

    x + 0,  x - 0,  x * 1,  x / 1,  x ** 1,  Identity(x),  Dropout(x),  Cast(x) to its own type, Pad(x) by nothing,
    Reshape(x) to its own shape, Concat of one, ...   become   x

Exporters write down what code does: Python's `sum` begins at 0. Engines fold these away; until then they stand between
nodes that belong together, for our passes and for what is quantized.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from nestforge.compile.passes.shapes import get_constant, get_dims, get_fixed_dims, infer_shapes, read_vector

_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1}
_COMMUTATIVE = ("Add", "Mul")
_OF_ONE_INPUT = ("Concat", "Max", "Mean", "Min", "Sum")
_LARGEST_SIZE = 2**31 - 1
_IDEMPOTENT = ("Abs", "Ceil", "Floor", "Relu", "Round", "Sign")
_WIDER = {  # types that hold every value of another
    ir.DataType.FLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.BFLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.FLOAT: (ir.DataType.DOUBLE,),
    ir.DataType.INT32: (ir.DataType.INT64, ir.DataType.DOUBLE),
}


def remove_noops(model: ir.Model) -> int:
    """Rewrite `model` in place; return the number of operators removed."""
    infer_shapes(model)
    removed = 0
    for node in list(model.graph):
        same = _find_same(node)
        if same is not None and not any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            removed += bypass(model.graph, node, same)
    if removed:
        RemoveUnusedNodesPass()(model)
    return removed


def bypass(graph: ir.Graph, node: ir.Node, value: ir.Value) -> bool:
    """Let `value` stand for the first output of `node` and remove that, unless the graph's outputs need both."""
    output = node.outputs[0]
    if output.is_graph_output():
        if value.producer() is None or value.is_graph_output():
            return False
        value.name, output.name = output.name, f"{output.name}.removed"
        value.type, value.shape = output.type or value.type, output.shape or value.shape
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


def _find_same(node: ir.Node) -> ir.Value | None:
    """Return the input that the first output of `node` always equals, or None."""
    if node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    if node.op_type in _NEUTRAL:
        return _find_operand(node)
    value = node.inputs[0]
    if value is None or value.is_initializer():
        return None
    check = _CHECKS.get(node.op_type)
    if node.op_type == "Identity" or (node.op_type in _OF_ONE_INPUT and len(node.inputs) == 1):
        return value
    if node.op_type in _IDEMPOTENT:
        producer = value.producer()
        return value if producer is not None and producer.op_type == node.op_type else None
    return value if check is not None and check(node, value) else _find_uncast(node, value)


def _find_operand(node: ir.Node) -> ir.Value | None:
    """Return the operand that the other one, a constant, does not change."""
    pairs = [(node.inputs[0], node.inputs[1])]
    if node.op_type in _COMMUTATIVE:
        pairs.append((node.inputs[1], node.inputs[0]))
    for value, other in pairs:
        constant = get_constant(other)
        if value is None or value.is_initializer() or constant is None or not constant.size:
            continue
        if not np.all(constant == _NEUTRAL[node.op_type]):
            continue
        dims = get_fixed_dims(value)
        if constant.ndim == 0 or (dims is not None and _is_broadcast(constant.shape, dims)):
            return value
    return None


def _is_broadcast(shape: tuple[int, ...], dims: list[int | None]) -> bool:
    """Tell whether a constant of `shape` leaves a value of `dims` its shape."""
    if len(shape) > len(dims):
        return False
    pairs = zip(reversed(shape), reversed(dims), strict=False)
    return all(size in (1, dim) for size, dim in pairs)


def _find_uncast(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return what a Cast to a wider type and back began with."""
    first = value.producer()
    if node.op_type != "Cast" or first is None or first.op_type != "Cast" or first.inputs[0] is None:
        return None
    origin = first.inputs[0]
    wide = ir.DataType(first.attributes.get_int("to", 0))
    back = origin.dtype is not None and node.attributes.get_int("to", 0) == origin.dtype
    return origin if back and wide in _WIDER.get(origin.dtype or ir.DataType.UNDEFINED, ()) else None


def _is_inference(node: ir.Node, value: ir.Value) -> bool:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    constant = get_constant(training)
    return training is None or (constant is not None and not constant.any())


def _casts_to_own_type(node: ir.Node, value: ir.Value) -> bool:
    return value.dtype is not None and node.attributes.get_int("to", 0) == value.dtype


def _casts_like_own_type(node: ir.Node, value: ir.Value) -> bool:
    return value.dtype is not None and node.inputs[1] is not None and node.inputs[1].dtype == value.dtype


def _keeps_shape(node: ir.Node, value: ir.Value) -> bool:
    """Tell whether all sizes but one are those of the input: the last is then too, as elements are not lost."""
    dims, target = get_dims(value), read_vector(node.inputs[1])
    if dims is None or target is None or len(target) != len(dims):
        return False
    copies = not node.attributes.get_int("allowzero", 0)
    same = [
        size is not None and (size == dim or (size == 0 and copies)) for size, dim in zip(target, dims, strict=True)
    ]
    return sum(same) >= len(same) - 1 and 0 not in dims


def _keeps_two_dimensions(node: ir.Node, value: ir.Value) -> bool:
    dims = get_dims(value)
    return dims is not None and len(dims) == 2 and node.attributes.get_int("axis", 1) in (1, -1)


def _squeezes_nothing(node: ir.Node, value: ir.Value) -> bool:
    axes = get_constant(node.inputs[1]) if len(node.inputs) > 1 else None
    dims = get_fixed_dims(value)
    if axes is None:
        return len(node.inputs) == 1 and dims is not None and 1 not in dims and None not in dims
    return axes.size == 0


def _permutes_nothing(node: ir.Node, value: ir.Value) -> bool:
    order = node.attributes.get_ints("perm")
    return order is not None and list(order) == list(range(len(order)))


def _slices_nothing(node: ir.Node, value: ir.Value) -> bool:
    bounds = [read_vector(bound) for bound in node.inputs[1:] if bound is not None]
    dims = get_dims(value)
    if dims is None or any(bound is None for bound in bounds) or len(node.inputs) < 3 or None in node.inputs[1:]:
        return False
    starts, ends, *rest = (bound for bound in bounds if bound is not None)
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    whole = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        dim = dims[axis] if isinstance(axis, int) else None
        last = dim if isinstance(dim, int) else _LARGEST_SIZE
        covers = end is not None and (end == dim or (isinstance(end, int) and end >= last))
        whole.append(start == 0 and step == 1 and covers)
    return all(whole)


def _pads_nothing(node: ir.Node, value: ir.Value) -> bool:
    amounts = get_constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return amounts is not None and not amounts.any()


def _expands_nothing(node: ir.Node, value: ir.Value) -> bool:
    dims, target = get_dims(value), read_vector(node.inputs[1])
    if dims is None or target is None or len(target) > len(dims):
        return False
    pairs = zip(reversed(target), reversed(dims), strict=False)
    return all(size is not None and size in (1, dim) for size, dim in pairs)


def _repeats_once(node: ir.Node, value: ir.Value) -> bool:
    repeats = get_constant(node.inputs[1])
    return repeats is not None and bool((repeats == 1).all())


def _resizes_nothing(node: ir.Node, value: ir.Value) -> bool:
    inputs = [*node.inputs, None, None, None]
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return False
    scales, sizes, dims = get_constant(inputs[2]), read_vector(inputs[3]), get_dims(value)
    if inputs[3] is not None:
        return sizes is not None and dims is not None and None not in sizes and sizes == dims
    return scales is not None and bool(scales.size) and bool((scales == 1).all())


def _pools_single_values(node: ir.Node, value: ir.Value) -> bool:
    ones = prod(node.attributes.get_ints("kernel_shape", [0])) == 1 == prod(node.attributes.get_ints("strides", [1]))
    return ones and not any(node.attributes.get_ints("pads", [0]))


def _pools_a_single_value(node: ir.Node, value: ir.Value) -> bool:
    dims = get_fixed_dims(value)
    return dims is not None and len(dims) > 2 and all(dim == 1 for dim in dims[2:])


def _splits_once(node: ir.Node, value: ir.Value) -> bool:
    return len(node.outputs) == 1


def _clips_nothing(node: ir.Node, value: ir.Value) -> bool:
    low, high = (*node.inputs[1:], None, None)[:2]
    ends = [get_constant(end) for end in (low, high)]
    if not node.attributes and low is None and high is None:
        return True
    return bool(
        ends[0] is not None and ends[1] is not None and (ends[0] == -np.inf).all() and (ends[1] == np.inf).all()
    )


_CHECKS: dict[str, Callable[[ir.Node, ir.Value], bool]] = {
    "AveragePool": _pools_single_values,
    "Cast": _casts_to_own_type,
    "CastLike": _casts_like_own_type,
    "Clip": _clips_nothing,
    "Dropout": _is_inference,
    "Expand": _expands_nothing,
    "Flatten": _keeps_two_dimensions,
    "GlobalAveragePool": _pools_a_single_value,
    "GlobalMaxPool": _pools_a_single_value,
    "MaxPool": _pools_single_values,
    "Pad": _pads_nothing,
    "Reshape": _keeps_shape,
    "Resize": _resizes_nothing,
    "Slice": _slices_nothing,
    "Split": _splits_once,
    "Squeeze": _squeezes_nothing,
    "Tile": _repeats_once,
    "Transpose": _permutes_nothing,
}
