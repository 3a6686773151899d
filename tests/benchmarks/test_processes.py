"""Contenders in processes of their own: measured, failing, dying."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import pytest

from benchmarks.common.processes import RemoteRun, call_alone, interleave_processes
from nestforge.engines.base import Settings
from nestforge.engines.fake import FakeEngine
from nestforge.errors import NestForgeError
from nestforge.measure.interleave import Run, TimedCall


def open_calls(images: int) -> TimedCall[int]:
    """Count the calls, in the process they are made in."""
    calls: list[int] = []

    def call() -> int:
        calls.append(os.getpid())
        assert set(calls) == {os.getpid()}
        return len(calls)

    return TimedCall(call, images=images)


def open_session() -> Run:
    return Run(FakeEngine(lambda images: images.mean((2, 3))).open(b"", Settings(height=2, width=2)))


def open_nothing() -> Run:
    raise ValueError("no such model\nand more")


def open_until(number: int) -> TimedCall[None]:
    """Fail in call `number`."""
    left = [None] * (number - 1)
    return TimedCall(left.pop)


def open_and_die() -> Run:
    os._exit(3)


def test_rounds_of_a_process() -> None:
    runs = {"calls": RemoteRun(open_calls, 5), "session": RemoteRun(open_session)}
    interleave_processes(runs, seconds=0.0, rounds=3, warm_up_seconds=0.0, description="")
    assert [run.failure for run in runs.values()] == [None, None]
    assert runs["calls"].results == [2, 3, 4]  # the first was the warm-up
    assert len(runs["calls"].throughputs) == len(runs["session"].throughputs) == 3
    assert runs["calls"].times_ms == [1e3 / throughput for throughput in runs["calls"].throughputs]
    assert runs["session"].results == []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("open_run", "arguments", "rounds", "failure"),
    [
        (open_nothing, (), 0, "ValueError: no such model"),
        (open_until, (4,), 2, "IndexError: pop from empty list"),
        (open_and_die, (), 0, "its process died"),
    ],
)
def test_a_failing_contender_says_why_and_the_others_go_on(
    open_run: Callable[..., Run], arguments: tuple[int, ...], rounds: int, failure: str
) -> None:
    runs = {"failing": RemoteRun(open_run, *arguments), "good": RemoteRun(open_calls, 1)}
    interleave_processes(runs, seconds=0.0, rounds=4, warm_up_seconds=0.0, description="")
    assert runs["failing"].failure == failure
    assert len(runs["failing"].throughputs) == rounds
    assert len(runs["good"].throughputs) == 4
    assert multiprocessing.active_children() == []


def name_process(prefix: str) -> str:
    return f"{prefix}{os.getpid()}"


def refuse(name: str) -> None:
    raise NestForgeError(f"no {name}")


def test_a_function_alone() -> None:
    name = call_alone(name_process, "process ")
    assert name.startswith("process ")
    assert name != name_process("process ")
    with pytest.raises(NestForgeError, match="NestForgeError: no model"):
        call_alone(refuse, "model")
    with pytest.raises(NestForgeError, match="its process died"):
        call_alone(os._exit, 3)
    assert multiprocessing.active_children() == []
