"""What a benchmark counts, not how fast it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestforge.engines.base import Parallelism
from nestforge.errors import ConfigError
from nestforge.measure.benchmark import ROUNDS, bench


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


def test_settings_out_of_range(artifacts: dict[str, Path]) -> None:
    for options in ({"batch": 0}, {"streams": 0}, {"threads": 0}, {"seconds": 0.0}, {"batch": 10_000}):
        with pytest.raises(ConfigError, match="is outside"):
            bench(artifacts["fp32"], **options)  # type: ignore[arg-type]
