"""Plots as SVG text, made from plain data. They suit light and dark mode, and a page or a file of their own.

Every plot is `width` units wide and scales to the available space. Series take their colours in the order of `COLOURS`.
Each data mark has the class ``nf-mark`` and a tooltip with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestforge.files import StrPath, atomic_write
from nestforge.pages.canvas import (
    COLOURS,
    Scale,
    count_legend_rows,
    draw_axis_name,
    draw_horizontal_grid,
    draw_point,
    draw_vertical_grid,
    escape,
    format_number,
    place_legend,
    shorten,
    wrap_plot,
)

WIDTH = 400


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its interval, one row of `draw_intervals`."""

    label: str
    value: float
    low: float
    high: float
    colour: int = 0


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of `draw_bars`; `note` is added to its tooltip."""

    label: str
    value: float
    colour: int = 0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A named series of points (x, y), or (x, y, low, high) with whiskers; its colour is its index by default."""

    name: str
    points: Sequence[tuple[float, ...]]
    colour: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Named values whose distribution `draw_histogram` draws; its colour is its index by default."""

    name: str
    values: Sequence[float]
    colour: int | None = None


def draw_intervals(
    title: str, rows: Sequence[Interval], *, axis: str, reference: float | None = None, width: int = WIDTH
) -> str:
    """Draw a point and its interval for each row, one below the other; `reference` draws a line across all rows."""
    left, right, top, row_height = 14, width - 14, 36, 40
    bottom = top + row_height * len(rows)
    ends = [row.low for row in rows] + [row.high for row in rows]
    scale = Scale.over([*ends, *([] if reference is None else [reference])], left + 8, right - 8)
    body = draw_vertical_grid(scale, top, bottom, axis)
    signed = reference == 0  # the values are differences
    decimals = max(scale.decimals + 1, 2)
    if reference is not None:
        x = scale(reference)
        body.append(f'<line class="nf-reference" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
    for index, row in enumerate(rows):
        y = top + row_height * index + 28
        value, low_text, high_text = (
            format_number(number, decimals, signed=signed) for number in (row.value, row.low, row.high)
        )
        numbers = f"{value} [{low_text}, {high_text}]"
        low, middle, high = scale(row.low), scale(row.value), scale(row.high)
        body += [
            f'<g class="nf-mark nf-s{row.colour % len(COLOURS)}"><title>{escape(f"{row.label}: {numbers}")}</title>',
            f'<text class="nf-label nf-halo" x="{left}" y="{y - 11}">'
            f"{escape(shorten(row.label, (right - left - 6.3 * len(numbers)) / 6.6))}</text>",
            f'<text class="nf-number nf-halo" x="{right}" y="{y - 11}" text-anchor="end">{escape(numbers)}</text>',
            f'<path class="nf-stroke" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"/>',
            f'<circle class="nf-fill" cx="{middle:.1f}" cy="{y}" r="4.5"/></g>',
        ]
    return wrap_plot(title, body, width, bottom + 40)


def draw_bars(title: str, bars: Sequence[Bar], *, axis: str, width: int = WIDTH) -> str:
    """Draw horizontal bars from zero, in the order given, with labels on the left and values at the ends."""
    top, row_height = 36, 22
    bottom = top + row_height * len(bars)
    longest = max((len(bar.label) for bar in bars), default=0)
    left = 23 + min(6.8 * longest, 0.4 * width)
    scale = Scale.over([0.0, *(bar.value for bar in bars)], left, width - 58)
    body = draw_vertical_grid(scale, top, bottom, axis)
    zero = scale(0.0)
    for index, bar in enumerate(bars):
        y = top + row_height * index + 4
        end = scale(bar.value)
        value = scale.format(bar.value, extra=1)
        tooltip = f"{bar.label}: {value}" + (f"; {bar.note}" if bar.note else "")
        body += [
            f'<g class="nf-mark nf-s{bar.colour % len(COLOURS)}"><title>{escape(tooltip)}</title>',
            f'<text class="nf-label" x="{left - 8:.1f}" y="{y + 11}" text-anchor="end">'
            f"{escape(shorten(bar.label, (left - 22) / 6.8))}</text>",
            f'<rect class="nf-fill" x="{min(zero, end):.1f}" y="{y}" width="{max(abs(end - zero), 0.8):.1f}" '
            f'height="{row_height - 8}" rx="1.5"/>',
            f'<text class="nf-number nf-halo" x="{max(zero, end) + 5:.1f}" y="{y + 11}">{escape(value)}</text></g>',
        ]
    body.append(f'<line class="nf-axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="{top}" y2="{bottom}"/>')
    return wrap_plot(title, body, width, bottom + 40)


def draw_lines(
    title: str,
    lines: Sequence[Line],
    *,
    x_axis: str,
    y_axis: str,
    doubling: bool = False,
    width: int = WIDTH,
    height: int = 280,
) -> str:
    """Draw lines through points, with y from zero; with `doubling`, x is logarithmic and has a tick at each given x."""
    legend_height = count_legend_rows([line.name for line in lines], width) * 18
    left, right, top, bottom = 52, width - 18, 54 + legend_height, height + legend_height - 44
    xs = sorted({point[0] for line in lines for point in line.points})
    ys = [value for line in lines for point in line.points for value in point[1:]]
    y_scale = Scale.over([0.0, *ys], bottom, top)
    x_scale = Scale.over([math.log2(x) for x in xs] if doubling else xs, left + 10, right - 10, nice=not doubling)

    def scale_x(x: float) -> float:
        return x_scale(math.log2(x) if doubling else x)

    body = draw_horizontal_grid(y_scale, left, right, y_axis, top)
    for x in xs if doubling else x_scale.ticks:
        label = f"{x:g}" if doubling else x_scale.format(x)
        body.append(f'<text class="nf-tick" x="{scale_x(x):.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    body.append(draw_axis_name(x_axis, (left + right) / 2, bottom + 34))
    body += _draw_legend(lines, width)
    for index, line in enumerate(lines):
        style = _choose_style(line, index)
        path = " ".join(f"{scale_x(point[0]):.1f},{y_scale(point[1]):.1f}" for point in line.points)
        body += [f'<g class="nf-s{style % len(COLOURS)}">', f'<polyline class="nf-stroke" points="{path}"/>']
        for point in line.points:
            x, y = scale_x(point[0]), y_scale(point[1])
            numbers = y_scale.format(point[1], extra=1)
            whisker = ""
            if len(point) > 2:
                low, high = y_scale(point[2]), y_scale(point[3])
                numbers += f" [{y_scale.format(point[2], extra=1)}, {y_scale.format(point[3], extra=1)}]"
                whisker = f'<path class="nf-thin" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
            tooltip = f"{line.name}: {x_axis} {point[0]:g}, {y_axis} {numbers}"
            body.append(f'<g class="nf-mark"><title>{escape(tooltip)}</title>{whisker}{draw_point(style, x, y)}</g>')
        body.append("</g>")
    return wrap_plot(title, body, width, height + legend_height)


def draw_histogram(
    title: str, samples: Sequence[Sample], *, axis: str, bins: int = 60, width: int = WIDTH, height: int = 280
) -> str:
    """Draw the distribution of each sample as a share of its values by bin, with its median.

    The axis ends at the highest 99th percentile or at three medians, whichever is less, because a few outliers would
    compress all the rest. The tooltip gives the share beyond the end.
    """
    legend_height = count_legend_rows([sample.name for sample in samples], width) * 18
    left, right, top, bottom = 52, width - 18, 54 + legend_height, height + legend_height - 44
    ordered = [sorted(sample.values) for sample in samples]
    start = min(values[0] for values in ordered)
    end = max(min(values[int(0.99 * len(values))], 3 * values[len(values) // 2]) for values in ordered)
    end = end if end > start else start + max(abs(start), 1.0) * 0.01
    step = (end - start) / bins
    shares = []
    for values in ordered:
        row = [0] * (bins + 1)  # the last one: beyond the axis
        for value in values:
            row[bins if value > end else min(int((value - start) / step), bins - 1)] += 1
        shares.append([count / len(values) for count in row])
    x_scale = Scale.over([start, end], left, right, nice=False)
    y_scale = Scale.over([0.0, 100 * max(max(row[:bins]) for row in shares)], bottom, top)
    body = draw_horizontal_grid(y_scale, left, right, "requests (%)", top)
    for tick in x_scale.ticks:
        body.append(
            f'<text class="nf-tick" x="{x_scale(tick):.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{x_scale.format(tick)}</text>"
        )
    body.append(draw_axis_name(axis, (left + right) / 2, bottom + 34))
    body += _draw_legend(samples, width)
    for index, (sample, values, heights) in enumerate(zip(samples, ordered, shares, strict=True)):
        tops = [y_scale(100 * share) for share in heights[:bins]]
        edges = [x_scale(start + step * number) for number in range(bins + 1)]
        steps = "".join(f"V{y:.1f}H{edge:.1f}" for y, edge in zip(tops, edges[1:], strict=True))
        median = values[len(values) // 2]
        beyond = f", {heights[bins]:.1%} beyond {x_scale.format(end, extra=1)}" if heights[bins] else ""
        tooltip = f"{sample.name}: {len(values):,} values, median {x_scale.format(median, extra=2)}{beyond}"
        body += [
            f'<g class="nf-mark nf-s{_choose_style(sample, index) % len(COLOURS)}"><title>{escape(tooltip)}</title>',
            f'<path class="nf-area" d="M{edges[0]:.1f} {bottom}{steps}V{bottom}Z"/>',
            f'<path class="nf-outline" d="M{edges[0]:.1f} {bottom}{steps}V{bottom}"/>',
            f'<path class="nf-median" d="M{x_scale(median):.1f} {bottom}V{top}"/></g>',
        ]
    return wrap_plot(title, body, width, height + legend_height)


def write_svg(svg: str, path: StrPath) -> None:
    """Write a plot as a file of its own, atomically."""
    with atomic_write(Path(path)) as partial:
        partial.write_text(svg + "\n", encoding="utf-8")


def _draw_legend(series: Sequence[Line | Sample], width: float) -> list[str]:
    if len(series) < 2:
        return []
    body = []
    for index, (x, row, text) in enumerate(place_legend([entry.name for entry in series], width)):
        style = _choose_style(series[index], index)
        body.append(
            f'<g class="nf-s{style % len(COLOURS)}">{draw_point(style, x + 5, 37.0 + 18 * row)}'
            f'<text class="nf-label" x="{x + 15:.1f}" y="{41 + 18 * row}">{escape(text)}</text></g>'
        )
    return body


def _choose_style(series: Line | Sample, index: int) -> int:
    """Return the style number; with 6 colours and 4 shapes, a dozen series differ in colour or shape."""
    return index if series.colour is None else series.colour
