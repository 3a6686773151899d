"""Let convolutions pad for themselves.

    conv(pad(x, p), pads = q)   becomes   conv(x, pads = p + q)

Matches a Pad with zeros, of height and width alone, that only convolutions read. Exporters write one for ZeroPad2d and
for the "same" padding of TensorFlow. Engines fold it too, but not once a quantizer stands between the two.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from nestforge.compile.passes.pads import add_pads, read_padding


def fold_pads(model: ir.Model) -> int:
    """Rewrite `model` in place; return the number of pads folded."""
    folded = 0
    for pad in list(model.graph):
        padding = read_padding(pad) if pad.op_type == "Pad" else None
        readers = [use.node for use in pad.outputs[0].uses()] if padding is not None and padding.fill == 0 else []
        if padding is None or not readers or not all(_can_pad(node, pad.outputs[0]) for node in readers):
            continue
        for conv in readers:
            add_pads(conv, padding)
        model.graph.remove(pad, safe=True)
        folded += 1
    if folded:
        RemoveUnusedNodesPass()(model)
    return folded


def _can_pad(node: ir.Node, padded: ir.Value) -> bool:
    plain = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return node.op_type == "Conv" and plain and node.inputs[0] is padded and padded not in node.inputs[1:]
