"""What interleaved runs count, and in which order they take part."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from nestforge.engines.base import Settings
from nestforge.engines.fake import FakeEngine
from nestforge.measure.interleave import Run, TimedCall, run_interleaved


def test_throughput_is_images_done_by_time_passed() -> None:
    """A session that sleeps 10 ms for 4 images, on two streams, does 800 images a second and no more."""

    def answer(images: np.ndarray) -> np.ndarray:
        time.sleep(0.01)
        return images.mean((2, 3))

    run = Run(FakeEngine(answer).open(b"", Settings(batch=4, height=2, width=2, streams=2)))
    for _ in range(3):
        run.spend(0.2, record=True)
    assert 300 < np.median(run.throughputs) <= 800
    assert run.summarize_latency().p50 >= 10


def test_warm_up_is_not_counted() -> None:
    run = Run(FakeEngine(lambda images: images.mean((2, 3))).open(b"", Settings(height=2, width=2)))
    run.spend(0.01, record=False)
    assert run.latencies_ms == []
    assert run.throughputs == []


def test_a_failing_session_is_an_error() -> None:
    def answer(images: np.ndarray) -> np.ndarray:
        raise ValueError("broken")

    run = Run(FakeEngine(answer).open(b"", Settings(height=2, width=2)))
    with pytest.raises(ValueError, match="broken"):
        run.spend(0.01, record=True)


class Recorded:
    """A run that writes down when it was asked for what."""

    def __init__(self, name: str, calls: list[tuple[str, float, bool]]) -> None:
        self.name, self.calls = name, calls

    def spend(self, seconds: float, *, record: bool) -> None:
        self.calls.append((self.name, seconds, record))


def test_every_round_has_every_run_in_an_order_that_is_reversed() -> None:
    calls: list[tuple[str, float, bool]] = []
    runs = [Recorded(name, calls) for name in "abc"]
    run_interleaved(runs, seconds=3.0, rounds=3, warm_up_seconds=0.5)
    assert calls[:3] == [("a", 0.5, False), ("b", 0.5, False), ("c", 0.5, False)]
    assert "".join(name for name, _, _ in calls[3:]) == "abccbaabc"
    assert {(seconds, record) for _, seconds, record in calls[3:]} == {(1.0, True)}


def test_without_a_warm_up_the_first_round_counts() -> None:
    calls: list[tuple[str, float, bool]] = []
    run_interleaved([Recorded("a", calls)], seconds=0.0, rounds=2, warm_up_seconds=None)
    assert calls == [("a", 0.0, True)] * 2


def test_a_call_and_a_session_are_interleaved() -> None:
    session = Run(FakeEngine(lambda images: images.mean((2, 3))).open(b"", Settings(height=2, width=2)))
    call = TimedCall(lambda: "done")
    run_interleaved([session, call], seconds=0.0, rounds=3, warm_up_seconds=0.0)
    assert len(session.throughputs) == len(call.throughputs) == 3
    assert call.results == ["done"] * 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The module's clock, which only moves when a test moves it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("nestforge.measure.interleave.time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_a_call_is_made_until_the_time_is_over_and_at_least_once(clock: SimpleNamespace) -> None:
    made: list[int] = []

    def call() -> int:
        clock.now += 0.25
        made.append(len(made))
        return made[-1]

    timed = TimedCall(call, images=5)
    timed.spend(0.0, record=False)
    assert (made, timed.throughputs, timed.results) == ([0], [], [])
    timed.spend(0.75, record=True)
    assert (made, timed.results) == ([0, 1, 2, 3], [3])
    assert timed.throughputs == [20.0]
    assert timed.times_ms == [50.0]


def test_preparing_a_call_is_not_timed(clock: SimpleNamespace) -> None:
    order: list[str] = []

    def pass_time(name: str, seconds: float) -> None:
        order.append(name)
        clock.now += seconds

    timed = TimedCall(lambda: pass_time("call", 0.25), prepare=lambda: pass_time("prepare", 8.0))
    timed.spend(0.0, record=True)
    timed.spend(0.0, record=True)
    assert order == ["prepare", "call"] * 2
    assert timed.times_ms == [250.0] * 2
