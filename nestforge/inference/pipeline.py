"""A session over a stream of images: each worker loads a batch, runs it, and takes the next."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nestforge.artifact.artifact import Artifact
from nestforge.data.loader import File, LoadImage, Unreadable, load_batch, map_in_order, split_batches
from nestforge.engines.base import Images, Logits, Parallelism, Settings
from nestforge.engines.machine import count_available_cores
from nestforge.errors import EngineError

BATCH = 2  # a stream runs two images a few percent faster than one; more images gain nothing


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The logits (B, classes) of the images at `indices` of the stream."""

    indices: tuple[int, ...]
    logits: Logits


def choose_parallelism(artifact: Artifact, images: int | None, *, threads: int | None = None) -> Parallelism:
    """Choose for `images` images, None if their number is unknown: what `tune` found on this machine, or a rule.

    The rule is one stream of one thread per core and small batches: threads that share no layer never wait for each
    other, and a core that decodes does not hold up the others. A single image gets all cores. With `threads`, the rule
    is applied to that many instead of the cores.
    """
    cores = count_available_cores() if threads is None else threads
    tuned = artifact.find_tuning() if threads is None else None
    if tuned is not None:
        best = (tuned.latency if images == 1 else tuned.throughput).parallelism
        streams, batch, cores = best.streams, best.batch, best.threads
    else:
        streams, batch = cores, BATCH
    if images is not None:
        streams = max(1, min(streams, images))
        batch = max(1, min(batch, images // streams))
    return Parallelism(batch=artifact.choose_batch(batch), streams=streams, threads=cores)


class Requests(Protocol):
    """What the pipeline needs of a session."""

    @property
    def settings(self) -> Settings: ...

    def run(self, images_nchw: Images) -> Logits: ...


def run_in_order(
    session: Requests,
    files: Iterable[File],
    load: LoadImage[File],
    *,
    workers: int | None = None,
    classes: int | None = None,
) -> Generator[Outputs | Unreadable, None, None]:
    """Yield the outputs of all images in order, one batch of the session at a time.

    Each of the `workers` (by default as many as cores, and at least one per stream) loads a batch and waits for its
    logits; while all streams are busy, the other workers load. At most twice as many batches as workers are ahead of
    the reader, so memory does not grow with the number of images. A batch that fails is run once more, after a warning.
    An `Unreadable` may come before the outputs of earlier images.

    Raises:
        EngineError: a batch failed twice: the engine refused it, or gave scores that are not finite, or not `classes`
            for each image.
    """
    workers = workers or max(session.settings.streams, count_available_cores())

    def run(images_nchw: Images) -> Logits:
        try:
            return _run_once(session, images_nchw, classes)
        except EngineError as error:
            warnings.warn(f"a batch of {len(images_nchw)} images failed and is run once more: {error}", stacklevel=2)
            return _run_once(session, images_nchw, classes)

    def work(batch: list[tuple[int, File]]) -> tuple[Outputs | None, list[Unreadable]]:
        loaded, unreadable = load_batch(batch, load)
        if loaded is None:
            return None, unreadable
        return Outputs(indices=loaded.indices, logits=run(loaded.images_nchw)), unreadable

    batches = split_batches(files, session.settings.batch)
    with closing(map_in_order(batches, work, ahead=2 * workers, workers=workers)) as results:
        for outputs, unreadable in results:
            yield from unreadable
            if outputs is not None:
                yield outputs


def _run_once(session: Requests, images_nchw: Images, classes: int | None) -> Logits:
    scores = session.run(images_nchw)
    if scores.ndim != 2 or len(scores) != len(images_nchw) or (classes is not None and scores.shape[1] != classes):
        raise EngineError(f"the model gave {scores.shape} scores for {len(images_nchw)} images of {classes} classes")
    if not np.isfinite(scores).all():
        raise EngineError("the model gave scores that are not finite numbers")
    return scores
