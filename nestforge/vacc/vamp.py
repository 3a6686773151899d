"""The vendor's ``vamp``: measures the speed of an artifact. Its other half, lists of npz images, is in `datalist`."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError

import numpy as np

from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.checks import check_range
from nestforge.compile.build import read_peak_rss_bytes
from nestforge.engines.base import Parallelism
from nestforge.engines.machine import count_available_cores
from nestforge.errors import ConfigError, EngineError, NestForgeError
from nestforge.measure.interleave import Latency, Run
from nestforge.vacc.geometry import check_vdsp
from nestforge.vacc.vdsp import Vdsp, check_output_size, read_vdsp
from nestforge.vacc.workers import CONTEXT, open_pool

WARM_UP_SECONDS = 1.0
BARRIER_SECONDS = 600.0
PREPROCESS_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class VampSettings:
    """What the flags ask for, with every file opened and checked; worker processes get it too.

    `instances` is the number of parallel requests (-i) of `batch` images in each of `processes` (-p). `vdsp` is the
    vdsp_params file, and `warnings` lists how it differs from the published preprocessing.
    """

    artifact: Artifact
    vdsp: Vdsp | None
    instances: int
    processes: int
    batch: int
    warnings: tuple[str, ...]

    @property
    def parallelism(self) -> Parallelism:
        """The parallelism of one process, which gets its share of the cores."""
        threads = max(1, count_available_cores() // self.processes)
        return Parallelism(batch=self.batch, streams=self.instances, threads=threads)


def open_settings(
    model: Path,
    vdsp_params: Path | None = None,
    *,
    instances: int | None = None,
    processes: int = 1,
    batch: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> VampSettings:
    """Open everything that a run needs. A number that is None becomes 1 or, for one process, what tuning found.

    Raises:
        ConfigError: a number out of range, or a shape or vdsp file that does not fit the artifact.
        ArtifactError: as `open_artifact`.
    """
    artifact = open_artifact(model)
    tuning = artifact.find_tuning() if instances is batch is None and processes == 1 else None
    if tuning is not None:
        best = tuning.throughput.parallelism
        instances, batch = best.streams, best.batch
    numbers = {
        "instances": 1 if instances is None else instances,
        "processes": processes,
        "batch": 1 if batch is None else batch,
    }
    for name, value in numbers.items():
        check_range(name, value, 1, 256)
    manifest = artifact.manifest
    own = (3, manifest.height, manifest.width)
    if shape is not None and shape != own:
        raise ConfigError(f"-s {list(shape)} is not the artifact's input {list(own)}; leave it out, or build for it")
    vdsp: Vdsp | None = None
    warnings: tuple[str, ...] = ()
    if vdsp_params is not None:
        vdsp = read_vdsp(vdsp_params)
        check_output_size(vdsp, height=manifest.height, width=manifest.width, artifact=model)
        warnings = check_vdsp(manifest, vdsp)
    return VampSettings(artifact=artifact, vdsp=vdsp, warnings=warnings, **numbers)


@dataclass(frozen=True, kw_only=True)
class VampBench:
    """Speed of the network alone, on normalised random images.

    `throughput_fps` is images per second of all processes together, `latency_ms` that of a batch, `cpu_cores` the
    processor time per second, and `memory_bytes` the sum of the processes' peak resident memory. `preprocess_ms` is the
    time of the vdsp file's preprocessing for one image on one core; None without a vdsp file.
    """

    model: Path
    engine: str
    dtype: str
    shape: tuple[int, int, int]
    instances: int
    processes: int
    batch: int
    seconds: float
    requests: int
    throughput_fps: float
    latency_ms: Latency
    cpu_cores: float
    available_cores: int
    memory_bytes: int
    preprocess_ms: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    images: int
    seconds: float
    cpu_seconds: float
    rss_bytes: int
    latencies_ms: list[float]


def measure_vamp(
    settings: VampSettings,
    *,
    seconds: float = 5.0,
    iterations: int | None = None,
) -> VampBench:
    """Measure for `seconds` after a warm-up, or for `iterations` batches per instance.

    Raises:
        ConfigError: `seconds` or `iterations` out of range.
        EngineError: the artifact cannot be opened with these settings.
    """
    check_range("-t", seconds, 0.1, 86_400, unit="seconds")
    if iterations is not None:
        check_range("--iterations", iterations, 1, 10**9)
    manifest = settings.artifact.manifest
    if settings.processes == 1:
        parts = [_measure(settings, seconds, iterations, None)]
    else:
        with open_pool(settings.processes, _keep_barrier, CONTEXT.Barrier(settings.processes)) as pool:
            futures = [pool.submit(_measure_together, settings, seconds, iterations) for _ in range(settings.processes)]
            parts = [future.result() for future in as_completed(futures)]
    latencies_ms = [latency for part in parts for latency in part.latencies_ms]
    p50, p90, p99 = (float(value) for value in np.percentile(latencies_ms, [50, 90, 99]))
    return VampBench(
        model=settings.artifact.folder,
        engine=manifest.config.engine,
        dtype=manifest.config.dtype,
        shape=(3, manifest.height, manifest.width),
        instances=settings.instances,
        processes=settings.processes,
        batch=settings.batch,
        seconds=max(part.seconds for part in parts),
        requests=len(latencies_ms),
        throughput_fps=sum(part.images / part.seconds for part in parts),
        latency_ms=Latency(mean=float(np.mean(latencies_ms)), p50=p50, p90=p90, p99=p99),
        cpu_cores=sum(part.cpu_seconds / part.seconds for part in parts),
        available_cores=count_available_cores(),
        memory_bytes=sum(part.rss_bytes for part in parts),
        preprocess_ms=None if settings.vdsp is None else _time_preprocessing(settings.vdsp),
        warnings=settings.warnings,
    )


_barriers: list[Barrier] = []  # of this worker process


def _keep_barrier(barrier: Barrier) -> None:
    _barriers.append(barrier)


def _measure_together(settings: VampSettings, seconds: float, iterations: int | None) -> _Measured:
    try:
        return _measure(settings, seconds, iterations, _barriers[0])
    except NestForgeError:
        _barriers[0].abort()  # the others would wait for this process
        raise
    except BrokenBarrierError as error:
        raise EngineError("another process could not take part in the measurement") from error


def _measure(settings: VampSettings, seconds: float, iterations: int | None, barrier: Barrier | None) -> _Measured:
    """Measure in this process; with a barrier, start when all processes have warmed up."""
    run = Run(settings.artifact.open_session(settings.parallelism))
    run.spend(WARM_UP_SECONDS, record=False)
    if barrier is not None:
        barrier.wait(BARRIER_SECONDS)
    begin, begin_cpu = time.perf_counter(), _read_cpu_seconds()
    run.spend(seconds, record=True, requests=iterations)
    elapsed = time.perf_counter() - begin
    return _Measured(
        images=len(run.latencies_ms) * settings.batch,
        seconds=elapsed,
        cpu_seconds=_read_cpu_seconds() - begin_cpu,
        rss_bytes=read_peak_rss_bytes(),
        latencies_ms=run.latencies_ms,
    )


def _read_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _time_preprocessing(vdsp: Vdsp) -> float:
    """Return the median milliseconds for one image of the size that the file names."""
    height, width = vdsp.OpConfig.IimageHeight or 375, vdsp.OpConfig.IimageWidth or 500
    image_chw = np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8)
    return float(np.median(list(_time_rounds(vdsp, image_chw))))


def _time_rounds(vdsp: Vdsp, image_chw: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Iterator[float]:
    for _ in range(PREPROCESS_ROUNDS):
        begin = time.perf_counter()
        vdsp.apply(image_chw)
        yield (time.perf_counter() - begin) * 1e3
