"""Speed of several artifacts against the batch: at each batch all of them interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nestforge.artifact.artifact import Artifact
from nestforge.engines.base import Dtype, Parallelism
from nestforge.measure.interleave import Latency, Run, run_interleaved
from nestforge.measure.peak import Peak, measure_peak
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.progress import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class BatchSpeed:
    """Speed at one batch: images a second with the 95% interval of the median over rounds.

    `ratio` is the median of this artifact's over the reference's, of the same rounds; None where that has no such
    batch. `peak_share` is as in `BenchmarkResult`.
    """

    batch: int
    throughput_ips: float
    low: float
    high: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    peak_share: float | None
    latency_ms: Latency
    latencies_ms: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of one artifact on `threads` threads, the smallest batch first."""

    artifact: Path
    threads: int
    seconds: float
    peak: Peak | None
    batches: tuple[BatchSpeed, ...]

    @property
    def best(self) -> BatchSpeed:
        """The batch of the highest throughput."""
        return max(self.batches, key=lambda row: row.throughput_ips)


def measure_scaling(
    artifacts: Sequence[Artifact],
    *,
    reference: int = 0,
    batches: Sequence[int],
    threads: int,
    seconds: float,
    progress: Progress = no_progress,
) -> list[Speed]:
    """Measure each artifact for `seconds` at each batch; one built for a fixed batch at that alone."""
    dtypes: list[Dtype] = [artifact.manifest.config.dtype for artifact in artifacts]
    wanted = [sorted({artifact.choose_batch(batch) for batch in batches}) for artifact in artifacts]
    with progress("measuring the machine's peak", None):
        peaks = {dtype: [measure_peak(dtype, threads)] for dtype in dtypes}
    found: list[list[BatchSpeed]] = [[] for _ in artifacts]
    for batch in sorted({batch for row in wanted for batch in row}):
        chosen = [place for place, row in enumerate(wanted) if batch in row]
        with progress(f"opening for batch {batch}", None):
            runs = {
                place: Run(artifacts[place].open_session(Parallelism(batch=batch, threads=threads))) for place in chosen
            }
        run_interleaved(list(runs.values()), seconds=seconds, description=f"measuring batch {batch}", progress=progress)
        for place, run in runs.items():
            found[place].append(_summarize(run, runs.get(reference)))
    for dtype in peaks:  # before and after, as `bench` does
        peaks[dtype].append(measure_peak(dtype, threads))
    speeds = []
    for artifact, dtype, rows in zip(artifacts, dtypes, found, strict=True):
        peak = max(filter(None, peaks[dtype]), key=lambda peak: peak.macs_per_second, default=None)
        share = artifact.manifest.kernel_macs / peak.macs_per_second if peak and artifact.manifest.kernel_macs else None
        batch_speeds = tuple(replace(row, peak_share=share and row.throughput_ips * share) for row in rows)
        speeds.append(
            Speed(artifact=artifact.folder, threads=threads, seconds=seconds, peak=peak, batches=batch_speeds)
        )
    return speeds


def _summarize(run: Run, first: Run | None) -> BatchSpeed:
    throughput, low, high = compute_ratio_interval(run.throughputs, [1.0] * len(run.throughputs))
    ratio = compute_ratio_interval(run.throughputs, first.throughputs) if first is not None else (None, None, None)
    return BatchSpeed(
        batch=run.session.settings.batch,
        throughput_ips=throughput,
        low=low,
        high=high,
        ratio=ratio[0],
        ratio_low=ratio[1],
        ratio_high=ratio[2],
        peak_share=None,
        latency_ms=run.summarize_latency(),
        latencies_ms=tuple(run.latencies_ms),
    )
