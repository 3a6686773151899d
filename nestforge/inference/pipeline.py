"""An artifact over a list of images: each worker loads a batch, runs it, and takes the next."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nestforge.artifact.artifact import Artifact
from nestforge.data.loader import File, LoadImage, Unreadable, load_batch, map_in_order, split_indices
from nestforge.data.preprocess import ImageFile, load_image
from nestforge.engines.base import Images, Logits, Session
from nestforge.engines.machine import count_available_cores
from nestforge.errors import EngineError
from nestforge.progress import Progress, no_progress

BATCH = 2  # a stream runs two images a few percent faster than one, and no faster the more


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """How images share the machine: requests of `batch` images on `streams`, fed by as many or more `workers`.

    `threads` are shared by the streams. A worker is a thread that loads a batch and waits for its logits.
    """

    batch: int
    streams: int
    threads: int
    workers: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The best classes of one image; `index` is its place in the list of paths."""

    index: int
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The logits (B, classes) of the images at `indices` in the list of paths."""

    indices: tuple[int, ...]
    logits: Logits


def choose_arrangement(artifact: Artifact, images: int) -> Arrangement:
    """Choose what `tune` found on this machine; else by rule: one stream of one thread a core, small batches.

    A single image gets all cores. Threads that share no layer never wait for each other, and a decoding core holds up
    no other one. The answers do not depend on the arrangement.
    """
    cores = count_available_cores()
    tuned = artifact.find_tuning()
    if tuned is not None:
        best = tuned.throughput if images > 1 else tuned.latency
        streams = max(1, min(best.streams, images))
        batch, threads = best.batch, best.threads
    else:
        streams = max(1, min(cores, images))
        batch, threads = BATCH, cores
    batch = artifact.choose_batch(max(1, min(batch, images // streams)))
    return Arrangement(batch=batch, streams=streams, threads=threads, workers=max(streams, min(cores, images)))


def classify_images(
    artifact: Artifact,
    paths: Sequence[ImageFile],
    *,
    top: int = 5,
    arrangement: Arrangement | None = None,
    progress: Progress = no_progress,
) -> Iterator[Answer | Unreadable]:
    """Yield an `Answer` or an `Unreadable` for every path; memory does not grow with the list.

    Answers come in the order of the list; an `Unreadable` may come before answers of earlier images.

    Raises:
        EngineError: as `run_in_order`.
    """
    chosen = arrangement or choose_arrangement(artifact, len(paths))
    with progress(f"opening {artifact.folder.name}", None):
        session = artifact.open_session(batch=chosen.batch, streams=chosen.streams, threads=chosen.threads)
    with progress(f"classifying with {artifact.folder.name}", len(paths)) as advance:
        for item in classify_in_session(artifact, session, paths, top=top, workers=chosen.workers):
            yield item
            advance(1)


def classify_in_session(
    artifact: Artifact, session: Session, paths: Sequence[ImageFile], *, top: int, workers: int
) -> Iterator[Answer | Unreadable]:
    """Do what `classify_images` does in a session of the artifact that is open already."""
    preprocess = artifact.manifest.preprocess
    classes = artifact.manifest.classes
    items = run_in_order(session, paths, lambda path: load_image(path, preprocess), workers=workers, classes=classes)
    for item in items:
        if isinstance(item, Unreadable):
            yield item
            continue
        probabilities = item.logits if artifact.manifest.gives_probabilities else softmax(item.logits)
        order = np.argsort(-item.logits, axis=1, kind="stable")[:, :top]
        for index, best, row in zip(item.indices, order, probabilities, strict=True):
            yield Answer(index=index, classes=tuple(map(int, best)), probabilities=tuple(map(float, row[best])))


def softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Return probabilities (B, classes) of logits (B, classes)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials: npt.NDArray[np.float64] = np.exp(shifted)
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def run_in_order(
    session: Session, paths: Sequence[File], load: LoadImage[File], *, workers: int, classes: int | None = None
) -> Iterator[Outputs | Unreadable]:
    """Yield the outputs of all images in order, a batch of the session at a time.

    Each of the workers loads a batch and waits for its logits; where there are more workers than streams, the others
    load meanwhile. At most twice as many batches as workers are ahead of the reader. A batch that fails is run once
    more, after a warning.

    Raises:
        EngineError: a batch failed twice: the engine refused it, or gave scores that are not finite, or not `classes`
            for each image.
    """

    def run(images_nchw: Images) -> Logits:
        try:
            return _run_once(session, images_nchw, classes)
        except EngineError as error:
            warnings.warn(f"a batch of {len(images_nchw)} images failed and is run once more: {error}", stacklevel=2)
            return _run_once(session, images_nchw, classes)

    def work(indices: range) -> tuple[Outputs | None, list[Unreadable]]:
        batch, unreadable = load_batch(paths, indices, load)
        if batch is None:
            return None, unreadable
        return Outputs(indices=batch.indices, logits=run(batch.images_nchw)), unreadable

    groups = split_indices(len(paths), session.settings.batch)
    for outputs, unreadable in map_in_order(groups, work, ahead=2 * workers, workers=workers):
        yield from unreadable
        if outputs is not None:
            yield outputs


def _run_once(session: Session, images_nchw: Images, classes: int | None) -> Logits:
    scores = session.run(images_nchw)
    if scores.ndim != 2 or len(scores) != len(images_nchw) or (classes is not None and scores.shape[1] != classes):
        raise EngineError(f"the model gave {scores.shape} scores for {len(images_nchw)} images of {classes} classes")
    if not np.isfinite(scores).all():
        raise EngineError("the model gave scores that are not finite numbers")
    return scores
