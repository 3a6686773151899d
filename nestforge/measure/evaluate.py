"""Top-1 and top-5 on labelled folders: counts with intervals, and two artifacts paired image by image."""

from __future__ import annotations

import contextlib
import hashlib
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nestforge.compile.artifact import Artifact, open_artifact
from nestforge.data.imagefolder import choose_balanced, list_images, match_classes
from nestforge.data.loader import Unreadable
from nestforge.errors import ConfigError, DataError
from nestforge.files import StrPath
from nestforge.journal import keep_journal
from nestforge.measure.classify import BATCH, classify_images
from nestforge.measure.statistics import Rate, compare_paired, compute_rate
from nestforge.progress import Progress, silent

TOP = 5
CHUNK_SECONDS = 1.0  # of work that a kill may cost


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """An image that was not counted, and why."""

    image: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class PairedEvaluation:
    """The other artifact on the same images, and ours minus theirs in top-1; rates are fractions of 1.

    `lost` images were right only in the other artifact, `gained` only in ours; `answers_changed` counts different
    top-1 answers, right or wrong.
    """

    artifact: Path
    top1: Rate
    top5: Rate
    difference: float
    low: float
    high: float
    mcnemar_p: float
    lost: int
    gained: int
    answers_changed: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Counts over `images` readable images."""

    artifact: Path
    dataset: Path
    images: int
    unreadable: tuple[UnreadableImage, ...]
    top1: Rate
    top5: Rate
    vs: PairedEvaluation | None = None


def evaluate(
    artifact: StrPath,
    dataset: StrPath,
    *,
    vs: StrPath | None = None,
    limit: int | None = None,
    verify: bool = True,
    progress: Progress = silent,
) -> Evaluation:
    """Count how often the right class is first, and among the first five.

    A class folder is called by the wnid or the name in the artifact's labels. `limit` takes that many images, evenly
    over the classes and always the same ones. Unreadable images are listed and left out of every count. `verify` as
    `open_artifact`.

    After an interruption or a kill the next evaluation of the same artifact and images goes on where it stopped.

    Raises:
        DataError: missing or empty dataset, a folder no label is called, or not one readable image.
        ConfigError: the two artifacts have different labels.
        ArtifactError: as `open_artifact`.
    """
    ours = open_artifact(artifact, verify=verify)
    theirs = open_artifact(vs, verify=verify) if vs is not None else None
    if theirs is not None and theirs.labels != ours.labels:
        raise ConfigError(f"{artifact} and {vs} have different labels; compare artifacts of the same classes")
    folder = list_images(Path(dataset))
    truth_of = dict(zip(folder.paths, match_classes(folder, ours.labels), strict=True))
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit} is below 1; leave it out to take all images")
    paths = folder.paths if limit is None else tuple(sorted(choose_balanced(folder, limit, seed=0)))
    truth = np.array([truth_of[path] for path in paths])

    with ExitStack() as finished:
        answers, unreadable = _collect_answers(ours, paths, finished, progress)
        read = answers[:, 0] >= 0
        if not read.any():
            raise DataError(f"not one of {len(paths)} images could be read; the first: {unreadable[0].reason}")
        if theirs is not None:
            other, other_unreadable = _collect_answers(theirs, paths, finished, progress)
    top1, top5 = _is_correct(answers, truth)
    paired = None
    if theirs is not None:
        if [row.image for row in other_unreadable] != [row.image for row in unreadable]:
            raise DataError("the two artifacts could not read the same images; was the dataset changed meanwhile?")
        other1, other5 = _is_correct(other, truth)
        comparison = compare_paired(top1[read], other1[read])
        paired = PairedEvaluation(
            artifact=theirs.folder,
            top1=compute_rate(int(other1[read].sum()), int(read.sum())),
            top5=compute_rate(int(other5[read].sum()), int(read.sum())),
            difference=comparison.difference,
            low=comparison.low,
            high=comparison.high,
            mcnemar_p=comparison.mcnemar_p,
            lost=comparison.lost,
            gained=comparison.gained,
            answers_changed=int((answers[read, 0] != other[read, 0]).sum()),
        )
    return Evaluation(
        artifact=ours.folder,
        dataset=folder.root,
        images=int(read.sum()),
        unreadable=tuple(unreadable),
        top1=compute_rate(int(top1[read].sum()), int(read.sum())),
        top5=compute_rate(int(top5[read].sum()), int(read.sum())),
        vs=paired,
    )


def _collect_answers(
    artifact: Artifact, paths: Sequence[Path], finished: ExitStack, progress: Progress
) -> tuple[npt.NDArray[np.int64], list[UnreadableImage]]:
    """Return the best classes (N, 5), -1 in the rows of unreadable images, and those images.

    Answers are kept in a journal until `finished` is left without an error, about every `CHUNK_SECONDS` and in whole
    batches: the rest is then cut into the same batches as if nothing had happened.
    """
    answers = np.full((len(paths), TOP), -1, np.int64)
    batch = artifact.choose_batch(min(BATCH, len(paths)))
    journal = finished.enter_context(keep_journal("evaluate", _identify_work(artifact, paths, batch)))
    for chunk in journal.records:
        for index, *classes in chunk:
            answers[index, : len(classes)] = classes
    todo = [index for index in range(len(paths)) if answers[index, 0] < 0]
    if len(todo) < len(paths):
        warnings.warn(
            f"going on with an interrupted evaluation of {artifact.folder}: {len(paths) - len(todo):,} of "
            f"{len(paths):,} images were done",
            stacklevel=3,
        )
    if not todo:
        return answers, []
    with progress(f"opening {artifact.folder.name}", None):
        session = artifact.open_session(batch=batch)
    chunk, begin = [], time.monotonic()
    unreadable = []
    for item in classify_images(artifact, [paths[i] for i in todo], top=TOP, session=session, progress=progress):
        if isinstance(item, Unreadable):
            unreadable.append(UnreadableImage(image=item.path, reason=item.reason))
            continue
        index = todo[item.index]
        answers[index, : len(item.classes)] = item.classes
        chunk.append([index, *item.classes])
        if len(chunk) % batch == 0 and time.monotonic() - begin >= CHUNK_SECONDS:
            journal.append(chunk)
            chunk, begin = [], time.monotonic()
    if 0 < len(chunk) < np.count_nonzero(answers[:, 0] >= 0):  # there is a journal, and another artifact may follow
        journal.append(chunk)
    return answers, unreadable


def _identify_work(artifact: Artifact, paths: Sequence[Path], batch: int) -> dict[str, Any]:
    """Return everything the answers depend on; of an image its path, size and when anything about it changed."""
    listing = hashlib.sha256()
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            listing.update(
                f"{path.absolute()}\0{status.st_size}\0{status.st_ctime_ns}\0".encode(errors="surrogateescape")
            )
    return artifact.identify() | {
        "images_sha256": listing.hexdigest(),
        "images": len(paths),
        "batch": batch,
        "top": TOP,
    }


def _is_correct(
    answers: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    hits = answers == truth[:, None]
    return hits[:, 0], hits.any(axis=1)
