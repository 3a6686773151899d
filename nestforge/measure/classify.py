"""An artifact over a list of images: decoding in threads while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nestforge.compile.artifact import Artifact
from nestforge.data.loader import Batch, Unreadable, load_batches
from nestforge.data.preprocess import ImageFile
from nestforge.engines.base import Logits, Session
from nestforge.engines.machine import count_available_cores
from nestforge.progress import Progress, silent

BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The best classes of one image; `index` is its place in the list of paths."""

    index: int
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]


def classify_images(
    artifact: Artifact,
    paths: Sequence[ImageFile],
    *,
    top: int = 5,
    session: Session | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Iterator[Answer | Unreadable]:
    """Yield an `Answer` or an `Unreadable` for every path; memory does not grow with the list.

    `workers` threads decode; default: the cores this process may use.
    Answers come in the order of the list; an `Unreadable` may come before answers of earlier images.
    """
    batch = artifact.choose_batch(min(BATCH, max(1, len(paths))))
    with progress(f"opening {artifact.folder.name}", None):
        session = session or artifact.open_session(batch=batch)
    workers = count_available_cores() if workers is None else workers
    batches = load_batches(paths, artifact.manifest.preprocess, batch=session.settings.batch, workers=workers)
    with progress(f"classifying with {artifact.folder.name}", len(paths)) as advance:
        for item, logits in run_ahead(session, batches):
            if isinstance(item, Unreadable) or logits is None:
                assert isinstance(item, Unreadable)
                advance(1)
                yield item
                continue
            probabilities = logits if artifact.manifest.gives_probabilities else softmax(logits)
            order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
            for index, classes, row in zip(item.indices, order, probabilities, strict=True):
                yield Answer(
                    index=index, classes=tuple(map(int, classes)), probabilities=tuple(map(float, row[classes]))
                )
            advance(len(item.indices))


def softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Return probabilities (B, classes) of logits (B, classes)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials: npt.NDArray[np.float64] = np.exp(shifted)
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def run_ahead(
    session: Session, batches: Iterator[Batch | Unreadable]
) -> Iterator[tuple[Batch | Unreadable, Logits | None]]:
    """Run batches on the session's streams while the next ones are being loaded; keep their order."""
    waiting: deque[tuple[Batch | Unreadable, Future[Logits] | None]] = deque()
    with ThreadPoolExecutor(session.settings.streams, thread_name_prefix="infer") as pool:
        for item in batches:
            waiting.append((item, pool.submit(session.run, item.images_nchw) if isinstance(item, Batch) else None))
            while len(waiting) > session.settings.streams + 1:
                first, future = waiting.popleft()
                yield first, future.result() if future else None
        for first, future in waiting:
            yield first, future.result() if future else None
