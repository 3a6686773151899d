"""Operators that no build can use: of a network in training, and of other domains than ONNX's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from nestforge.errors import EngineError, ModelError

_OWN_DOMAINS = ("", "ai.onnx")
_TRAINING_OPSET = 14  # from which on an attribute says that a batch norm is in training; before, its outputs did
_SIZES = ("Shape", "Size")


def refuse_training(proto: onnx.ModelProto) -> None:
    """Refuse a network that was exported in training mode; its nodes are sorted.

    Batch norms of weights, which some networks standardise so, do not count.

    Raises:
        ModelError: a batch norm or dropout of activations is in training mode.
    """
    opset = max((entry.version for entry in proto.opset_import if entry.domain in _OWN_DOMAINS), default=0)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    dependent = {value.name for value in proto.graph.input} - initializers
    for node in proto.graph.node:
        if node.op_type in _SIZES or dependent.isdisjoint(node.input):
            continue
        dependent.update(node.output)
        if node.domain not in _OWN_DOMAINS:
            continue
        if node.op_type == "BatchNormalization" and _norms_batch(node, opset):
            raise ModelError(
                f"{_describe(node)} is in training mode: the scores of an image would depend on the others in its "
                "batch; call model.eval() and export it again"
            )
        if node.op_type == "Dropout" and _drops(node, proto.graph):
            raise ModelError(
                f"{_describe(node)} is in training mode: the scores of an image would depend on chance; call "
                "model.eval() and export it again"
            )


@contextmanager
def name_foreign_operators(model: ir.Model) -> Iterator[None]:
    """Say that a graph has operators of other domains where it cannot be used, which is then why.

    Raises:
        ModelError: in place of a ModelError or an EngineError inside.
    """
    try:
        yield
    except (ModelError, EngineError) as error:
        refuse_foreign_operators(model, reason=str(error))
        raise


def refuse_foreign_operators(model: ir.Model, *, reason: str = "") -> None:
    """Refuse a graph with operators of other domains than ONNX's own; `reason` is what came of them.

    Raises:
        ModelError: it has one.
    """
    foreign = [node for node in model.graph.all_nodes() if node.domain not in _OWN_DOMAINS]
    if not foreign:
        return
    first = foreign[0]
    kinds = {(node.domain, node.op_type) for node in foreign}
    others = f" and {len(kinds) - 1} other{'s' * (len(kinds) > 2)}" if len(kinds) > 1 else ""
    if first.domain.startswith("com.microsoft"):
        remedy = "ONNX Runtime writes it into the graphs that it optimises: build from the file before that"
    else:
        remedy = "export the model with operators of ONNX alone"
    raise ModelError(
        f"operator {first.op_type[:100]} of domain {first.domain[:100]!r} (node {str(first.name)[:100]!r}){others} is "
        f"not one of ONNX's own; {remedy}" + (f" ({reason})" if reason else "")
    )


def _norms_batch(node: onnx.NodeProto, opset: int) -> bool:
    if opset < _TRAINING_OPSET:
        return sum(bool(name) for name in node.output) > 1
    return any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)


def _drops(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Tell whether a dropout is told to be in training mode by a constant, and drops anything."""
    ratio, training = (*node.input[1:], "", "")[:2]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for other in graph.node:
        if other.op_type == "Constant" and other.output[0] in (ratio, training):
            constants.update((other.output[0], given.t) for given in other.attribute if given.name == "value")
    if training not in constants or not onnx.numpy_helper.to_array(constants[training]).any():
        return False
    return ratio not in constants or bool(onnx.numpy_helper.to_array(constants[ratio]).any())


def _describe(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {(node.name or node.output[0])[:100]!r}"
