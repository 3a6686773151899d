"""Nodes in an order in which each stands after those it reads, as ONNX asks for and converters do not always write."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx


def sort_nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> bool:
    """Sort the nodes of a graph or function and of its subgraphs, in place; tell whether any moved.

    Nodes that are in order already keep it.

    Raises:
        ValueError: nodes read each other in a circle.
    """
    moved = False
    for node in graph.node:
        for subgraph in list_subgraphs(node):
            moved |= sort_nodes(subgraph)
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    reads = [{producers[name] for name in list_reads(node) if name in producers} for node in graph.node]
    if all(index > max(before, default=-1) for index, before in enumerate(reads)):
        return moved
    readers: list[list[int]] = [[] for _ in reads]
    for index, before in enumerate(reads):
        for producer in before:
            readers[producer].append(index)
    missing = [len(before) for before in reads]
    ready = [index for index, count in enumerate(missing) if count == 0]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(reads):
        raise ValueError("its nodes read each other in a circle")
    nodes = [graph.node[index] for index in order]
    ordered = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(ordered.node)
    return True


def list_subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs that a node such as If carries."""
    return [
        graph
        for attribute in node.attribute
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]


def list_reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, also those that its subgraphs take from around them."""
    yield from node.input
    for graph in list_subgraphs(node):
        for inner in graph.node:
            yield from list_reads(inner)
        yield from (output.name for output in graph.output)
