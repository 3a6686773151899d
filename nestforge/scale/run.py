"""Where the samples of a source are classified: in this process, or by the workers of a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from nestforge.artifact.artifact import Artifact
from nestforge.checks import check_range
from nestforge.data.sources import Source
from nestforge.engines.base import MAX_PARALLELISM
from nestforge.errors import ConfigError
from nestforge.inference.classifier import Classifier
from nestforge.inference.pipeline import choose_parallelism
from nestforge.progress import Progress
from nestforge.scale.rows import Row
from nestforge.scale.samples import Request, classify_samples, number_samples
from nestforge.scale.tally import Tally


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where images were classified: `ray` is the cluster's address, None for this process.

    There were `workers` processes of `threads` threads each.
    """

    ray: str | None
    workers: int
    threads: int


class Runner(Protocol):
    """A place to classify the samples of a source."""

    def run(
        self, artifact: Artifact, source: Source, request: Request, tally: Tally, *, done: Set[tuple[int, int]] = ...
    ) -> Generator[Row, None, None]:
        """Yield a row for every sample, exactly once, except those whose (part, position) is in `done`.

        `tally` counts the rows, and refuses an incomplete run after the last.

        Raises:
            DataError: a part is damaged, holds calibration images, or was lost; no image could be read.
            EngineError: the engine failed twice.
            NestForgeError: the cluster failed.
        """
        ...

    def describe(self, artifact: Artifact) -> Placement:
        """Return where the samples are classified."""
        ...


@contextmanager
def open_runner(
    ray: str | None, *, workers: int | None, threads: int | None, verify: bool, progress: Progress
) -> Iterator[Runner]:
    """Give a runner: `ray` is the address of a cluster, or ``local`` for one of this machine's cores.

    `workers` is by default as many as fit the cluster, of `threads` (default 1; in this process all cores).

    Raises:
        ConfigError: a number out of range, workers without Ray, or more workers than the cluster has CPUs for.
        NestForgeError: a package is missing, or no cluster answers.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None:
            check_range(name, value, 1, MAX_PARALLELISM)
    if ray is None:
        if workers is not None:
            raise ConfigError("workers are Ray's; give --ray local or the address of a cluster")
        yield _Local(threads, progress)
        return
    from nestforge.scale import cluster

    threads = threads or 1
    with cluster.connect(ray, cpus=cluster.count_local_cpus(workers, threads)) as cpus:
        chosen = cluster.choose_workers(workers, threads, cpus)
        yield _OnRay(Placement(ray=ray, workers=chosen, threads=threads), verify)


class _Local:
    """This process: one classifier, whose streams are fed from all parts without a pause between them."""

    def __init__(self, threads: int | None, progress: Progress) -> None:
        self._threads = threads
        self._progress = progress

    def run(
        self,
        artifact: Artifact,
        source: Source,
        request: Request,
        tally: Tally,
        *,
        done: Set[tuple[int, int]] = frozenset(),
    ) -> Generator[Row, None, None]:
        remaining = None if source.images is None else source.images - len(done)
        if remaining != 0:
            with self._progress(f"opening {artifact.folder.name}", None):
                chosen = choose_parallelism(artifact, remaining, threads=self._threads)
                classifier = Classifier(artifact, chosen)
            samples = (sample for sample in number_samples(enumerate(source.parts)) if sample[:2] not in done)
            with classifier, contextlib.closing(classify_samples(classifier, samples, request)) as rows:
                for row in rows:
                    if tally.add(row):
                        yield row
        tally.check_complete()

    def describe(self, artifact: Artifact) -> Placement:
        threads = choose_parallelism(artifact, None, threads=self._threads).threads
        return Placement(ray=None, workers=1, threads=threads)


class _OnRay:
    """The workers of a cluster, each with an artifact of its own."""

    def __init__(self, placement: Placement, verify: bool) -> None:
        self._placement = placement
        self._verify = verify

    def run(
        self,
        artifact: Artifact,
        source: Source,
        request: Request,
        tally: Tally,
        *,
        done: Set[tuple[int, int]] = frozenset(),
    ) -> Generator[Row, None, None]:
        from nestforge.scale import cluster
        from nestforge.scale.arrow import rows_from_table

        settings = {
            "artifact": str(artifact.folder.absolute()),
            "model_sha256": artifact.model_sha256,
            "threads": self._placement.threads,
            "request": request,
            "verify": self._verify,
        }
        tables = cluster.classify_on_ray(
            source.parts, settings, workers=self._placement.workers, threads=self._placement.threads
        )
        with contextlib.closing(tables):  # before the connection is
            for table in tables:
                for part, images in zip(table["part"].to_pylist(), table["of"].to_pylist(), strict=True):
                    tally.expect(part, images)
                for row in rows_from_table(table):
                    if (row.part, row.position) not in done and tally.add(row):
                        yield row
        tally.check_complete()

    def describe(self, artifact: Artifact) -> Placement:
        return self._placement
