"""Plots of the results of `nestforge sensitivity`, and the reader of its `--json` files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from nestforge.accuracy.sensitivity import LayerSensitivity, Sensitivity
from nestforge.errors import DataError
from nestforge.pages.svg import Bar, draw_bars
from nestforge.schema import parse, read_json

MAX_BYTES = 64 << 20
LAYERS = 15  # bars in a plot of a page


def draw_noise(found: Sensitivity, *, count: int | None = None, colour: int = 0) -> str:
    """Draw the noise of each layer when it alone is quantized; the `count` largest, largest first."""
    rows = sorted(found.layers, key=lambda row: -compute_noise_percent(row))[:count]
    bars = [
        Bar(
            label=row.name,
            value=compute_noise_percent(row),
            colour=colour,
            note=f"SQNR {row.alone_sqnr_db:.1f} dB, {row.alone_flips} changed predictions"
            + ("" if row.time_share is None else f", {row.time_share:.1%} of the time"),
        )
        for row in rows
    ]
    return draw_bars("Noise of a layer quantized alone", bars, axis="noise (% of the logits' power)")


def draw_gain(found: Sensitivity, *, count: int | None = None, colour: int = 0) -> str:
    """Draw the gain of each layer when it alone stays in float; the `count` largest, largest first."""
    rows = sorted(found.layers, key=lambda row: -row.kept_in_float_sqnr_db)[:count]
    bars = [
        Bar(
            label=row.name,
            value=row.kept_in_float_sqnr_db - found.total_sqnr_db,
            colour=colour,
            note=f"{row.kept_in_float_flips} changed predictions instead of {found.total_flips}",
        )
        for row in rows
    ]
    return draw_bars("Gain of a layer kept in float", bars, axis="gain in SQNR (dB)")


def compute_noise_percent(row: LayerSensitivity) -> float:
    """Return the noise of the layer when it alone is quantized, in percent of the logits' power."""
    return 100 * math.pow(10, -row.alone_sqnr_db / 10)


def read_sensitivity(path: Path) -> Sensitivity:
    """Read a sensitivity report.

    Raises:
        DataError: the file is missing, too large, or not such a report.
    """
    remedy = "give a file that 'nestforge sensitivity --json' wrote"
    data = read_json(path, limit_bytes=MAX_BYTES, kind="sensitivity report", remedy=remedy, error=DataError)
    found = parse(Sensitivity, data, source=f"{path} is not a sensitivity report; {remedy}", error=DataError)
    if not found.layers or not all(map(math.isfinite, _list_numbers(found))):
        raise DataError(f"{path} has no layers, or numbers that are not finite; run 'nestforge sensitivity' again")
    return found


def _list_numbers(found: Sensitivity) -> Iterator[float]:
    yield found.total_sqnr_db
    for row in found.layers:
        yield from (row.alone_sqnr_db, row.kept_in_float_sqnr_db, row.macs_share, row.clipped_share)
        yield from (row.range_low, row.range_high, row.time_share or 0.0)
