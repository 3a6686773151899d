"""Top-1 and top-5 on labelled folders: counts with intervals, and two artifacts paired image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nestforge.compile.artifact import Artifact, open_artifact
from nestforge.compile.images import refuse_calibration_images
from nestforge.data.imagefolder import choose_balanced, list_images, match_classes
from nestforge.data.loader import Unreadable
from nestforge.errors import ConfigError, DataError
from nestforge.files import StrPath
from nestforge.measure.classify import classify_images
from nestforge.measure.statistics import Rate, compare_paired, compute_rate
from nestforge.progress import Progress, silent

TOP = 5


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
    ours = open_artifact(artifact)
    theirs = open_artifact(vs) if vs is not None else None
    if theirs is not None and theirs.labels != ours.labels:
        raise ConfigError(f"{artifact} and {vs} have different labels; compare artifacts of the same classes")
    folder = list_images(Path(dataset))
    truth_of = dict(zip(folder.paths, match_classes(folder, ours.labels), strict=True))
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit} is below 1; leave it out to take all images")
    paths = folder.paths if limit is None else tuple(sorted(choose_balanced(folder, limit, seed=0)))
    truth = np.array([truth_of[path] for path in paths])
    if not allow_overlap:
        for opened in (ours, theirs) if theirs else (ours,):
            refuse_calibration_images(opened.manifest, paths)

    answers, unreadable = _collect_answers(ours, paths, progress)
    read = answers[:, 0] >= 0
    if not read.any():
        raise DataError(f"not one of {len(paths)} images could be read; the first: {unreadable[0].reason}")
    top1, top5 = _is_correct(answers, truth)
    paired = None
    if theirs is not None:
        other, other_unreadable = _collect_answers(theirs, paths, progress)
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
    artifact: Artifact, paths: Sequence[Path], progress: Progress
) -> tuple[npt.NDArray[np.int64], list[UnreadableImage]]:
    """Return the best classes (N, 5), -1 in the rows of unreadable images, and those images."""
    answers = np.full((len(paths), TOP), -1, np.int64)
    unreadable = []
    for item in classify_images(artifact, paths, top=TOP, progress=progress):
        if isinstance(item, Unreadable):
            unreadable.append(UnreadableImage(image=item.path, reason=item.reason))
        else:
            answers[item.index, : len(item.classes)] = item.classes
    return answers, unreadable


def _is_correct(
    answers: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    hits = answers == truth[:, None]
    return hits[:, 0], hits.any(axis=1)
