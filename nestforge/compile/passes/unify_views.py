"""Write views and global means in one way, whoever exported the graph.

    Reshape(x, computed sizes)               becomes   Reshape(x, [0, ..., -1, ...])   where the sizes allow it
    Reshape(Reshape(x, a), b)                becomes   Reshape(x, b)                   also behind Flatten, Squeeze, ...
    Reshape(x, [0, -1])                      becomes   Flatten(x)
    ReduceMean(x) over height and width      becomes   GlobalAveragePool(x)            with a Flatten where they go
    Transpose(Transpose(x, a), b)            becomes   Transpose(x, a then b)

PyTorch's two exporters write the same view in different ways, and ask activations for sizes that never change.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from nestforge.compile.constants import add_initializer
from nestforge.compile.passes.remove_noops import bypass, remove_noops
from nestforge.compile.passes.shapes import get_constant, get_dims, get_fixed_dims, infer_shapes, read_vector

_VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_POOLS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
_REWRITTEN = (*_VIEWS, *_POOLS, "AveragePool", "Transpose")


def unify_views(model: ir.Model) -> int:
    """Rewrite `model` in place; return the number of views and means rewritten."""
    if not any(node.op_type in _REWRITTEN for node in model.graph):
        return 0
    infer_shapes(model)
    rewritten = 0
    for node in list(model.graph):
        if node.op_type == "Reshape":
            rewritten += _fix_sizes(model.graph, node)
            rewritten += _skip_views(node)
        if node.op_type in ("Reshape", "Squeeze"):
            rewritten += _flatten(model.graph, node)
        elif node.op_type in _POOLS or node.op_type == "AveragePool":
            rewritten += _pool(model.graph, node)
        elif node.op_type == "Transpose":
            rewritten += _merge_transposes(model.graph, node)
    if rewritten:
        RemoveUnusedNodesPass()(model)
        remove_noops(model)
    return rewritten


def _fix_sizes(graph: ir.Graph, node: ir.Node) -> bool:
    """Make the sizes of a Reshape constant: 0 where the input has that size at the same position, and one -1."""
    dims, target = get_dims(node.inputs[0]), read_vector(node.inputs[1])
    if target is None or dims is None or get_constant(node.inputs[1]) is not None:
        return False
    if 0 in target and node.attributes.get_int("allowzero", 0) != 0:
        return False
    sizes: list[int] = []
    for position, size in enumerate(target):
        symbol = isinstance(size, ir.SymbolicDim)
        copied = symbol and position < len(dims) and dims[position] == size
        sizes.append(0 if copied else size if isinstance(size, int) else -1)
    if sizes.count(-1) > 1:
        return False
    node.attributes.pop("allowzero", None)
    node.replace_input_with(1, add_initializer(graph, f"{node.outputs[0].name}.sizes", np.array(sizes, np.int64)))
    return True


def _read_sizes(node: ir.Node) -> list[int] | None:
    """Return the constant sizes of a Reshape, in which 0 copies a dimension; None where it has none such."""
    constant = get_constant(node.inputs[1])
    if constant is None or (node.attributes.get_int("allowzero", 0) != 0 and not constant.all()):
        return None
    return [int(size) for size in constant]


def _skip_views(node: ir.Node) -> bool:
    """Let a Reshape read what the views before it were made of, as far as its sizes mean the same there."""
    sizes = _read_sizes(node)
    skipped = False
    while sizes is not None:
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is None or before.op_type not in _VIEWS or before.inputs[0] is None:
            break
        copied = {position for position, size in enumerate(sizes) if size == 0}
        if not copied <= {0} or (copied and not _keeps_first(before)):
            break
        node.replace_input_with(0, before.inputs[0])
        skipped = True
    return skipped


def _keeps_first(view: ir.Node) -> bool:
    """Tell whether the first dimension of a view is that of its input."""
    before, after = get_dims(view.inputs[0]), get_dims(view.outputs[0])
    if before and after and before[0] is not None and before[0] == after[0]:
        return True
    if view.op_type == "Flatten":
        return view.attributes.get_int("axis", 1) == 1
    sizes = _read_sizes(view) if view.op_type == "Reshape" else None
    return sizes is not None and sizes[:1] == [0]


def _flatten(graph: ir.Graph, node: ir.Node) -> bool:
    """Write a view of (B, ...) as (B, the rest) as Flatten."""
    value = node.inputs[0]
    dims = get_dims(value)
    if value is None or dims is None or len(dims) < 3 or not _is_flat(node, dims):
        return False
    _replace(graph, node, ir.node("Flatten", [value], {"axis": 1}, name=node.name))
    return True


def _is_flat(node: ir.Node, dims: list[int | ir.SymbolicDim | None]) -> bool:
    rest = dims[1:]
    if node.op_type == "Squeeze":
        axes = get_constant(node.inputs[1]) if len(node.inputs) > 1 else None
        positions = sorted(int(axis) % len(dims) for axis in axes) if axes is not None else []
        return positions == list(range(2, len(dims)))
    sizes = _read_sizes(node)
    if sizes is None or len(sizes) != 2:
        return False
    first, second = sizes
    keeps_batch = first == 0 or (first > 0 and first == dims[0])
    whole = prod(dim for dim in rest if isinstance(dim, int)) if all(isinstance(dim, int) for dim in rest) else None
    return (keeps_batch and second in (-1, whole)) or (first == -1 and second == whole)


def _pool(graph: ir.Graph, node: ir.Node) -> bool:
    """Write a mean or maximum over all of height and width as a global pool."""
    value = node.inputs[0]
    dims = get_fixed_dims(value)
    if value is None or dims is None or len(dims) != 4 or node.outputs[0].is_graph_output():
        return False
    if node.op_type == "AveragePool":
        whole = list(node.attributes.get_ints("kernel_shape", [])) == dims[2:] and None not in dims[2:]
        if not whole or any(node.attributes.get_ints("pads", [0])) or "auto_pad" in node.attributes:
            return False
        _replace(graph, node, ir.node("GlobalAveragePool", [value], name=node.name))
        return True
    axes = node.attributes.get_ints("axes")
    if axes is None and len(node.inputs) > 1:
        constant = get_constant(node.inputs[1])
        axes = None if constant is None else [int(axis) for axis in constant]
    if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        return False
    pool = ir.node(_POOLS[node.op_type], [value], name=node.name)
    if node.attributes.get_int("keepdims", 1) != 0:
        _replace(graph, node, pool)
        return True
    graph.insert_before(node, pool)
    pool.outputs[0].name = f"{node.outputs[0].name}.pooled"
    _replace(graph, node, ir.node("Flatten", [pool.outputs[0]], {"axis": 1}, name=f"{node.name}.flatten"))
    return True


def _merge_transposes(graph: ir.Graph, node: ir.Node) -> bool:
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or before.op_type != "Transpose" or before.inputs[0] is None:
        return False
    first, second = before.attributes.get_ints("perm"), node.attributes.get_ints("perm")
    if first is None or second is None:
        return False
    merged = [first[axis] for axis in second]
    if merged == list(range(len(merged))):
        return bypass(graph, node, before.inputs[0])
    _replace(graph, node, ir.node("Transpose", [before.inputs[0]], {"perm": merged}, name=node.name))
    return True


def _replace(graph: ir.Graph, node: ir.Node, other: ir.Node) -> None:
    """Let another node stand for `node`, with the name and the type of its output."""
    old, new = node.outputs[0], other.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_before(node, other)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
