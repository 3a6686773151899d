"""The vendor's ``vamp_eval``: compute top-1 and top-5 from result files and class folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nestforge.data.imagefolder import ImageFolder, match_classes
from nestforge.data.labelfiles import read_labels
from nestforge.data.labels import Label, read_imagenet_labels
from nestforge.errors import DataError
from nestforge.files import atomic_write, read_small_file
from nestforge.inference.topk import rank_classes
from nestforge.measure.statistics import Rate, compute_rate
from nestforge.progress import Progress, no_progress
from nestforge.vacc.npz import OUTPUT_KEY, RUN_FILE, hash_list, read_datalist, read_npz

TOP = 5
MAX_CLASSES = 1 << 20
IMAGENET_CLASSES = 1000
SAME_NAMES = 0.9  # share of equal lines that makes a label file without wnids one of ImageNet, in its order


@dataclass(frozen=True, kw_only=True)
class VampEvaluation:
    """Counts over all listed images; `result_file` has five lines for each."""

    images: int
    top1: Rate
    top5: Rate
    result_file: Path


def evaluate_results(
    result_path: Path, datalist: Path, label: Path, *, result_file: Path, progress: Progress = no_progress
) -> VampEvaluation:
    """Compare every result with the class folder of its image.

    The name of a class folder is the wnid or the name of the class. Line i of `label` names class i. A file without
    wnids gets ImageNet's if its names are ImageNet's.

    Raises:
        DataError: there are missing, damaged or extra results, a result has another number of classes than the labels,
            or a folder matches no class; nothing is written then.
    """
    folder = read_datalist(datalist)
    labels = _add_wnids(read_labels(label), label)
    truth = match_classes(folder, labels)
    results = _list_results(result_path, folder)
    top1 = top5 = 0
    with (
        atomic_write(result_file) as partial,
        partial.open("w", encoding="utf-8") as file,
        progress("evaluating", len(results)) as advance,
    ):
        for image, correct, result in zip(folder.paths, truth, results, strict=True):
            scores = _read_scores(result, len(labels), label)
            order = rank_classes(scores[None], TOP)[0]
            top1 += int(order[0]) == correct
            top5 += correct in order
            file.writelines(_format_lines(image, order, scores, labels))
            advance(1)
    return VampEvaluation(
        images=len(results),
        top1=compute_rate(top1, len(results)),
        top5=compute_rate(top5, len(results)),
        result_file=result_file,
    )


def _format_lines(
    image: Path, order: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], labels: Sequence[Label]
) -> list[str]:
    return [
        f"{image}: Relay top-{rank} id: {index}, prob: {scores[index]:.8f}, class name: {labels[index].name}\n"
        for rank, index in enumerate(order)
    ]


def _add_wnids(labels: tuple[Label, ...], path: Path) -> tuple[Label, ...]:
    """Add the wnids of ImageNet to labels without wnids, if they are its names in its order.

    Raises:
        DataError: there are 1,000 names, but they are not ImageNet's in its order.
    """
    if any(label.wnid for label in labels) or len(labels) != IMAGENET_CLASSES:
        return labels
    known = read_imagenet_labels()
    same = [_first_name(label) == _first_name(other) for label, other in zip(labels, known, strict=True)]
    if sum(same) < SAME_NAMES * IMAGENET_CLASSES:
        wrong = same.index(False)
        raise DataError(
            f"{path} has 1,000 names but not ImageNet's in its order: line {wrong + 1} is {labels[wrong].name!r}, "
            f"not {known[wrong].name!r}; fix the order, or write wnid<TAB>name on every line"
        )
    return tuple(Label(label.name, other.wnid) for label, other in zip(labels, known, strict=True))


def _first_name(label: Label) -> str:
    return label.name.split(",")[0].strip().lower()


def _list_results(result_path: Path, folder: ImageFolder) -> list[Path]:
    if not result_path.is_dir():
        raise DataError(f"no result folder {result_path}; make it with vamp --datalist ... --path_output")
    results = sorted(path for path in result_path.iterdir() if path.suffix == ".npz" and not path.name.startswith("."))
    if len(results) != len(folder.paths):
        raise DataError(
            f"{result_path} has {len(results)} results but {folder.root} lists {len(folder.paths)} images; "
            "run vamp again until none is missing, or remove unreadable images from the list"
        )
    marker = result_path / RUN_FILE
    if marker.is_file() and hash_list(folder.paths).encode() not in read_small_file(marker, limit_bytes=1 << 16):
        raise DataError(f"{result_path} holds the results of another list than {folder.root}; run vamp on this one")
    return results


def _read_scores(path: Path, classes: int, label: Path) -> npt.NDArray[np.float64]:
    scores = read_npz(path, OUTPUT_KEY, max_values=MAX_CLASSES)
    if scores.shape not in ((classes,), (1, classes)):
        raise DataError(
            f"{path} has scores of shape {scores.shape} but {label} has {classes} lines; give its label file"
        )
    flat: npt.NDArray[np.float64] = scores.reshape(-1).astype(np.float64)
    if not np.isfinite(flat).all():
        raise DataError(f"{path} has scores that are not finite; run vamp again")
    return flat
