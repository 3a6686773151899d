"""Plots as SVG text: plain data in, one picture out, in light and dark, in a page or as a file of its own.

Every plot is drawn for `width` units and scales with the space it gets. Series keep the order of `COLOURS`. Each mark
of the data has the class ``nf-mark`` and a tooltip that says its numbers.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestforge.files import StrPath, write_file_aside

WIDTH = 400
# one hue a series, light and dark; told apart in the common colour blindnesses, and never by colour alone
COLOURS = (
    ("#2b67ab", "#7fb2ea"),
    ("#c2591b", "#ee9f6d"),
    ("#23805c", "#68c9a0"),
    ("#7a4fb5", "#bfa1ee"),
    ("#b0336f", "#ee8fbb"),
    ("#5c6672", "#aab4c0"),
)
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


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
    """A named series of points (x, y), or (x, y, low, high) with whiskers; its colour is its place by default."""

    name: str
    points: Sequence[tuple[float, ...]]
    colour: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Named values whose distribution `draw_histogram` draws; their colour is their place by default."""

    name: str
    values: Sequence[float]
    colour: int | None = None


def draw_intervals(
    title: str, rows: Sequence[Interval], *, axis: str, reference: float | None = None, width: int = WIDTH
) -> str:
    """Draw a point and its interval for each row, one below the other; `reference` is a line across all of them."""
    left, right, top, row_height = 14, width - 14, 36, 40
    bottom = top + row_height * len(rows)
    ends = [row.low for row in rows] + [row.high for row in rows]
    scale = _Scale.over([*ends, *([] if reference is None else [reference])], left + 8, right - 8)
    body = _draw_vertical_grid(scale, top, bottom, axis)
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
            f'<g class="nf-mark nf-s{row.colour % len(COLOURS)}"><title>{_escape(f"{row.label}: {numbers}")}</title>',
            f'<text class="nf-label nf-halo" x="{left}" y="{y - 11}">'
            f"{_escape(shorten(row.label, (right - left - 6.3 * len(numbers)) / 6.6))}</text>",
            f'<text class="nf-number nf-halo" x="{right}" y="{y - 11}" text-anchor="end">{_escape(numbers)}</text>',
            f'<path class="nf-stroke" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"/>',
            f'<circle class="nf-fill" cx="{middle:.1f}" cy="{y}" r="4.5"/></g>',
        ]
    return _wrap(title, body, width, bottom + 40)


