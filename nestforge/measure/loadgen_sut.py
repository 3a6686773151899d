"""MLPerf LoadGen's system under test: ``python -m nestforge.measure.loadgen_sut JOB.json`` runs one test.

It is a process of its own because LoadGen cannot be interrupted and aborts where it is torn down half-way.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlperf_loadgen
import numpy as np
import numpy.typing as npt

from nestforge.artifact.artifact import open_artifact
from nestforge.data.preprocess import Preprocess, normalize_images, read_image
from nestforge.engines.base import Images, Parallelism, Session
from nestforge.engines.machine import count_available_cores
from nestforge.errors import DataError, NestForgeError
from nestforge.inference.topk import rank_classes

TOP = 5
LIBRARY_BYTES = 1 << 30  # of preprocessed images in memory
TRIAL_SECONDS = 1.0
# What is asked of the system, as a share of the trial: Offline must not run dry before the time is over.
TRIAL_SHARE = {"Offline": 1.2, "SingleStream": 1.0, "Server": 0.5}
OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One test; what is None is chosen from a short trial run of the session."""

    artifact: str
    images: list[str]
    scenario: str
    accuracy: bool
    parallelism: Parallelism
    seconds: float
    queries: int
    target_qps: float | None
    latency_ms: float | None
    logs: str


