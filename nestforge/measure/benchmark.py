"""Throughput and latency of artifacts: warm-up, steady state, and two artifacts interleaved in short rounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.checks import check_range
from nestforge.engines.base import Parallelism
from nestforge.engines.machine import Machine, read_machine
from nestforge.files import StrPath
from nestforge.measure.interleave import ROUNDS, Latency, Run, run_interleaved
from nestforge.measure.peak import Peak, measure_peak
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.progress import Progress, no_progress

__all__ = ["ROUNDS", "BenchmarkComparison", "BenchmarkResult", "Latency", "Run", "bench", "run_interleaved"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkComparison:
    """The other artifact, measured interleaved; `ratio` is the first's throughput over its own (median)."""

    artifact: Path
    dtype: str
    throughput_ips: float
    latency_ms: Latency
    ratio: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """Speed of an artifact.

    `throughput_ips` is images a second, the median over rounds of images done by time passed. `peak_share` is
    throughput x `macs` over the machine's measured peak for the dtype on the same threads; None where the peak
    cannot be measured. `macs` are those of convolutions and matrix products for one image.
    """

    artifact: Path
    engine: str
    dtype: str
    height: int
    width: int
    parallelism: Parallelism
    seconds: float
    requests: int
    throughput_ips: float
    latency_ms: Latency
    macs: int
    peak_share: float | None
    peak: Peak | None
    machine: Machine
    vs: BenchmarkComparison | None = None


def bench(
    artifact: StrPath,
    *,
    batch: int = 1,
    streams: int = 1,
    threads: int | None = None,
    seconds: float = 5.0,
    vs: StrPath | None = None,
    verify: bool = True,
    progress: Progress = no_progress,
) -> BenchmarkResult:
    """Measure an artifact for `seconds`, in rounds, after a warm-up; with `vs`, both interleaved for `seconds` each.

    `threads` are shared by the streams and default to the cores this process may use (affinity, cgroup quota).
    `verify` as `open_artifact`.

    Raises:
        ConfigError: a setting out of range.
        ArtifactError, EngineError: the artifact cannot be opened so.
    """
    parallelism = Parallelism.make(batch=batch, streams=streams, threads=threads)
    check_range("seconds", seconds, 0.1, 86_400)
    artifacts = [open_artifact(path, verify=verify) for path in ([artifact] if vs is None else [artifact, vs])]
    manifest = artifacts[0].manifest
    with progress("opening, and measuring the machine's peak", None):
        sessions = [opened.open_session(parallelism) for opened in artifacts]
        runs = [Run(session) for session in sessions]
        peaks = [measure_peak(manifest.config.dtype, parallelism.threads)]
    run_interleaved(runs, seconds=seconds, progress=progress)
    # before and after: whatever else ran on the machine meanwhile only lowers a peak
    peaks.append(measure_peak(manifest.config.dtype, parallelism.threads))
    peak = max((found for found in peaks if found), key=lambda found: found.macs_per_second, default=None)
    throughput = float(np.median(runs[0].throughputs))
    return BenchmarkResult(
        artifact=artifacts[0].folder,
        engine=manifest.config.engine,
        dtype=manifest.config.dtype,
        height=manifest.height,
        width=manifest.width,
        parallelism=parallelism,
        seconds=seconds,
        requests=len(runs[0].latencies_ms),
        throughput_ips=throughput,
        latency_ms=runs[0].summarize_latency(),
        macs=manifest.kernel_macs,
        peak_share=throughput * manifest.kernel_macs / peak.macs_per_second if peak and manifest.kernel_macs else None,
        peak=peak,
        machine=read_machine(),
        vs=_compare(runs, artifacts[1]) if len(artifacts) > 1 else None,
    )


def _compare(runs: list[Run], other: Artifact) -> BenchmarkComparison:
    ours, theirs = runs
    ratio, low, high = compute_ratio_interval(ours.throughputs, theirs.throughputs)
    return BenchmarkComparison(
        artifact=other.folder,
        dtype=other.manifest.config.dtype,
        throughput_ips=float(np.median(theirs.throughputs)),
        latency_ms=theirs.summarize_latency(),
        ratio=ratio,
        low=low,
        high=high,
        rounds=ROUNDS,
    )
