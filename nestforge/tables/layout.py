"""The layout of all tables: pairs, grids, and the format of rates and latencies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from nestforge.commandline import make_printable

SHOWN_UNREADABLE = 20

if TYPE_CHECKING:
    from nestforge.data.loader import UnreadableImage
    from nestforge.engines.base import Parallelism
    from nestforge.measure.interleave import Latency
    from nestforge.measure.statistics import Rate
    from nestforge.scale.run import Placement


def escape(text: str) -> str:
    """Escape markup and control characters."""
    return escape_markup(make_printable(text))


def format_rate(rate: Rate) -> str:
    """Write a rate in percent with its interval."""
    return f"{rate.rate:.2%} [{rate.low:.2%}, {rate.high:.2%}]"


def format_latency(latency: Latency) -> str:
    """Write the usual percentiles and the mean."""
    return f"p50 {latency.p50:.2f}, p90 {latency.p90:.2f}, p99 {latency.p99:.2f}, mean {latency.mean:.2f} ms"


def format_parallelism(parallelism: Parallelism) -> str:
    """Write ``batch 1, streams 1, threads 2``."""
    return f"batch {parallelism.batch}, streams {parallelism.streams}, threads {parallelism.threads}"


def format_placement(placement: Placement) -> str:
    """Write where images were classified."""
    if placement.ray is None:
        return f"this process, {placement.threads} threads"
    return f"{placement.workers} workers of {placement.threads} threads on Ray at {placement.ray}"


def shorten_path(image: str) -> str:
    """Write the last folder and the name of an image: ``cat/1.jpg``."""
    return "/".join(image.rsplit("/", 2)[-2:])


def format_macs(macs: int) -> str:
    """Write the multiply-accumulates of one image; 0 means unknown."""
    return f"{macs / 1e9:.3f} GMAC per image" if macs else "MACs unknown"


def make_pairs_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Make a table of names and values."""
    table = Table(
        title=escape(title), title_justify="left", show_header=False, box=None, pad_edge=False, min_width=len(title)
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    return table


def make_grid(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table with a header; all columns but the first are aligned to the right."""
    table = Table(
        title=escape(title), title_justify="left", header_style="bold", box=None, pad_edge=False, min_width=len(title)
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def show_unreadable(count: int, images: Sequence[UnreadableImage], console: Console) -> None:
    if count:
        console.print(f"[yellow]{count:,} unreadable and not counted:[/]")
        for image in images[:SHOWN_UNREADABLE]:
            console.print(f"  {escape(image.reason)}", highlight=False)
