"""Sensitivity and bounded builds as tables, and sensitivity as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape as escape_xml

from rich.console import Console

from nestforge.tables.layout import make_grid

if TYPE_CHECKING:
    from nestforge.compile.artifact import BoundRecord
    from nestforge.explain.sensitivity import Sensitivity

ROW_HEIGHT, LABEL_WIDTH, BAR_WIDTH, MARGIN = 18, 250, 420, 24


def show_sensitivity(result: Sensitivity, console: Console) -> None:
    columns = (
        "layer, worst first",
        "kind",
        "MACs",
        "time",
        "alone dB",
        "flips",
        "spared dB",
        "gain",
        "flips",
        "range",
        "clipped",
    )
    rows = [
        (
            layer.name,
            layer.kind,
            f"{layer.macs_share:.1%}",
            "-" if layer.time_share is None else f"{layer.time_share:.1%}",
            f"{layer.alone_sqnr_db:.1f}",
            str(layer.alone_flips),
            f"{layer.spared_sqnr_db:.2f}",
            f"{layer.spared_sqnr_db - result.total_sqnr_db:+.2f}",
            str(layer.spared_flips),
            f"{layer.range_low:.3g} to {layer.range_high:.3g}",
            f"{layer.clipped_share:.1e}",
        )
        for layer in result.layers
    ]
    title = (
        f"{result.artifact_or_config}: all in int8 {result.total_sqnr_db:.2f} dB, {result.total_flips} flips "
        f"of {result.images} images"
    )
    console.print(make_grid(title, columns, rows))
    console.print(
        f"alone: only this layer in int8; spared: all but this one. {result.seconds:.0f} s"
        + ("" if result.complete else f"; [yellow]interrupted after {len(result.layers)} layers[/]"),
        highlight=False,
    )


def show_bound(bound: BoundRecord, console: Console) -> None:
    rows = [
        (
            str(len(point.spared)),
            f"{100 * point.drop:+.2f}",
            f"{100 * point.drop_high:+.2f}",
            f"{point.lost} / {point.gained}",
            str(point.answers_changed),
            f"{point.throughput_ips:.1f}",
            f"{point.kept_speed:.1%}",
            "chosen" if point.spared == bound.spared else "",
        )
        for point in bound.frontier
    ]
    columns = ("layers spared", "drop pp", "at most (95%)", "lost / gained", "changed", "images/s", "speed kept", "")
    title = f"drop within {bound.max_drop_pp:g} pp on {bound.images:,} images of {bound.validation}"
    console.print(make_grid(title, columns, rows))
    if bound.spared:
        console.print(f"in float: {', '.join(bound.spared)}", highlight=False, markup=False)


def draw_sensitivity(result: Sensitivity) -> str:
    """Return an SVG with a bar a layer: the noise it brings alone, as a share of the noisiest layer's."""
    noise = [10 ** (-layer.alone_sqnr_db / 10) for layer in result.layers]
    largest = max(noise, default=1.0)
    width = LABEL_WIDTH + BAR_WIDTH + 130
    height = 2 * MARGIN + 16 + ROW_HEIGHT * len(noise)
    title = (
        f"{result.artifact_or_config}: noise of each layer in int8 alone; all together {result.total_sqnr_db:.1f} dB"
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape_xml(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="{MARGIN}" font-weight="bold">{escape_xml(title)}</text>',
    ]
    for place, (layer, value) in enumerate(zip(result.layers, noise, strict=True)):
        y = MARGIN + 16 + ROW_HEIGHT * place
        length = max(BAR_WIDTH * value / largest, 0.5)
        time = "" if layer.time_share is None else f", {layer.time_share:.1%} of the time"
        lines += [
            f'<text x="{LABEL_WIDTH - 8}" y="{y + 13}" text-anchor="end">{escape_xml(layer.name[-38:])}</text>',
            f'<rect x="{LABEL_WIDTH}" y="{y + 3}" width="{length:.1f}" height="{ROW_HEIGHT - 5}" fill="#3b6ea5"/>',
            f'<text x="{LABEL_WIDTH + length + 6:.1f}" y="{y + 13}">{layer.alone_sqnr_db:.1f} dB{time}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
