"""Throughput and latency of artifacts: warm-up, steady state, and two artifacts interleaved in short rounds."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.checks import check_range
from nestforge.engines.base import Images, Parallelism, Session
from nestforge.engines.machine import Machine, read_machine
from nestforge.files import StrPath
from nestforge.measure.peak import Peak, measure_peak
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.progress import Progress, no_progress

WARM_UP_SECONDS = 1.0
ROUNDS = 11


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds from handing over a batch to having its logits."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class BenchmarkComparison:
    """The other artifact, measured interleaved with ours; `ratio` is the median of ours/theirs over rounds."""

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


def run_interleaved(
    runs: Sequence[Run],
    *,
    seconds: float,
    rounds: int = ROUNDS,
    warm_up_seconds: float = WARM_UP_SECONDS,
    description: str = "measuring",
    progress: Progress = no_progress,
) -> None:
    """Warm each run up, then give each `seconds` in rounds, whose order changes from round to round."""
    with progress(description, rounds * len(runs) + len(runs)) as advance:
        for run in runs:
            run.spend(warm_up_seconds, record=False)
            advance(1)
        for turn in range(rounds):
            for run in runs if turn % 2 == 0 else reversed(runs):
                run.spend(seconds / rounds, record=True)
                advance(1)


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
