"""Find how requests share the machine best: for latency, and for throughput; the artifact remembers both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nestforge.artifact.artifact import Artifact, open_artifact, update_manifest
from nestforge.artifact.manifest import TunedParallelism, TuningRecord
from nestforge.checks import check_range
from nestforge.engines import get_engine
from nestforge.engines.base import Parallelism
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.files import StrPath
from nestforge.measure.interleave import Run, run_interleaved
from nestforge.progress import Progress, no_progress

BATCHES = (1, 2, 4, 8, 16)
ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What `tune` found, and every parallelism it measured, in the order of measuring."""

    artifact: Path
    cores: int
    budget_seconds: float
    latency: TunedParallelism
    throughput: TunedParallelism
    measured: tuple[TunedParallelism, ...]


def tune(artifact: StrPath, *, budget_seconds: float = 60.0, progress: Progress = no_progress) -> Tuning:
    """Measure candidates for about `budget_seconds` and write the best two into the artifact's manifest.

    Latency: one image, one stream, as many threads as are fastest. Throughput: all cores; first the number of streams,
    then the batch. Of the candidates within one percent of the best, the one with the lowest latency is taken.

    Raises:
        ConfigError: a budget outside 5 seconds to a day.
        ArtifactError: as `open_artifact`, or the manifest cannot be written.
    """
    check_range("budget", budget_seconds, 5, 86_400, unit="seconds")
    opened = open_artifact(artifact)
    cores = count_available_cores()
    one = opened.choose_batch(1)
    steps = [2**power for power in range(cores.bit_length()) if 2**power <= cores]
    counts = sorted({*steps, cores})
    share = budget_seconds / 3
    measured: list[TunedParallelism] = []

    def compare(candidates: Sequence[Parallelism], title: str) -> list[TunedParallelism]:
        found = _compare(opened, candidates, share, title, progress)
        measured.extend(found)
        return found

    latency = min(
        compare([Parallelism(batch=one, threads=threads) for threads in counts], "tuning threads"),
        key=lambda row: row.latency_ms,
    )
    streams = _choose(
        compare([Parallelism(batch=one, streams=count, threads=cores) for count in counts], "tuning streams")
    ).parallelism.streams
    batches = [batch for batch in BATCHES if opened.choose_batch(batch) == batch] or [one]
    throughput = _choose(
        compare([Parallelism(batch=batch, streams=streams, threads=cores) for batch in batches], "tuning batch")
    )
    record = TuningRecord(
        cpu=read_machine().cpu,
        cores=cores,
        engine_version=get_engine(opened.manifest.config.engine).version,
        latency=latency,
        throughput=throughput,
    )
    update_manifest(opened, tuning=record)
    return Tuning(
        artifact=opened.folder,
        cores=cores,
        budget_seconds=budget_seconds,
        latency=latency,
        throughput=throughput,
        measured=tuple(measured),
    )


def _compare(
    artifact: Artifact, candidates: Sequence[Parallelism], seconds: float, title: str, progress: Progress
) -> list[TunedParallelism]:
    """Measure the candidates interleaved, `seconds` in all."""
    with progress("opening", None):
        runs = [Run(artifact.open_session(candidate)) for candidate in candidates]
    each = seconds / len(runs)
    part = each / (ROUNDS + 1)
    run_interleaved(
        runs, seconds=each - part, rounds=ROUNDS, warm_up_seconds=part, description=title, progress=progress
    )
    return [
        TunedParallelism(
            parallelism=candidate,
            throughput_ips=float(np.median(run.throughputs)),
            latency_ms=float(np.median(run.latencies_ms)),
        )
        for candidate, run in zip(candidates, runs, strict=True)
    ]


def _choose(rows: Sequence[TunedParallelism]) -> TunedParallelism:
    best = max(row.throughput_ips for row in rows)
    return min((row for row in rows if row.throughput_ips >= 0.99 * best), key=lambda row: row.latency_ms)
