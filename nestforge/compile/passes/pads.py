"""What a Pad adds, in whatever way it is told."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from nestforge.compile.passes.shapes import get_constant


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Rows and columns of one number around the maps of (B, C, H, W)."""

    amounts: tuple[int, int, int, int]  # top, left, bottom, right
    fill: float


def read_padding(pad: ir.Node) -> Padding | None:
    """Return what a Pad adds to height and width; None where it does anything else, or its result is an output."""
    _, pads, fill, axes = [*pad.inputs, None, None, None][:4]
    if pad.attributes.get_string("mode", "constant") != "constant" or pad.outputs[0].is_graph_output():
        return None
    amounts, number, chosen = get_constant(pads), get_constant(fill), get_constant(axes)
    if amounts is None or (fill is not None and number is None) or (axes is not None and chosen is None):
        return None
    sizes = [int(size) for size in amounts.reshape(-1)]
    places = list(range(4)) if chosen is None else [int(axis) % 4 for axis in chosen.reshape(-1)]
    if len(sizes) != 2 * len(places) or min(sizes, default=0) < 0:
        return None
    before, after = [0] * 4, [0] * 4
    for index, place in enumerate(places):
        before[place], after[place] = sizes[index], sizes[index + len(places)]
    if any((*before[:2], *after[:2])):
        return None
    value = float(number.reshape(-1)[0]) if number is not None and number.size else 0.0
    return Padding(amounts=(before[2], before[3], after[2], after[3]), fill=value)


def add_pads(node: ir.Node, padding: Padding) -> None:
    """Let a convolution or pool pad by that much more, and read what the Pad before it read."""
    own = node.attributes.get_ints("pads", [0, 0, 0, 0])
    sums = [a + b for a, b in zip(own, padding.amounts, strict=True)]
    node.attributes["pads"] = ir.AttrInt64s("pads", sums)
    node.attributes.pop("auto_pad", None)  # "VALID", which says that there are none
    pad = node.inputs[0].producer() if node.inputs[0] is not None else None
    assert pad is not None
    node.replace_input_with(0, pad.inputs[0])
