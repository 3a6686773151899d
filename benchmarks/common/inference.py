"""How the benchmarks run artifacts over images: the one place that knows how nestforge is told to share the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

import nestforge
from nestforge.artifact.artifact import Artifact
from nestforge.data.loader import Unreadable
from nestforge.engines.base import Images, Session
from nestforge.engines.machine import count_available_cores
from nestforge.errors import DataError
from nestforge.inference.pipeline import Arrangement, choose_arrangement, classify_in_session, run_in_order
from nestforge.progress import show_bars

if TYPE_CHECKING:
    from nestforge.scale.run import SourceResult

Item = TypeVar("Item")
Parallelism = Arrangement
TOP = 5


def choose_parallelism(artifact: Artifact, images: int) -> Parallelism:
    """Choose as `nestforge predict` does for that many images."""
    return choose_arrangement(artifact, images)


def make_parallelism(*, batch: int, streams: int, workers: int) -> Parallelism:
    """Return requests of `batch` images on `streams` that share all cores, loaded by `workers` threads."""
    return Parallelism(batch=batch, streams=streams, threads=count_available_cores(), workers=workers)


ONE_BY_ONE = Parallelism(batch=1, streams=1, threads=1, workers=1)


def open_session(artifact: Artifact, parallelism: Parallelism) -> Session:
    """Open an artifact so."""
    return artifact.open_session(batch=parallelism.batch, streams=parallelism.streams, threads=parallelism.threads)


def classify(
    artifact: Artifact, session: Session, paths: Sequence[Path], parallelism: Parallelism
) -> list[tuple[int, ...]]:
    """Return the best five classes of every image.

    Raises:
        DataError: one cannot be read.
    """
    items = classify_in_session(artifact, session, paths, top=TOP, workers=parallelism.workers)
    return [item.classes for item in _refuse_unreadable(items)]


def find_best_classes(
    artifact: Artifact, paths: Sequence[Path], read: Callable[[Path], Images], *, batch: int, description: str
) -> npt.NDArray[np.int64]:
    """Return the best class (N,) of every image as `read` prepares it, (3, H, W) each.

    Raises:
        DataError: one cannot be read.
    """
    session = artifact.open_session(batch=batch)
    found = []
    with show_bars(description, len(paths)) as advance:
        for item in _refuse_unreadable(run_in_order(session, paths, read, workers=count_available_cores())):
            found.append(item.logits.argmax(1))
            advance(len(item.indices))
    return np.concatenate(found)


def _refuse_unreadable(items: Iterable[Item | Unreadable]) -> Iterator[Item]:
    for item in items:
        if isinstance(item, Unreadable):
            raise DataError(f"{item.path}: {item.reason}; take it out of the folder")
        yield item


def evaluate_parts(
    artifact: Path, source: Path, *, threads: int, ray: str | None = None, workers: int | None = None
) -> SourceResult:
    """Count in this process, or with `workers` on a Ray cluster."""
    return nestforge.evaluate_source(artifact, source, ray=ray, workers=workers, threads=threads)
