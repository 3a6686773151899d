"""What a benchmark counts, not how fast it is."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nestforge.engines.base import Parallelism, Settings
from nestforge.engines.fake import FakeEngine
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.errors import ConfigError
from nestforge.measure.benchmark import ROUNDS, Run, bench
from nestforge.measure.peak import _compile_loop, measure_peak


def test_bench_reports_what_it_did(artifacts: dict[str, Path]) -> None:
    result = bench(artifacts["int8"], batch=2, streams=2, threads=2, seconds=0.3, vs=artifacts["fp32"])
    assert (result.parallelism, result.dtype) == (Parallelism(batch=2, streams=2, threads=2), "int8")
    assert result.requests >= ROUNDS * 2
    assert result.latency_ms.p50 <= result.latency_ms.p90 <= result.latency_ms.p99
    assert result.vs is not None
    assert result.vs.dtype == "fp32"
    assert result.vs.rounds == ROUNDS
    assert result.vs.low <= result.vs.ratio <= result.vs.high
    assert result.macs == 10_520_704
    if result.peak is not None:
        assert result.peak_share == pytest.approx(result.throughput_ips * result.macs / result.peak.macs_per_second)


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


def test_settings_out_of_range(artifacts: dict[str, Path]) -> None:
    for options in ({"batch": 0}, {"streams": 0}, {"threads": 0}, {"seconds": 0.0}, {"batch": 10_000}):
        with pytest.raises(ConfigError, match="is outside"):
            bench(artifacts["fp32"], **options)  # type: ignore[arg-type]


def test_peak_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    peak = measure_peak("fp32", count_available_cores())
    assert peak is not None
    assert peak.method == "GEMM"
    assert peak.macs_per_second > 1e8
    assert measure_peak("int8", 1) is None
    assert measure_peak("fp32", 1000) is None


MACS = {"amx_int8": 16384, "avx512_vnni": 64, "avx_vnni": 32, "avx2": 32}  # of one instruction, the widest first


@pytest.mark.skipif(shutil.which("cc") is None or not set(MACS) & set(read_machine().flags), reason="no loop for it")
def test_the_loop_takes_the_widest_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of less than the true peak would flatter: where the compiler cannot use tiles there is no peak."""
    widest = next(MACS[flag] for flag in MACS if flag in read_machine().flags)
    loop = _compile_loop("cc", "int8")
    assert loop(1) == widest if loop else widest == MACS["amx_int8"]  # a compiler or system that does not know tiles
    with_tiles = replace(read_machine(), flags=("amx_int8",))
    monkeypatch.setattr("nestforge.measure.peak.read_machine", lambda: with_tiles)
    loop = _compile_loop.__wrapped__("cc", "int8")
    assert loop is None or loop(1) == MACS["amx_int8"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_loop_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each library that is loaded stays in memory: a process that measures all day must not load one each time."""
    assert measure_peak("fp32", 1) is not None
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("compiled again"))
    assert measure_peak("fp32", 1) is not None
