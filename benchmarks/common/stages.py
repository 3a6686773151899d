"""Steps of the work on images, each timed alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from nestforge.measure.interleave import TimedCall, run_interleaved
from nestforge.progress import show_bars

Stage = tuple[Callable[[Any], object], Sequence[Any]]  # a function, and what it is called with one after the other


def time_stages(stages: Mapping[str, Stage], *, threads: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """Return the median milliseconds per item of every stage, for each number of threads; rounds are interleaved."""
    with ThreadPoolExecutor(max(threads)) as pool:
        runs = {
            (name, count): TimedCall(partial(_work, pool, count, function, items), images=len(items))
            for name, (function, items) in stages.items()
            for count in threads
        }
        run_interleaved(
            list(runs.values()),
            seconds=0.0,
            rounds=rounds,
            warm_up_seconds=None,
            description="timing stages",
            progress=show_bars,
        )
    return {name: [float(np.median(runs[name, count].times_ms)) for count in threads] for name in stages}


def _work(pool: ThreadPoolExecutor, threads: int, function: Callable[[Any], object], items: Sequence[Any]) -> None:
    """Call the function with every item: here, or in `threads` threads that take their items by stride."""
    if threads == 1:
        for item in items:
            function(item)
        return
    for _ in pool.map(lambda first: [function(item) for item in items[first::threads]], range(threads)):
        pass
