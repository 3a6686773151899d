"""Model-local functions of an ONNX file: nodes whose definition the file brings along, replaced by what they do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx
import onnx.inliner

MAX_NODES = 1 << 20  # of a model whose functions are inlined: functions that call functions can be of any size

Key = tuple[str, str, str]  # domain, name, overload


def inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without model-local functions that computes the same.

    Raises:
        ValueError: a function calls itself, or the result would have over `MAX_NODES` nodes.
    """
    if not proto.functions:
        return proto
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    sizes: dict[Key, int] = {}
    if count_nodes(proto.graph.node, functions, sizes, ()) > MAX_NODES:
        raise ValueError(f"its functions stand for over {MAX_NODES:,} nodes")
    return onnx.inliner.inline_local_functions(proto, convert_version=True)


def count_nodes(
    nodes: Iterable[onnx.NodeProto],
    functions: Mapping[Key, onnx.FunctionProto],
    sizes: dict[Key, int],
    calling: tuple[Key, ...],
) -> int:
    """Return how many nodes `nodes` are once all functions are inlined; `sizes` keeps those of functions.

    Raises:
        ValueError: a function calls itself.
    """
    total = 0
    for node in _list_nodes(nodes):
        key = (node.domain, node.op_type, node.overload)
        if key in calling:
            raise ValueError(f"its function {node.op_type[:100]!r} calls itself")
        if key in functions and key not in sizes:
            sizes[key] = count_nodes(functions[key].node, functions, sizes, (*calling, key))
        total += sizes.get(key, 1)
    return total


def _list_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of their subgraphs."""
    left = list(nodes)
    while left:
        node = left.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                left += graph.node