def draw_bars(title: str, bars: Sequence[Bar], *, axis: str, width: int = WIDTH) -> str:
    """Draw horizontal bars from zero, in the order given, with labels at the left and values at the ends."""
    top, row_height = 36, 22
    bottom = top + row_height * len(bars)
    longest = max((len(bar.label) for bar in bars), default=0)
    left = 23 + min(6.8 * longest, 0.4 * width)
    scale = _Scale.over([0.0, *(bar.value for bar in bars)], left, width - 58)
    body = _draw_vertical_grid(scale, top, bottom, axis)
    zero = scale(0.0)
    for index, bar in enumerate(bars):
        y = top + row_height * index + 4
        end = scale(bar.value)
        value = scale.format(bar.value, extra=1)
        tooltip = f"{bar.label}: {value}" + (f"; {bar.note}" if bar.note else "")
        body += [
            f'<g class="nf-mark nf-s{bar.colour % len(COLOURS)}"><title>{_escape(tooltip)}</title>',
            f'<text class="nf-label" x="{left - 8:.1f}" y="{y + 11}" text-anchor="end">'
            f"{_escape(shorten(bar.label, (left - 22) / 6.8))}</text>",
            f'<rect class="nf-fill" x="{min(zero, end):.1f}" y="{y}" width="{max(abs(end - zero), 0.8):.1f}" '
            f'height="{row_height - 8}" rx="1.5"/>',
            f'<text class="nf-number nf-halo" x="{max(zero, end) + 5:.1f}" y="{y + 11}">{_escape(value)}</text></g>',
        ]
    body.append(f'<line class="nf-axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="{top}" y2="{bottom}"/>')
    return _wrap(title, body, width, bottom + 40)


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
    """Draw lines through points, from zero upwards; with `doubling`, x is logarithmic and ticks are the x given."""
    legend_height = _count_legend_rows([line.name for line in lines], width) * 18
    left, right, top, bottom = 52, width - 18, 54 + legend_height, height + legend_height - 44
    xs = sorted({point[0] for line in lines for point in line.points})
    ys = [value for line in lines for point in line.points for value in point[1:]]
    y_scale = _Scale.over([0.0, *ys], bottom, top)
    x_scale = _Scale.over([math.log2(x) for x in xs] if doubling else xs, left + 10, right - 10, nice=not doubling)

    def place(x: float) -> float:
        return x_scale(math.log2(x) if doubling else x)

    body = _draw_horizontal_grid(y_scale, left, right, y_axis, top)
    for x in xs if doubling else x_scale.ticks:
        label = f"{x:g}" if doubling else x_scale.format(x)
        body.append(f'<text class="nf-tick" x="{place(x):.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    body.append(_draw_axis_name(x_axis, (left + right) / 2, bottom + 34))
    body += _draw_legend(lines, width)
    for index, line in enumerate(lines):
        colour = _choose_colour(line, index)
        path = " ".join(f"{place(point[0]):.1f},{y_scale(point[1]):.1f}" for point in line.points)
        body += [f'<g class="nf-s{colour}">', f'<polyline class="nf-stroke" points="{path}"/>']
        for point in line.points:
            x, y = place(point[0]), y_scale(point[1])
            numbers = y_scale.format(point[1], extra=1)
            whisker = ""
            if len(point) > 2:
                low, high = y_scale(point[2]), y_scale(point[3])
                numbers += f" [{y_scale.format(point[2], extra=1)}, {y_scale.format(point[3], extra=1)}]"
                whisker = f'<path class="nf-thin" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
            tooltip = f"{line.name}: {x_axis} {point[0]:g}, {y_axis} {numbers}"
            body.append(f'<g class="nf-mark"><title>{_escape(tooltip)}</title>{whisker}{_draw_point(colour, x, y)}</g>')
        body.append("</g>")
    return _wrap(title, body, width, height + legend_height)


def draw_histogram(
    title: str, samples: Sequence[Sample], *, axis: str, bins: int = 60, width: int = WIDTH, height: int = 280
) -> str:
    """Draw the distribution of each sample as a share of its values by bin, with its median.

    The axis ends at the highest 99th percentile or three medians, whichever is less: a few stragglers would squash all
    the rest. The tooltip says how much lies beyond.
    """
    legend_height = _count_legend_rows([sample.name for sample in samples], width) * 18
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
    x_scale = _Scale.over([start, end], left, right, nice=False)
    y_scale = _Scale.over([0.0, 100 * max(max(row[:bins]) for row in shares)], bottom, top)
    body = _draw_horizontal_grid(y_scale, left, right, "requests (%)", top)
    for tick in x_scale.ticks:
        body.append(
            f'<text class="nf-tick" x="{x_scale(tick):.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{x_scale.format(tick)}</text>"
        )
    body.append(_draw_axis_name(axis, (left + right) / 2, bottom + 34))
    body += _draw_legend(samples, width)
    for index, (sample, values, heights) in enumerate(zip(samples, ordered, shares, strict=True)):
        tops = [y_scale(100 * share) for share in heights[:bins]]
        edges = [x_scale(start + step * number) for number in range(bins + 1)]
        steps = "".join(f"V{y:.1f}H{edge:.1f}" for y, edge in zip(tops, edges[1:], strict=True))
        median = values[len(values) // 2]
        beyond = f", {heights[bins]:.1%} beyond {x_scale.format(end, extra=1)}" if heights[bins] else ""
        tooltip = f"{sample.name}: {len(values):,} values, median {x_scale.format(median, extra=2)}{beyond}"
        body += [
            f'<g class="nf-mark nf-s{_choose_colour(sample, index)}"><title>{_escape(tooltip)}</title>',
            f'<path class="nf-area" d="M{edges[0]:.1f} {bottom}{steps}V{bottom}Z"/>',
            f'<path class="nf-outline" d="M{edges[0]:.1f} {bottom}{steps}V{bottom}"/>',
            f'<path class="nf-median" d="M{x_scale(median):.1f} {bottom}V{top}"/></g>',
        ]
    return _wrap(title, body, width, height + legend_height)


def write_svg(svg: str, path: StrPath) -> None:
    """Write a plot as a file of its own, whole or not at all."""
    with write_file_aside(Path(path)) as partial:
        partial.write_text(svg + "\n", encoding="utf-8")


def shorten(text: str, letters: float) -> str:
    """Cut the middle out of a text longer than so many letters; names of layers and folders differ at their ends."""
    room = max(int(letters), 5)
    if len(text) <= room:
        return text
    head = (room - 1) // 3
    return f"{text[:head]}…{text[len(text) - (room - 1 - head) :]}"


def format_number(value: float, decimals: int, *, signed: bool = False) -> str:
    """Write a number with a true minus sign and thousands apart; zero has no sign."""
    text = f"{abs(value):,.{decimals}f}"
    if not text.strip("0.,"):
        return text
    return ("\N{MINUS SIGN}" if value < 0 else "+" if signed else "") + text


class _Scale:
    """A linear map from data to the page, with ticks at 1, 2 or 5 times a power of ten."""

    def __init__(self, low: float, high: float, start: float, end: float, step: float) -> None:
        self.low, self.high, self.start, self.end, self.step = low, high, start, end, step
        self.decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(low / step - 1e-9)
        self.ticks = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, nice: bool = True) -> _Scale:
        """Span the values; with `nice`, from tick to tick."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        if high <= low:
            low, high = (0.0, high) if low > 0 else (low, low + 1.0)
        rough = (high - low) / max(3.0, min(6.0, abs(end - start) / 70))
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough), 10 * power)
        if nice:
            low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(low, high, start, end, step)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def format(self, value: float, *, extra: int = 0) -> str:
        """Write a number with the decimals of the ticks, and `extra` ones."""
        return format_number(value, self.decimals + extra)


def _draw_vertical_grid(scale: _Scale, top: float, bottom: float, axis: str) -> list[str]:
    body = []
    for tick in scale.ticks:
        x = scale(tick)
        body.append(f'<line class="nf-grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        body.append(
            f'<text class="nf-tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{scale.format(tick)}</text>'
        )
    return [*body, _draw_axis_name(axis, (scale.start + scale.end) / 2, bottom + 32)]


def _draw_horizontal_grid(scale: _Scale, left: float, right: float, axis: str, top: float) -> list[str]:
    body = [f'<text class="nf-axis-name" x="{left - 38}" y="{top - 12}">{_escape(axis)}</text>']
    for tick in scale.ticks:
        y = scale(tick)
        kind = "nf-axis" if tick == 0 else "nf-grid"
        body.append(f'<line class="{kind}" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(
            f'<text class="nf-tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{scale.format(tick)}</text>'
        )
    return body


def _draw_axis_name(name: str, x: float, y: float) -> str:
    return f'<text class="nf-axis-name" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{_escape(name)}</text>'


def _draw_point(index: int, x: float, y: float) -> str:
    """Draw a mark whose shape tells the series too: circle, square, diamond, triangle."""
    shapes = (
        f'<circle class="nf-fill" cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        f'<path class="nf-fill" d="M{x - 3.7:.1f} {y - 3.7:.1f}h7.4v7.4h-7.4z"/>',
        f'<path class="nf-fill" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>',
        f'<path class="nf-fill" d="M{x:.1f} {y - 5:.1f}l5 8.6h-10z"/>',
    )
    return shapes[index % len(shapes)]


def _place_legend(names: Sequence[str], width: float) -> list[tuple[float, int, str]]:
    """Return x, row and the shortened name of each entry; rows are filled from the left."""
    placed = []
    x, row = 14.0, 0
    for name in names:
        text = shorten(name, (width - 60) / 6.4)
        needed = 18 + 6.4 * len(text) + 16
        if x > 14 and x + needed > width:
            x, row = 14.0, row + 1
        placed.append((x, row, text))
        x += needed
    return placed


def _count_legend_rows(names: Sequence[str], width: float) -> int:
    return max((row for _, row, _ in _place_legend(names, width)), default=-1) + 1 if len(names) > 1 else 0


def _draw_legend(series: Sequence[Line | Sample], width: float) -> list[str]:
    if len(series) < 2:
        return []
    body = []
    for index, (x, row, text) in enumerate(_place_legend([entry.name for entry in series], width)):
        colour = _choose_colour(series[index], index)
        body.append(
            f'<g class="nf-s{colour}">{_draw_point(colour, x + 5, 37.0 + 18 * row)}'
            f'<text class="nf-label" x="{x + 15:.1f}" y="{41 + 18 * row}">{_escape(text)}</text></g>'
        )
    return body


def _choose_colour(series: Line | Sample, place: int) -> int:
    return (place if series.colour is None else series.colour) % len(COLOURS)


def _wrap(title: str, body: Sequence[str], width: float, height: float) -> str:
    name = _escape(title)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="nf-plot" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" role="img" aria-label="{name}"><style>{STYLE}</style>'
        f'<rect class="nf-paper" width="100%" height="100%" rx="6"/><text class="nf-title" x="14" y="20">'
        f"{_escape(shorten(title, (width - 24) / 7.2))}</text>"
    )
    return "\n".join([head, *body, "</svg>"])


def _escape(text: str) -> str:
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def _make_style() -> str:
    def list_colours(shade: int) -> str:
        return "".join(f".nf-s{index}{{color:{pair[shade]}}}" for index, pair in enumerate(COLOURS))

    light = ".nf-plot{--nf-ink:#1c2127;--nf-quiet:#5a6470;--nf-line:#e3e6ea;--nf-paper:#fff}" + list_colours(0)
    dark = ".nf-plot{--nf-ink:#e6e9ed;--nf-quiet:#a0a9b4;--nf-line:#30363e;--nf-paper:#171b20}" + list_colours(1)
    return (
        f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
        f".nf-plot text{{font:12px {_FONT};fill:var(--nf-ink)}}"
        ".nf-plot .nf-title{font-size:13.5px;font-weight:600}"
        ".nf-plot .nf-tick,.nf-plot .nf-axis-name{font-size:11px;fill:var(--nf-quiet)}"
        ".nf-plot .nf-number{font-size:11.5px;font-variant-numeric:tabular-nums}"
        ".nf-halo{paint-order:stroke;stroke:var(--nf-paper);stroke-width:4px;stroke-linejoin:round}"
        ".nf-paper{fill:var(--nf-paper)}.nf-grid{stroke:var(--nf-line)}"
        ".nf-axis{stroke:var(--nf-quiet)}.nf-reference{stroke:var(--nf-quiet);stroke-dasharray:4 3}"
        ".nf-fill{fill:currentColor;stroke:var(--nf-paper);stroke-width:1px}"
        ".nf-stroke{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}"
        ".nf-thin{fill:none;stroke:currentColor;stroke-width:1.25}"
        ".nf-area{fill:currentColor;fill-opacity:.16;stroke:none}"
        ".nf-outline{fill:none;stroke:currentColor;stroke-width:1.5}"
        ".nf-median{fill:none;stroke:currentColor;stroke-width:1.25;stroke-dasharray:3 3}"
        ".nf-mark:hover .nf-fill{stroke:currentColor;stroke-width:2px}"
    )


STYLE = _make_style()
