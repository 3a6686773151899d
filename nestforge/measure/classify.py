"""An artifact over a list of images: decoding in threads while the network runs."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nestforge.compile.artifact import Artifact
from nestforge.data.loader import Batch, Unreadable, load_batches
from nestforge.engines.base import Images, Logits, Session
from nestforge.engines.machine import count_available_cores
from nestforge.errors import EngineError
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
    paths: Sequence[Path],
    *,
    top: int = 5,
    session: Session | None = None,
    progress: Progress = silent,
) -> Iterator[Answer | Unreadable]:
    """Yield an `Answer` or an `Unreadable` for every path; memory does not grow with the list.

    Answers come in the order of the list; an `Unreadable` may come before answers of earlier images.

    Raises:
        EngineError: as `run_ahead`.
    """
    batch = artifact.choose_batch(min(BATCH, max(1, len(paths))))
    with progress(f"opening {artifact.folder.name}", None):
        session = session or artifact.open_session(batch=batch)
    batches = load_batches(
        paths, artifact.manifest.preprocess, batch=session.settings.batch, workers=count_available_cores()
    )
    with progress(f"classifying with {artifact.folder.name}", len(paths)) as advance:
        for item, logits in run_ahead(session, batches, classes=artifact.manifest.classes):
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
    session: Session, batches: Iterator[Batch | Unreadable], *, classes: int
) -> Iterator[tuple[Batch | Unreadable, Logits | None]]:
    """Run batches on the session's streams while the next ones are being loaded; keep their order.

    A batch that fails is run once more, after a warning.

    Raises:
        EngineError: a batch failed twice: the engine refused it, or gave anything but `classes` finite scores an image.
    """

    def run(images_nchw: Images) -> Logits:
        try:
            return _run_once(session, images_nchw, classes)
        except EngineError as error:
            warnings.warn(f"a batch of {len(images_nchw)} images failed and is run once more: {error}", stacklevel=2)
            return _run_once(session, images_nchw, classes)

    waiting: deque[tuple[Batch | Unreadable, Future[Logits] | None]] = deque()
    with ThreadPoolExecutor(session.settings.streams, thread_name_prefix="infer") as pool:
        for item in batches:
            waiting.append((item, pool.submit(run, item.images_nchw) if isinstance(item, Batch) else None))
            while len(waiting) > session.settings.streams + 1:
                first, future = waiting.popleft()
                yield first, future.result() if future else None
        for first, future in waiting:
            yield first, future.result() if future else None


def _run_once(session: Session, images_nchw: Images, classes: int) -> Logits:
    scores = session.run(images_nchw)
    if scores.shape != (len(images_nchw), classes):
        raise EngineError(f"the model gave {scores.shape} scores for {len(images_nchw)} images of {classes} classes")
    if not np.isfinite(scores).all():
        raise EngineError("the model gave scores that are not finite numbers")
    return scores