class SampleLibrary:
    """LoadGen's query sample library: images preprocessed before the clock starts."""

    def __init__(self, paths: Sequence[Path], preprocess: Preprocess) -> None:
        self.paths = list(paths)
        self.unreadable: dict[int, str] = {}
        self._preprocess = preprocess
        self._loaded: dict[int, Images] = {}

    def __getitem__(self, index: int) -> Images:
        """Return (1, 3, H, W)."""
        return self._loaded[index]

    def load(self, indices: Sequence[int]) -> None:
        """Decode and preprocess; an unreadable image is remembered instead."""

        def read(index: int) -> Images | DataError:
            try:
                return normalize_images(read_image(self.paths[index], self._preprocess)[None], self._preprocess)
            except DataError as error:
                return error

        with ThreadPoolExecutor(count_available_cores()) as pool:
            for index, outcome in zip(indices, pool.map(read, indices), strict=True):
                if isinstance(outcome, DataError):
                    self.unreadable[index] = str(outcome)
                else:
                    self._loaded[index] = outcome

    def unload(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._loaded.pop(index, None)

    def keep_readable(self) -> None:
        """Forget the images that could not be read; those that remain are numbered again."""
        kept = sorted(self._loaded)
        self.paths = [self.paths[index] for index in kept]
        self._loaded = {number: self._loaded[index] for number, index in enumerate(kept)}


class SystemUnderTest:
    """Answers LoadGen's queries: a single one at once, several by `streams` threads in batches of what waits."""

    def __init__(self, session: Session, library: SampleLibrary, *, single: bool) -> None:
        self._session = session
        self._library = library
        self._single = single
        self._counting = threading.Lock()
        self.answered = 0
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(0 if single else session.settings.streams):
            threading.Thread(target=self._serve, daemon=True).start()

    def issue(self, samples: Sequence[Any]) -> None:
        if self._single:
            self._answer(list(samples))
            return
        for sample in samples:
            self._waiting.put(sample)

    def flush(self) -> None:
        """Nothing is held back."""

    def _serve(self) -> None:
        while True:
            samples = [self._waiting.get()]
            while len(samples) < self._session.settings.batch:
                try:
                    samples.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            self._answer(samples)

    def _answer(self, samples: list[Any]) -> None:
        try:
            answers = self._classify([sample.index for sample in samples])
        except BaseException as error:  # LoadGen would wait forever
            fail(f"the session failed under LoadGen: {error}")
        with self._counting:
            self.answered += len(samples)
        address, row_bytes = answers.ctypes.data, answers.strides[0]
        mlperf_loadgen.QuerySamplesComplete(
            [
                mlperf_loadgen.QuerySampleResponse(sample.id, address + row * row_bytes, row_bytes)
                for row, sample in enumerate(samples)
            ]
        )

    def _classify(self, indices: list[int]) -> npt.NDArray[np.int32]:
        """Return the best classes (N, 5), -1 for what could not be read."""
        answers = np.full((len(indices), TOP), -1, np.int32)
        rows = [row for row, index in enumerate(indices) if index not in self._library.unreadable]
        if rows:
            logits = self._session.run(np.concatenate([self._library[indices[row]] for row in rows]))
            best = rank_classes(logits, TOP)
            answers[rows, : best.shape[1]] = best
        return answers


def run_test(job: Job) -> dict[str, Any]:
    """Run one test; LoadGen writes its logs into ``job.logs``. Return what it does not know."""
    artifact = open_artifact(job.artifact)
    manifest = artifact.manifest
    session = artifact.open_session(job.parallelism)
    library = SampleLibrary([Path(image) for image in job.images], manifest.preprocess)
    resident = min(len(library.paths), max(1, LIBRARY_BYTES // (3 * manifest.height * manifest.width * 4)))
    if not job.accuracy:
        library.load(range(resident))
        library.keep_readable()
        resident = len(library.paths)
        if not resident:
            raise DataError(f"no image could be read; the first: {library.unreadable[0]}")
        library.unreadable.clear()
    images_per_second = try_session(session)
    target_qps, latency_ms = job.target_qps, job.latency_ms
    if target_qps is None:
        target_qps = images_per_second * TRIAL_SHARE[job.scenario]
    if latency_ms is None:
        latency_ms = 5 * 1e3 * job.parallelism.batch * job.parallelism.streams / images_per_second
    settings = make_settings(job, target_qps=target_qps, latency_ms=latency_ms)

    system = SystemUnderTest(session, library, single=job.scenario == "SingleStream")
    output = mlperf_loadgen.LogOutputSettings()
    output.outdir = job.logs
    output.copy_summary_to_stdout = False
    logging = mlperf_loadgen.LogSettings()
    logging.log_output = output
    logging.enable_trace = False
    sut = mlperf_loadgen.ConstructSUT(system.issue, system.flush)
    qsl = mlperf_loadgen.ConstructQSL(len(library.paths), resident, library.load, library.unload)
    begin = time.perf_counter()
    mlperf_loadgen.StartTestWithLogSettings(sut, qsl, settings, logging)
    seconds = time.perf_counter() - begin
    mlperf_loadgen.DestroyQSL(qsl)
    mlperf_loadgen.DestroySUT(sut)
    return {
        "images": len(library.paths),
        "unreadable": library.unreadable,
        "samples": system.answered,
        "target_qps": target_qps if job.scenario != "SingleStream" else None,
        "latency_ms": latency_ms if job.scenario == "Server" else None,
        "seconds": seconds,
    }


def try_session(session: Session) -> float:
    """Return images a second of a short trial, one request at a time on every stream."""
    from nestforge.measure.interleave import Run

    run = Run(session)
    run.spend(TRIAL_SECONDS / 2, record=False)
    run.spend(TRIAL_SECONDS, record=True)
    return run.throughputs[0]


def make_settings(job: Job, *, target_qps: float, latency_ms: float) -> Any:
    """Return LoadGen's settings."""
    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, job.scenario)
    settings.mode = mlperf_loadgen.TestMode.AccuracyOnly if job.accuracy else mlperf_loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(job.seconds * 1e3)
    settings.min_query_count = job.queries
    settings.offline_expected_qps = target_qps
    settings.server_target_qps = target_qps
    settings.server_target_latency_ns = round(latency_ms * 1e6)
    # LoadGen makes its queries beforehand, as many as fit the time at this latency: rather too many
    settings.single_stream_expected_latency_ns = round(0.5e9 / target_qps)
    return settings


def fail(message: str) -> Any:
    """Leave at once, with one line."""
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    os._exit(2)


def main() -> None:
    data = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    job = Job(**data | {"parallelism": Parallelism(**data["parallelism"])})
    try:
        outcome = run_test(job)
    except NestForgeError as error:
        fail(str(error))
    (Path(job.logs) / OUTCOME_FILE).write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main()
