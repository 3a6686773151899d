"""Top-1 and top-5 on labelled folders: counts with intervals, and two artifacts paired image by image."""

from __future__ import annotations

import contextlib
import hashlib
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.artifact.overlap import refuse_calibration_images
from nestforge.data.imagefolder import choose_balanced, list_images, match_classes
from nestforge.data.loader import Unreadable
from nestforge.errors import ConfigError, DataError
from nestforge.files import StrPath
from nestforge.inference.pipeline import choose_arrangement, classify_images
from nestforge.journal import keep_journal
from nestforge.measure.paired import TOP, Answers, ClassAccuracy, PairedEvaluation, count_classes, pair_predictions
from nestforge.measure.statistics import Rate, compute_rate
from nestforge.progress import Progress, no_progress

CHUNK_SECONDS = 1.0  # of work that a kill may cost


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """An image that was not counted, and why."""

    image: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Counts over `images` readable images; `classes` are those that have some, in the order of the labels."""

    artifact: Path
    dataset: Path
    images: int
    unreadable: tuple[UnreadableImage, ...]
    top1: Rate
    top5: Rate
    classes: tuple[ClassAccuracy, ...] = field(repr=False)
    vs: PairedEvaluation | None = None


def evaluate(
    artifact: StrPath,
    dataset: StrPath,
    *,
    vs: StrPath | None = None,
    limit: int | None = None,
    allow_overlap: bool = False,
    verify: bool = True,
    progress: Progress = no_progress,
) -> Evaluation:
    """Count how often the right class is first, and among the first five.

    A class folder is called by the wnid or the name in the artifact's labels. `limit` takes that many images, evenly
    over the classes and always the same ones. Unreadable images are listed and left out of every count.
    `allow_overlap` takes images whose content an int8 artifact was calibrated on; `verify` as `open_artifact`.

    After an interruption or a kill the next evaluation of the same artifact and images goes on where it stopped.

    Raises:
        DataError: missing or empty dataset, a folder no label is called, not one readable image, or calibration
            images among them.
        ConfigError: the two artifacts have different labels.
        ArtifactError: as `open_artifact`.
    """
    [evaluation] = evaluate_all(
        [artifact], dataset, vs=vs, limit=limit, allow_overlap=allow_overlap, verify=verify, progress=progress
    )
    return evaluation


def evaluate_all(
    artifacts: Sequence[StrPath],
    dataset: StrPath,
    *,
    vs: StrPath | None = None,
    limit: int | None = None,
    allow_overlap: bool = False,
    verify: bool = True,
    progress: Progress = no_progress,
) -> list[Evaluation]:
    """Do as `evaluate` for each artifact; each, and `vs`, classifies the images once."""
    opened = {Path(path): open_artifact(path, verify=verify) for path in [*artifacts, *([] if vs is None else [vs])]}
    first, *others = opened.values()
    for other in others:
        if other.labels != first.labels:
            raise ConfigError(
                f"{first.folder} and {other.folder} have different labels; compare artifacts of the same classes"
            )
    folder = list_images(Path(dataset))
    truth_of = dict(zip(folder.paths, match_classes(folder, first.labels), strict=True))
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit} is below 1; leave it out to take all images")
    paths = folder.paths if limit is None else tuple(sorted(choose_balanced(folder, limit, seed=0)))
    truth = np.array([truth_of[path] for path in paths])
    if not allow_overlap:
        for artifact in opened.values():
            refuse_calibration_images(artifact.manifest, paths)

    answers: dict[Path, Answers] = {}
    unreadable: list[UnreadableImage] | None = None
    with ExitStack() as finished:
        for path, artifact in opened.items():
            answers[path], failed = _collect_answers(artifact, paths, finished, progress)
            if unreadable is not None and [row.image for row in failed] != [row.image for row in unreadable]:
                raise DataError("the artifacts could not read the same images; was the dataset changed meanwhile?")
            unreadable = failed
            if not answers[path].read.any():
                raise DataError(f"not one of {len(paths)} images could be read; the first: {failed[0].reason}")

    results = []
    for path in map(Path, artifacts):
        ours, theirs = answers[path], answers[Path(vs)] if vs is not None else None
        top1, top5 = (int(right[ours.read].sum()) for right in ours.is_correct(truth))
        images = int(ours.read.sum())
        results.append(
            Evaluation(
                artifact=opened[path].folder,
                dataset=folder.root,
                images=images,
                unreadable=tuple(unreadable or ()),
                top1=compute_rate(top1, images),
                top5=compute_rate(top5, images),
                classes=count_classes(ours, theirs, truth=truth, labels=first.labels),
                vs=pair_predictions(Path(vs), ours, theirs, paths=paths, truth=truth, labels=first.labels)
                if vs is not None and theirs is not None
                else None,
            )
        )
    return results


def _collect_answers(
    artifact: Artifact, paths: Sequence[Path], finished: ExitStack, progress: Progress
) -> tuple[Answers, list[UnreadableImage]]:
    """Return the answers, in the order of the paths, and the unreadable images.

    Answers are kept in a journal, about every `CHUNK_SECONDS`, until `finished` is left without an error.
    """
    answers = Answers.make_empty(len(paths))

    def keep(index: int, classes: Sequence[int], probabilities: Sequence[float]) -> None:
        answers.classes[index, : len(classes)] = classes
        answers.probabilities[index, : len(classes)] = probabilities

    journal = finished.enter_context(keep_journal("evaluate", _fingerprint_work(artifact, paths)))
    for chunk in journal.records:
        for row in chunk:
            keep(*row)
    todo = np.flatnonzero(~answers.read).tolist()
    if len(todo) < len(paths):
        warnings.warn(
            f"going on with an interrupted evaluation of {artifact.folder}: {len(paths) - len(todo):,} of "
            f"{len(paths):,} images were done",
            stacklevel=4,
        )
    if not todo:
        return answers, []
    chunk, begin = [], time.monotonic()
    arrangement = choose_arrangement(artifact, len(paths))
    unreadable = []
    rest = [paths[index] for index in todo]
    for item in classify_images(artifact, rest, top=TOP, arrangement=arrangement, progress=progress):
        if isinstance(item, Unreadable):
            unreadable.append(UnreadableImage(image=item.path, reason=item.reason))
            continue
        chunk.append((todo[item.index], item.classes, item.probabilities))
        keep(*chunk[-1])
        if time.monotonic() - begin >= CHUNK_SECONDS:
            journal.append(chunk)
            chunk, begin = [], time.monotonic()
    if 0 < len(chunk) < np.count_nonzero(answers.read):  # there is a journal, and another artifact may follow
        journal.append(chunk)
    return answers, unreadable


def _fingerprint_work(artifact: Artifact, paths: Sequence[Path]) -> dict[str, Any]:
    """Return everything the answers depend on; of an image its path, size and when anything about it changed."""
    listing = hashlib.sha256()
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            listing.update(
                f"{path.absolute()}\0{status.st_size}\0{status.st_ctime_ns}\0".encode(errors="surrogateescape")
            )
    return artifact.fingerprint() | {
        "images_sha256": listing.hexdigest(),
        "images": len(paths),
        "top": TOP,
    }
