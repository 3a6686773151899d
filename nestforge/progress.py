"""How long work reports on itself: a `Progress` opens a task, and the task is advanced as steps are done."""

from __future__ import annotations

import sys
from collections import abc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

Advance = Callable[[int], None]
Item = TypeVar("Item")
Sized = TypeVar("Sized", bound=abc.Sized)
Progress = Callable[[str, int | None], AbstractContextManager[Advance]]


@contextmanager
def no_progress(description: str, total: int | None) -> Iterator[Advance]:
    """Report nothing; the default of every function."""
    yield lambda steps: None


@contextmanager
def show_bars(description: str, total: int | None) -> Iterator[Advance]:
    """Draw a bar on stderr, if that is a terminal, while the task runs; the bar goes away with it."""
    if not sys.stderr.isatty():
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(description, total=total)
        yield lambda steps: bars.advance(task, steps)


def advance_over(batches: Iterable[Sized], advance: Advance) -> Iterator[Sized]:
    """Yield batches, and advance by the size of each when the next is asked for."""
    for batch in batches:
        yield batch
        advance(len(batch))


def advance_by_one(items: Iterable[Item], advance: Advance) -> Iterator[Item]:
    """Yield items, and advance by one when the next is asked for."""
    for item in items:
        yield item
        advance(1)
