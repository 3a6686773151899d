"""Let max pools pad for themselves.

    max_pool(pad(x, p, -inf), pads = q)   becomes   max_pool(x, pads = p + q)

What a pool adds itself is never its maximum. So is what is filled in before it, where that is no more than any x: the
lowest float, or 0 behind a ReLU. Exporters write such a Pad for the "same" padding of TensorFlow and timm; its numbers
would widen the range that x is quantized over to all that float32 can hold.

Matches a Pad of height and width alone that only max pools read, whose windows all see some of x.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from nestforge.compile.passes.pads import Padding, add_pads, read_padding
from nestforge.compile.passes.shapes import get_constant

LOWEST = -65504.0  # of float16, whose models fill in this
_AT_LEAST_ZERO = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus")
_MOVES = ("AveragePool", "Dropout", "Identity", "MaxPool", "Split")


def fold_pool_pads(model: ir.Model) -> int:
    """Rewrite `model` in place; return the number of pads folded."""
    folded = 0
    for pad in list(model.graph):
        padding = read_padding(pad) if pad.op_type == "Pad" else None
        readers = [use.node for use in pad.outputs[0].uses()] if padding is not None else []
        if padding is None or not readers or not all(_can_pad(node, padding) for node in readers):
            continue
        if padding.fill > LOWEST and not (padding.fill <= 0 and _is_at_least_zero(pad.inputs[0])):
            continue
        for pool in readers:
            add_pads(pool, padding)
        model.graph.remove(pad, safe=True)
        folded += 1
    if folded:
        RemoveUnusedNodesPass()(model)
    return folded


def _can_pad(node: ir.Node, padding: Padding) -> bool:
    plain = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if node.op_type != "MaxPool" or not plain or len(node.outputs) > 1 or node.attributes.get_int("ceil_mode", 0) != 0:
        return False
    kernel = list(node.attributes.get_ints("kernel_shape", []))
    own = node.attributes.get_ints("pads", [0] * 4)
    return len(kernel) == 2 and all(
        amount + other < size for amount, other, size in zip(padding.amounts, own, kernel * 2, strict=True)
    )


def _is_at_least_zero(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _MOVES:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None:
        return False
    low = get_constant(node.inputs[1]) if node.op_type == "Clip" and len(node.inputs) > 1 else None
    return node.op_type in _AT_LEAST_ZERO or (low is not None and low.size == 1 and float(low.reshape(())) >= 0)
