"""Plots are well-formed files, draw every value where its axis says, and escape whatever names hold."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from nestforge.errors import NestForgeError
from nestforge.pages.canvas import shorten
from nestforge.pages.svg import (
    Bar,
    Interval,
    Line,
    Sample,
    draw_bars,
    draw_histogram,
    draw_intervals,
    draw_lines,
    write_svg,
)

HOSTILE = "<script>alert(\"1\")</script> & 'x' \x00\x1b\ud800"
SVG = "{http://www.w3.org/2000/svg}"


def draw_all(name: str) -> dict[str, tuple[str, int]]:
    """Every kind of plot with this name in all its texts, and how many marks it has."""
    intervals = [Interval(label=name, value=0.5, low=0.4, high=0.6), Interval(label="b", value=1, low=0, high=2)]
    bars = [Bar(label=name, value=3, note=name), Bar(label="b", value=-1), Bar(label="c", value=0)]
    lines = [Line(name=name, points=[(1, 10), (2, 20)]), Line(name="b", points=[(1, 5, 4, 6), (4, 9, 8, 10)])]
    samples = [Sample(name=name, values=[1.0, 2.0, 2.0, 50.0]), Sample(name="b", values=[3.0])]
    return {
        "intervals": (draw_intervals(name, intervals, axis=name, reference=0.0), 2),
        "bars": (draw_bars(name, bars, axis=name), 3),
        "lines": (draw_lines(name, lines, x_axis=name, y_axis=name, doubling=True), 4),
        "histogram": (draw_histogram(name, samples, axis=name), 2),
    }


def list_marks(svg: str) -> list[ET.Element]:
    return [node for node in ET.fromstring(svg).iter() if "nf-mark" in node.get("class", "").split()]


@pytest.mark.parametrize("kind", ["intervals", "bars", "lines", "histogram"])
@pytest.mark.parametrize("name", ["plain", HOSTILE, "", "長い名前" * 40])
def test_well_formed_with_every_mark_and_its_tooltip(kind: str, name: str) -> None:
    svg, marks = draw_all(name)[kind]
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert "script" not in {node.tag.removeprefix(SVG) for node in root.iter()}
    found = list_marks(svg)
    assert len(found) == marks
    assert all(mark.findtext(f"{SVG}title") for mark in found)
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    left, top, width, height = map(float, root.get("viewBox", "").split())
    assert (left, top) == (0, 0)
    for node in root.iter(f"{SVG}circle"):
        assert 0 <= float(node.get("cx", "")) <= width
        assert 0 <= float(node.get("cy", "")) <= height


def test_values_stand_where_the_axis_says() -> None:
    svg = draw_lines("t", [Line(name="a", points=[(0, 0), (5, 50), (10, 100)])], x_axis="x", y_axis="y")
    points = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in points]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    ticks = {node.text: float(node.get("y", "")) for node in ET.fromstring(svg).iter(f"{SVG}text")}
    assert ticks["100"] - 4 == pytest.approx(y2, abs=0.2)


def test_a_dozen_lines_differ_in_colour_or_shape() -> None:
    """What a line's marks look like, wherever they stand, is no other line's."""
    lines = [Line(name=f"line {index}", points=((1.0, float(index)),)) for index in range(12)]
    svg = draw_lines("t", lines, x_axis="x", y_axis="y", width=900)
    looks = set()
    for line in lines:
        legend = re.search(rf'<g class="(nf-s\d)">(<(?:circle|path)[^>]*/>)<text[^>]*>{line.name}<', svg)
        assert legend is not None
        looks.add((legend[1], re.sub(r'(cx|cy)="[^"]*"|M[^hl]*', "", legend[2])))
    assert len(looks) == len(lines)


def test_bars_start_at_zero_and_are_as_long_as_their_values() -> None:
    svg = draw_bars("t", [Bar(label="a", value=2), Bar(label="b", value=4), Bar(label="c", value=-4)], axis="x")
    rows = [mark.find(f"{SVG}rect") for mark in list_marks(svg)]
    widths = [float(row.get("width", "")) for row in rows if row is not None]
    starts = [float(row.get("x", "")) for row in rows if row is not None]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert starts[0] == starts[1] == pytest.approx(starts[2] + widths[2], abs=0.2)


def test_histogram_counts_every_value_once() -> None:
    """Heights above the axis are shares of the sample; the rest is told as beyond."""
    values = [float(value) for value in range(100)] + [1000.0] * 100
    svg = draw_histogram("t", [Sample(name="a", values=values), Sample(name="b", values=[1.0, 99.0])], axis="ms")
    assert list_marks(svg)[0].findtext(f"{SVG}title") == "a: 200 values, median 1,000.00"
    long_tail = [1.0] * 995 + [2.0] * 4 + [500.0]
    svg = draw_histogram("t", [Sample(name="a", values=long_tail)], axis="ms")
    assert "0.5% beyond" in str(list_marks(svg)[0].findtext(f"{SVG}title"))


def test_differences_carry_their_sign() -> None:
    svg = draw_intervals("t", [Interval(label="a", value=0.2, low=-0.1, high=0.5)], axis="pp", reference=0)
    assert "a: +0.20 [\N{MINUS SIGN}0.10, +0.50]" in svg


def test_degenerate_data() -> None:
    same = [Interval(label="a", value=1.0, low=1.0, high=1.0)]
    for svg in (
        draw_intervals("t", same, axis="x"),
        draw_bars("t", [Bar(label="a", value=0)], axis="x"),
        draw_lines("t", [Line(name="a", points=[(1, 0)])], x_axis="x", y_axis="y", doubling=True),
        draw_histogram("t", [Sample(name="a", values=[5.0, 5.0])], axis="ms"),
    ):
        assert len(list_marks(svg)) == 1
        assert "nan" not in svg
        assert "inf" not in svg.replace("infer", "")


def test_shorten_keeps_the_end() -> None:
    assert shorten("layer1.0.conv2", 20) == "layer1.0.conv2"
    short = shorten("/a/very/long/path/to/artifacts/tiny-int8", 16)
    assert len(short) == 16
    assert short.endswith("tiny-int8")


def test_write(tmp_path: Path) -> None:
    write_svg(draw_all("plain")["bars"][0], tmp_path / "bars.svg")
    ET.parse(tmp_path / "bars.svg")
    with pytest.raises(NestForgeError, match="no folder"):
        write_svg("", tmp_path / "none" / "x.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["bars.svg"]
