"""How the benchmarks run artifacts over images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nestforge.artifact.artifact import Artifact
from nestforge.data.loader import Unreadable
from nestforge.engines.base import Images, Parallelism
from nestforge.errors import DataError
from nestforge.inference.classifier import Classifier
from nestforge.inference.pipeline import run_in_order
from nestforge.progress import show_bars

Item = TypeVar("Item")


def classify(classifier: Classifier, paths: Sequence[Path]) -> list[tuple[int, ...]]:
    """Return the best five classes of every image.

    Raises:
        DataError: one cannot be read.
    """
    return [item.classes for item in _refuse_unreadable(classifier.classify(paths))]


def find_best_classes(
    artifact: Artifact, paths: Sequence[Path], read: Callable[[Path], Images], *, batch: int, description: str
) -> npt.NDArray[np.int64]:
    """Return the best class (N,) of every image as `read` prepares it, (3, H, W) each.

    Raises:
        DataError: one cannot be read.
    """
    session = artifact.open_session(Parallelism.make(batch=batch))
    found = []
    with show_bars(description, len(paths)) as advance:
        for item in _refuse_unreadable(run_in_order(session, paths, read)):
            found.append(item.logits.argmax(1))
            advance(len(item.indices))
    return np.concatenate(found)


def _refuse_unreadable(items: Iterable[Item | Unreadable]) -> Iterator[Item]:
    for item in items:
        if isinstance(item, Unreadable):
            raise DataError(f"{item.reason}; take it out of the folder")
        yield item
