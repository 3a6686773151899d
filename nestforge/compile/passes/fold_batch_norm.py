"""Fold each batch norm into the convolution before it.

    conv(x, w, b) -> batch_norm(gamma, beta, mean, var)   becomes   conv(x, w * s, (b - mean) * s + beta)
    with s = gamma / sqrt(var + epsilon), per output channel.

Matches a BatchNormalization whose only input is a Conv that nothing else reads, both with constant parameters.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from nestforge.compile.constants import add_initializer


def fold_batch_norm(model: ir.Model) -> int:
    """Rewrite `model` in place; return the number of batch norms folded."""
    folded = 0
    for norm in list(model.graph):
        if norm.op_type != "BatchNormalization":
            continue
        conv = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if conv is None or conv.op_type != "Conv" or len(conv.outputs[0].uses()) != 1:
            continue
        if conv.outputs[0].is_graph_output():
            continue
        constants = [ir.convenience.get_const_tensor(value) for value in (conv.inputs[1], *norm.inputs[1:5]) if value]
        if len(constants) != 5 or any(constant is None for constant in constants):
            continue
        weight, gamma, beta, mean, variance = (
            constant.numpy().astype(np.float64) for constant in constants if constant is not None
        )
        bias = np.zeros(len(weight))
        if len(conv.inputs) > 2 and conv.inputs[2] is not None:
            tensor = ir.convenience.get_const_tensor(conv.inputs[2])
            if tensor is None:
                continue
            bias = tensor.numpy().astype(np.float64)
        scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
        _replace_pair(
            model.graph,
            conv,
            norm,
            weight * scale.reshape(-1, *[1] * (weight.ndim - 1)),
            (bias - mean) * scale + beta,
        )
        folded += 1
    if folded:
        RemoveUnusedNodesPass()(model)
    return folded


def _replace_pair(graph: ir.Graph, conv: ir.Node, norm: ir.Node, weight: np.ndarray, bias: np.ndarray) -> None:
    name = conv.name or conv.outputs[0].name
    parameters = [
        add_initializer(graph, f"{name}.folded_{leaf}", array.astype(np.float32))
        for leaf, array in (("weight", weight), ("bias", bias))
    ]
    folded = ir.Node("", "Conv", [conv.inputs[0], *parameters], list(conv.attributes.values()), name=name)
    output = folded.outputs[0]
    output.name, output.type, output.shape = norm.outputs[0].name, norm.outputs[0].type, norm.outputs[0].shape
    graph.insert_before(norm, folded)
    ir.convenience.replace_all_uses_with(norm.outputs[0], output, replace_graph_outputs=True)
    graph.remove([norm, conv], safe=True)
