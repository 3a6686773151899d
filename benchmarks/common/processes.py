"""Contenders in processes of their own: none inherits another's threads, caches or memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from nestforge.errors import NestForgeError
from nestforge.measure.interleave import Run, TimedCall, run_interleaved
from nestforge.progress import show_bars

Result = TypeVar("Result")
Measured = Run | TimedCall[Any]


class RemoteRun:
    """A run in a fresh process: `open_run(*arguments)` is called there, with the first round.

    `throughputs` and `results` are those of the run, one for each recorded round. What fails says why in `failure`,
    and takes no part any more.
    """

    def __init__(self, open_run: Callable[..., Measured], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, open_run, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.throughputs: list[float] = []
        self.results: list[Any] = []
        self.failure: str | None = None

    @property
    def times_ms(self) -> list[float]:
        """Milliseconds per image, one for each recorded round."""
        return [1e3 / throughput for throughput in self.throughputs]

    def spend(self, seconds: float, *, record: bool) -> None:
        if self.failure is not None:
            return
        try:
            self._connection.send((seconds, record))
            answer = self._connection.recv()
        except (EOFError, OSError):
            answer = "its process died"
        if isinstance(answer, str):
            self.failure = answer
        elif record:
            throughputs, results = answer
            self.throughputs += throughputs
            self.results += results

    def close(self) -> None:
        """End the process."""
        try:
            self._connection.send(None)
        except OSError:
            self._process.kill()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()


def _serve(connection: Connection, open_run: Callable[..., Measured], arguments: tuple[object, ...]) -> None:
    """Run rounds as told; answer with what was measured in each, or with the reason why it failed."""
    run: Measured | None = None
    while (request := connection.recv()) is not None:
        seconds, record = request
        try:
            run = run or open_run(*arguments)
            run.spend(seconds, record=record)
            results = run.results[-1:] if isinstance(run, TimedCall) else []
            connection.send((run.throughputs[-1:], results))
        except Exception as error:  # whatever a contender raises is its result
            lines = str(error).strip().splitlines()
            connection.send(f"{type(error).__name__}: {lines[0] if lines else ''}")


def interleave_processes(
    runs: Mapping[str, RemoteRun], *, seconds: float, rounds: int, warm_up_seconds: float | None, description: str
) -> None:
    """Interleave runs in processes, which end with it; see `run_interleaved`."""
    try:
        run_interleaved(
            list(runs.values()),
            seconds=seconds,
            rounds=rounds,
            warm_up_seconds=warm_up_seconds,
            description=description,
            progress=show_bars,
        )
    finally:
        for run in runs.values():
            run.close()


def call_alone(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a fresh process and return its result.

    Raises:
        NestForgeError: it raised something, or its process died.
    """
    run = RemoteRun(_open_call, function, arguments)
    try:
        run.spend(0.0, record=True)
    finally:
        run.close()
    if run.failure is not None:
        raise NestForgeError(run.failure)
    result: Result = run.results[0]
    return result


def _open_call(function: Callable[..., Result], arguments: tuple[object, ...]) -> TimedCall[Result]:
    return TimedCall(partial(function, *arguments))
