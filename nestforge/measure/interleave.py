"""Several things measured in short interleaved rounds: whatever else the machine does meets all of them alike."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from nestforge.engines.base import Images, Session
from nestforge.progress import Progress, no_progress

WARM_UP_SECONDS = 1.0
ROUNDS = 11
Result = TypeVar("Result")


class Runnable(Protocol):
    """What can be interleaved: `Run`, `TimedCall`, or anything else with this method."""

    def spend(self, seconds: float, *, record: bool) -> None:
        """Work for about `seconds`, finishing what was begun; with `record`, keep what was measured as one round."""
        ...


def run_interleaved(
    runs: Sequence[Runnable],
    *,
    seconds: float,
    rounds: int = ROUNDS,
    warm_up_seconds: float | None = WARM_UP_SECONDS,
    description: str = "measuring",
    progress: Progress = no_progress,
) -> None:
    """Warm each run up, then give each `seconds` in rounds, in an order that is reversed from round to round.

    With 0 seconds each does the least it can in every round, a request or a call; without `warm_up_seconds` (None)
    the first round counts.
    """
    with progress(description, (rounds + (warm_up_seconds is not None)) * len(runs)) as advance:
        if warm_up_seconds is not None:
            for run in runs:
                run.spend(warm_up_seconds, record=False)
                advance(1)
        for number in range(rounds):
            for run in runs if number % 2 == 0 else reversed(runs):
                run.spend(seconds / rounds, record=True)
                advance(1)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds from handing over a batch to having its logits."""

    mean: float
    p50: float
    p90: float
    p99: float


class Run:
    """A session driven by one client thread a stream, and what was measured of it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.throughputs: list[float] = []  # images a second, one a round
        self.latencies_ms: list[float] = []
        self._stopping = threading.Event()
        settings = session.settings
        rng = np.random.default_rng(0)
        shape = (settings.batch, 3, settings.height, settings.width)
        self._inputs = [rng.standard_normal(shape, np.float32) for _ in range(settings.streams)]

    def spend(self, seconds: float, *, record: bool, requests: int | None = None) -> None:
        """Keep every stream busy for `seconds`; each finishes the request it has begun, and at least one.

        With `requests`, each stream makes that many instead.
        """
        self._stopping.clear()
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(self._inputs), thread_name_prefix="client") as pool:
            clients = [pool.submit(self._serve, images, begin + seconds, requests) for images in self._inputs]
            try:
                latencies_ms = [latency for client in clients for latency in client.result()]
            finally:  # an engine must not be torn down while a request runs
                self._stopping.set()
                wait(clients)
        elapsed = time.perf_counter() - begin
        if record:
            self.throughputs.append(len(latencies_ms) * self.session.settings.batch / elapsed)
            self.latencies_ms += latencies_ms

    def _serve(self, images_nchw: Images, deadline: float, requests: int | None) -> list[float]:
        """Run requests one after the other; return their latencies in milliseconds."""
        latencies_ms: list[float] = []
        for done in itertools.count(1):
            begin = time.perf_counter()
            self.session.run(images_nchw)
            end = time.perf_counter()
            latencies_ms.append((end - begin) * 1e3)
            finished = end >= deadline if requests is None else done >= requests
            if finished or self._stopping.is_set():
                break
        return latencies_ms

    def summarize_latency(self) -> Latency:
        p50, p90, p99 = (float(value) for value in np.percentile(self.latencies_ms, [50, 90, 99]))
        return Latency(mean=float(np.mean(self.latencies_ms)), p50=p50, p90=p90, p99=p99)


class TimedCall(Generic[Result]):
    """A function without arguments, called one time after the other; one call works on `images` images.

    `prepare` runs before every call and is not timed. `throughputs` are images per second, and `results` what the
    last call returned, one for each recorded round.
    """

    def __init__(
        self, call: Callable[[], Result], *, images: int = 1, prepare: Callable[[], object] | None = None
    ) -> None:
        self._call = call
        self._images = images
        self._prepare = prepare
        self.throughputs: list[float] = []
        self.results: list[Result] = []

    @property
    def times_ms(self) -> list[float]:
        """Milliseconds per image, one for each recorded round."""
        return [1e3 / throughput for throughput in self.throughputs]

    def spend(self, seconds: float, *, record: bool) -> None:
        """Call until `seconds` are over, at least once."""
        deadline = time.perf_counter() + seconds
        durations = []
        end = -math.inf
        while end < deadline:
            if self._prepare is not None:
                self._prepare()
            begin = time.perf_counter()
            result = self._call()
            end = time.perf_counter()
            durations.append(end - begin)
        if record:
            self.throughputs.append(len(durations) * self._images / sum(durations))
            self.results.append(result)
