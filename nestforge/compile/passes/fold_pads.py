"""Let convolutions pad for themselves.

    conv(pad(x, p), pads = q)   becomes   conv(x, pads = p + q)

Matches a Pad with zeros, of height and width alone, that only convolutions read. Exporters write one for ZeroPad2d and
for the "same" padding of TensorFlow. Engines fold it too, but not once a quantizer stands between the two.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def fold_pads(model: ir.Model) -> int:
    """Rewrite `model` in place; return the number of pads folded."""
    folded = 0
    for pad in list(model.graph):
        amounts = _read_amounts(pad) if pad.op_type == "Pad" else None
        readers = [use.node for use in pad.outputs[0].uses()] if amounts else []
        if amounts is None or not readers or not all(_can_pad(node, pad.outputs[0]) for node in readers):
            continue
        for conv in readers:
            own = conv.attributes.get_ints("pads", [0, 0, 0, 0])
            conv.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, amounts, strict=True)])
            conv.replace_input_with(0, pad.inputs[0])
        model.graph.remove(pad, safe=True)
        folded += 1
    if folded:
        RemoveUnusedNodesPass()(model)
    return folded


def _read_amounts(pad: ir.Node) -> list[int] | None:
    """Return a Pad's (top, left, bottom, right); None where it does anything but add zeros there."""
    given = [*pad.inputs, None, None, None]
    if pad.attributes.get_string("mode", "constant") != "constant" or given[3] is not None:
        return None
    amounts, fill = (ir.convenience.get_const_tensor(value) if value is not None else None for value in given[1:3])
    if amounts is None or (given[2] is not None and (fill is None or np.any(fill.numpy() != 0))):
        return None
    sizes = [int(size) for size in amounts.numpy()]
    if len(sizes) != 8 or any(sizes[:2] + sizes[4:6]) or min(sizes) < 0 or pad.outputs[0].is_graph_output():
        return None
    return [sizes[2], sizes[3], sizes[6], sizes[7]]


def _can_pad(node: ir.Node, padded: ir.Value) -> bool:
    plain = node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    return node.op_type == "Conv" and plain and node.inputs[0] is padded and padded not in node.inputs[1:]
