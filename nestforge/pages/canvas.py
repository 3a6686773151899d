"""Shared parts of all plots: scales, grids, legends, colours, and the frame."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

# one hue per series, for light and dark mode; labels, shapes and tooltips also distinguish series
COLOURS = (
    ("#2b67ab", "#7fb2ea"),
    ("#b5511a", "#ee9f6d"),
    ("#23805c", "#68c9a0"),
    ("#7a4fb5", "#bfa1ee"),
    ("#b0336f", "#ee8fbb"),
    ("#5c6672", "#aab4c0"),
)
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def shorten(text: str, letters: float) -> str:
    """Cut the middle out of a text longer than `letters`, because names of layers and folders differ at their ends."""
    limit = max(int(letters), 5)
    if len(text) <= limit:
        return text
    head = (limit - 1) // 3
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def format_number(value: float, decimals: int, *, signed: bool = False) -> str:
    """Write a number with a true minus sign and separated thousands; zero has no sign."""
    text = f"{abs(value):,.{decimals}f}"
    if not text.strip("0.,"):
        return text
    return ("\N{MINUS SIGN}" if value < 0 else "+" if signed else "") + text


class Scale:
    """A linear map from data to the page, with ticks at 1, 2 or 5 times a power of ten."""

    def __init__(self, low: float, high: float, start: float, end: float, step: float) -> None:
        self.low, self.high, self.start, self.end, self.step = low, high, start, end, step
        self.decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(low / step - 1e-9)
        self.ticks = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, nice: bool = True) -> Scale:
        """Return a scale over the values; with `nice`, it begins and ends at a tick."""
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
        """Write a number with `extra` more decimals than the ticks have."""
        return format_number(value, self.decimals + extra)


def draw_vertical_grid(scale: Scale, top: float, bottom: float, axis: str) -> list[str]:
    body = []
    for tick in scale.ticks:
        x = scale(tick)
        body.append(f'<line class="nf-grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        body.append(
            f'<text class="nf-tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{scale.format(tick)}</text>'
        )
    return [*body, draw_axis_name(axis, (scale.start + scale.end) / 2, bottom + 32)]


def draw_horizontal_grid(scale: Scale, left: float, right: float, axis: str, top: float) -> list[str]:
    body = [f'<text class="nf-axis-name" x="{left - 38}" y="{top - 12}">{escape(axis)}</text>']
    for tick in scale.ticks:
        y = scale(tick)
        kind = "nf-axis" if tick == 0 else "nf-grid"
        body.append(f'<line class="{kind}" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(
            f'<text class="nf-tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{scale.format(tick)}</text>'
        )
    return body


def draw_axis_name(name: str, x: float, y: float) -> str:
    return f'<text class="nf-axis-name" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(name)}</text>'


def draw_point(index: int, x: float, y: float) -> str:
    """Draw a mark whose shape also shows the series: circle, square, diamond or triangle."""
    shapes = (
        f'<circle class="nf-fill" cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        f'<path class="nf-fill" d="M{x - 3.7:.1f} {y - 3.7:.1f}h7.4v7.4h-7.4z"/>',
        f'<path class="nf-fill" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>',
        f'<path class="nf-fill" d="M{x:.1f} {y - 5:.1f}l5 8.6h-10z"/>',
    )
    return shapes[index % len(shapes)]


def place_legend(names: Sequence[str], width: float) -> list[tuple[float, int, str]]:
    """Return x, row and shortened name of each entry; rows are filled from the left."""
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


def count_legend_rows(names: Sequence[str], width: float) -> int:
    return max((row for _, row, _ in place_legend(names, width)), default=-1) + 1 if len(names) > 1 else 0


def wrap_plot(title: str, body: Sequence[str], width: float, height: float) -> str:
    name = escape(title)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="nf-plot" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" role="img" aria-label="{name}"><style>{STYLE}</style>'
        f'<rect class="nf-paper" width="100%" height="100%" rx="6"/><text class="nf-title" x="14" y="20">'
        f"{escape(shorten(title, (width - 24) / 7.2))}</text>"
    )
    return "\n".join([head, *body, "</svg>"])


def escape(text: str) -> str:
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
