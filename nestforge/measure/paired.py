"""Two artifacts image by image: which answers changed, how sure both were, and class by class."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from nestforge.data.labels import Label
from nestforge.files import StrPath, atomic_write
from nestforge.measure.statistics import Rate, compare_paired, compute_rate

TOP = 5
Kind = Literal["lost", "gained", "both wrong"]


@dataclass(frozen=True)
class Answers:
    """The best classes of N images and their probabilities, (N, 5) each; -1 and 0 where there is none."""

    classes: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]

    @classmethod
    def make_empty(cls, count: int) -> Answers:
        return cls(np.full((count, TOP), -1, np.int64), np.zeros((count, TOP)))

    @property
    def read(self) -> npt.NDArray[np.bool_]:
        """Which images were readable, (N,)."""
        return self.classes[:, 0] >= 0

    def is_correct(self, truth: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which images have the true class first, and among the first five, (N,) each."""
        hits = self.classes == truth[:, None]
        return hits[:, 0], hits.any(axis=1)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A top-1 answer; `margin` is its probability minus that of the second class."""

    index: int
    label: str
    probability: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class ChangedPrediction:
    """An image the two artifacts answer differently: `lost` was right only in theirs, `gained` only in ours."""

    image: Path
    truth: int
    truth_label: str
    kind: Kind
    ours: Choice
    theirs: Choice

    @property
    def margin(self) -> float:
        """The smaller margin: large where both artifacts are sure and yet disagree."""
        return min(self.ours.margin, self.theirs.margin)


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """Top-1 of one class; the last three compare with the other artifact. Rates are fractions of 1."""

    index: int
    label: str
    images: int
    correct: int
    top1: float
    vs_top1: float | None = None
    difference: float | None = None
    changed: int | None = None


@dataclass(frozen=True, kw_only=True)
class PairedEvaluation:
    """The other artifact on the same images, and ours minus theirs in top-1; rates are fractions of 1.

    `lost` images were right only in the other artifact, `gained` only in ours; `changed_predictions` counts different
    top-1 answers, right or wrong, and `changed` lists them, those first where both were surest.
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
    changed_predictions: int
    changed: tuple[ChangedPrediction, ...] = field(repr=False)


def pair_predictions(
    artifact: Path,
    ours: Answers,
    theirs: Answers,
    *,
    paths: Sequence[Path],
    truth: npt.NDArray[np.int64],
    labels: Sequence[Label],
) -> PairedEvaluation:
    """Compare our answers with those of `artifact` on the readable images of `paths`; `truth` is (N,)."""
    read = ours.read
    total = int(read.sum())
    other1, other5 = theirs.is_correct(truth)
    comparison = compare_paired(ours.is_correct(truth)[0][read], other1[read])
    changed = _list_changed(ours, theirs, paths=paths, truth=truth, labels=labels)
    return PairedEvaluation(
        artifact=artifact,
        top1=compute_rate(int(other1[read].sum()), total),
        top5=compute_rate(int(other5[read].sum()), total),
        difference=comparison.difference,
        low=comparison.low,
        high=comparison.high,
        mcnemar_p=comparison.mcnemar_p,
        lost=comparison.lost,
        gained=comparison.gained,
        changed_predictions=len(changed),
        changed=changed,
    )


def count_classes(
    ours: Answers, theirs: Answers | None, *, truth: npt.NDArray[np.int64], labels: Sequence[Label]
) -> tuple[ClassAccuracy, ...]:
    """Count each class that has readable images, in the order of the labels."""
    read = ours.read
    right = ours.is_correct(truth)[0]
    other_right = theirs.is_correct(truth)[0] if theirs is not None else right
    changed = ours.classes[:, 0] != (theirs or ours).classes[:, 0]
    rows = []
    for index in np.unique(truth[read]):
        chosen = read & (truth == index)
        images, correct, other = (int(mask.sum()) for mask in (chosen, right & chosen, other_right & chosen))
        rows.append(
            ClassAccuracy(
                index=int(index),
                label=labels[index].name,
                images=images,
                correct=correct,
                top1=correct / images,
                vs_top1=other / images if theirs is not None else None,
                difference=(correct - other) / images if theirs is not None else None,
                changed=int((changed & chosen).sum()) if theirs is not None else None,
            )
        )
    return tuple(rows)


def rank_classes(classes: Sequence[ClassAccuracy]) -> list[ClassAccuracy]:
    """Sort by what was lost against the other artifact, or by top-1 alone; the worst first."""
    return sorted(classes, key=lambda row: (row.difference or 0.0, row.top1, -row.images))


def write_changes(changed: Sequence[ChangedPrediction], path: StrPath) -> None:
    """Write changed answers as CSV with a header, one image a row.

    Raises:
        NestForgeError: the file cannot be written.
    """
    columns = ["image", "kind", "truth", "truth_label"]
    columns += [f"{whose}_{name}" for whose in ("our", "their") for name in ("class", "label", "probability", "margin")]
    rows: list[list[object]] = [list(columns)]
    for change in changed:
        rows.append([change.image, change.kind, change.truth, change.truth_label])
        for choice in (change.ours, change.theirs):
            rows[-1] += [choice.index, choice.label, f"{choice.probability:.6f}", f"{choice.margin:.6f}"]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    with atomic_write(Path(path)) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape", newline="")


def _list_changed(
    ours: Answers,
    theirs: Answers,
    *,
    paths: Sequence[Path],
    truth: npt.NDArray[np.int64],
    labels: Sequence[Label],
) -> tuple[ChangedPrediction, ...]:
    rows = []
    for place in np.flatnonzero(ours.read & (ours.classes[:, 0] != theirs.classes[:, 0])).tolist():
        choices = [_read_choice(answers, place, labels) for answers in (ours, theirs)]
        true = int(truth[place])
        kind: Kind = "gained" if choices[0].index == true else "lost" if choices[1].index == true else "both wrong"
        rows.append(
            ChangedPrediction(
                image=paths[place],
                truth=true,
                truth_label=labels[true].name,
                kind=kind,
                ours=choices[0],
                theirs=choices[1],
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.margin))


def _read_choice(answers: Answers, place: int, labels: Sequence[Label]) -> Choice:
    index = int(answers.classes[place, 0])
    first, second = map(float, answers.probabilities[place, :2])
    return Choice(index=index, label=labels[index].name, probability=first, margin=first - second)
