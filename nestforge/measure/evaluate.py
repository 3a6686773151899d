"""Top-1 and top-5 on labelled folders: counts with intervals, and two artifacts paired image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nestforge.compile.artifact import Artifact, open_artifact
from nestforge.compile.images import refuse_calibration_images
from nestforge.data.imagefolder import choose_balanced, list_images, match_classes
from nestforge.data.loader import Unreadable
from nestforge.errors import ConfigError, DataError
from nestforge.files import StrPath
from nestforge.measure.classify import classify_images
from nestforge.measure.paired import TOP, Answers, ClassAccuracy, PairedEvaluation, count_classes, pair_answers
from nestforge.measure.statistics import Rate, compute_rate
from nestforge.progress import Progress, silent


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
    progress: Progress = silent,
) -> Evaluation:
    """Count how often the right class is first, and among the first five.

    A class folder is called by the wnid or the name in the artifact's labels. `limit` takes that many images, evenly
    over the classes and always the same ones. Unreadable images are listed and left out of every count.
    `allow_overlap` takes images whose content an int8 artifact was calibrated on.

    Raises:
        DataError: missing or empty dataset, a folder no label is called, not one readable image, or calibration
            images among them.
        ConfigError: the two artifacts have different labels.
        ArtifactError: as `open_artifact`.
    """
    [evaluation] = evaluate_all([artifact], dataset, vs=vs, limit=limit, allow_overlap=allow_overlap, progress=progress)
    return evaluation


def evaluate_all(
    artifacts: Sequence[StrPath],
    dataset: StrPath,
    *,
    vs: StrPath | None = None,
    limit: int | None = None,
    allow_overlap: bool = False,
    progress: Progress = silent,
) -> list[Evaluation]:
    """Do as `evaluate` for each artifact; each, and `vs`, classifies the images once."""
    opened = {Path(path): open_artifact(path) for path in [*artifacts, *([] if vs is None else [vs])]}
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
    for path, artifact in opened.items():
        answers[path], failed = _collect_answers(artifact, paths, progress)
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
                vs=pair_answers(Path(vs), ours, theirs, paths=paths, truth=truth, labels=first.labels)
                if vs is not None and theirs is not None
                else None,
            )
        )
    return results


def _collect_answers(
    artifact: Artifact, paths: Sequence[Path], progress: Progress
) -> tuple[Answers, list[UnreadableImage]]:
    """Return the answers, in the order of the paths, and the unreadable images."""
    answers = Answers.make_empty(len(paths))
    unreadable = []
    for item in classify_images(artifact, paths, top=TOP, progress=progress):
        if isinstance(item, Unreadable):
            unreadable.append(UnreadableImage(image=item.path, reason=item.reason))
        else:
            answers.classes[item.index, : len(item.classes)] = item.classes
            answers.probabilities[item.index, : len(item.classes)] = item.probabilities
    return answers, unreadable
