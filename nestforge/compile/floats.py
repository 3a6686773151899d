"""Graphs in float16, bfloat16 or float64 become float32: the weights as they are, the arithmetic in 32 bits.

CPUs compute neither half precision nor double precision faster, engines refuse parts of both, and int8 is made from
float32. Widening 16 bits loses nothing; 64 bits are rounded to the nearest float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from nestforge.compile.imageinput import FLOATS, name_dtype
from nestforge.compile.valueshapes import forget_shapes, infer_values

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")
_OTHER_FLOATS = FLOATS - {ir.DataType.FLOAT}


def widen_floats(model: ir.Model) -> tuple[str, ...]:
    """Turn every float type of a graph into float32, in place; return the names of the types there were."""
    graphs = [model.graph, *model.graph.subgraphs()]
    types: set[int | None] = {value.dtype for value in model.graph.inputs}
    types |= {value.dtype for graph in graphs for value in graph.initializers.values()}
    types |= {number for node in model.graph.all_nodes() for number in _list_types(node)}
    found = [dtype for dtype in _OTHER_FLOATS if dtype in types]
    if not found:
        return ()
    infer_values(model)
    _remove_float_casts(model)
    for graph in graphs:
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            _widen_value(value)
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT:
                if attribute.as_int() in _OTHER_FLOATS:
                    node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
            elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _OTHER_FLOATS:
                node.attributes[name] = ir.AttrTensor(name, _widen_tensor(attribute.as_tensor()))
    forget_shapes(model)
    return tuple(sorted(name_dtype(dtype) for dtype in found))


def _list_types(node: ir.Node) -> list[int]:
    """Return the types that a node names."""
    found: list[int] = []
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.TENSOR:
            found.append(int(attribute.as_tensor().dtype))
        elif name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT:
            found.append(attribute.as_int())
    return found


def _widen_value(value: ir.Value) -> None:
    if value.dtype in _OTHER_FLOATS:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    tensor = value.const_value
    if tensor is not None and tensor.dtype in _OTHER_FLOATS:
        value.const_value = _widen_tensor(tensor)


def _widen_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and the build says so
        return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _remove_float_casts(model: ir.Model) -> None:
    """Remove casts from one float type to another: both are float32 soon."""
    for node in list(model.graph.all_nodes()):
        value = node.inputs[0] if (node.domain, node.op_type) == ("", "Cast") else None
        if value is None or value.dtype not in FLOATS or node.attributes.get_int("to") not in FLOATS:
            continue
        result = node.outputs[0]
        if result.is_graph_output():
            if value.is_graph_output() or value.producer() is None:
                continue
            value.name, result.name = result.name, value.name
            value.type = result.type
        ir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
