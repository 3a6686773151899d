"""Two artifacts image by image: which predictions changed, with what confidence, and class by class."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from nestforge.data.labels import Label
from nestforge.errors import DataError
from nestforge.files import StrPath, atomic_write
from nestforge.measure.predictions import PredictionTable
from nestforge.measure.statistics import Rate, compare_paired, compute_rate

Kind = Literal["lost", "gained", "both wrong"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A top-1 prediction; `margin` is its probability minus that of the second class."""

    index: int
    label: str
    probability: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class ChangedPrediction:
    """An image with different predictions: `lost` was right only in the other artifact, `gained` only in this one."""

    image: str
    truth: int
    truth_label: str
    kind: Kind
    ours: Choice
    theirs: Choice

    @property
    def margin(self) -> float:
        """The smaller margin: large where both artifacts are confident and disagree."""
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
    """The other artifact on the same images; `difference` is this artifact's top-1 minus its own, a fraction of 1.

    `lost` images were right only in the other artifact, `gained` only in this one; `changed_predictions` counts
    different top-1 predictions, right or wrong, and `changed` lists them, the most confident first.
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
    artifact: Path, ours: PredictionTable, theirs: PredictionTable, labels: Sequence[Label]
) -> PairedEvaluation:
    """Compare predictions with those of `artifact` on the same images.

    Raises:
        DataError: the two are not of the same images.
    """
    if not np.array_equal(ours.positions, theirs.positions):
        raise DataError("the artifacts could not read the same images; was the dataset changed meanwhile?")
    other1, other5 = theirs.find_hits()
    comparison = compare_paired(ours.find_hits()[0], other1)
    changed = _list_changed(ours, theirs, labels)
    return PairedEvaluation(
        artifact=artifact,
        top1=compute_rate(int(other1.sum()), len(ours)),
        top5=compute_rate(int(other5.sum()), len(ours)),
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
    ours: PredictionTable, theirs: PredictionTable | None, labels: Sequence[Label]
) -> tuple[ClassAccuracy, ...]:
    """Count each class that has readable images, in the order of the labels."""
    right = ours.find_hits()[0]
    other_right = theirs.find_hits()[0] if theirs is not None else right
    changed = ours.classes[:, 0] != (theirs or ours).classes[:, 0]
    rows = []
    for index in np.unique(ours.truth):
        chosen = ours.truth == index
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
    """Sort by the loss against the other artifact, or by top-1 alone; the worst first."""
    return sorted(classes, key=lambda row: (row.difference or 0.0, row.top1, -row.images))


def write_changes(changed: Sequence[ChangedPrediction], path: StrPath) -> None:
    """Write changed predictions as CSV with a header, one image per row.

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
    ours: PredictionTable, theirs: PredictionTable, labels: Sequence[Label]
) -> tuple[ChangedPrediction, ...]:
    rows = []
    for index in np.flatnonzero(ours.classes[:, 0] != theirs.classes[:, 0]).tolist():
        choices = [_read_choice(table, index, labels) for table in (ours, theirs)]
        true = int(ours.truth[index])
        kind: Kind = "gained" if choices[0].index == true else "lost" if choices[1].index == true else "both wrong"
        rows.append(
            ChangedPrediction(
                image=ours.images[index],
                truth=true,
                truth_label=labels[true].name,
                kind=kind,
                ours=choices[0],
                theirs=choices[1],
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.margin))


def _read_choice(table: PredictionTable, row: int, labels: Sequence[Label]) -> Choice:
    index = int(table.classes[row, 0])
    first, second = map(float, table.probabilities[row, :2])
    return Choice(index=index, label=labels[index].name, probability=first, margin=first - second)
