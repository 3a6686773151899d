"""What wrong preprocessing costs in top-1: one float32 artifact, the same images, one thing changed at a time.

    python -m benchmarks.accuracy.preprocessing ARTIFACT DATASET [--limit N] [--json FILE]

The artifact's own preprocessing is the reference; every row is paired with it, image by image. The table that is
printed is Markdown, for the page on preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.common.documents import make_table
from benchmarks.common.inference import find_best_classes
from benchmarks.common.report import make_parser
from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.commandline import run_command
from nestforge.data.imagefolder import choose_balanced, list_images, match_classes
from nestforge.data.preprocess import (
    CenterCrop,
    ECenterCrop,
    Preprocess,
    Resize,
    decode_image,
    load_image,
    normalize_images,
)
from nestforge.engines.base import Images
from nestforge.files import write_json
from nestforge.measure.statistics import Paired, compare_paired, compute_rate
from nestforge.vacc.resize import resize_as_opencv

BATCH = 16
Read = Callable[[Path], Images]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to prepare the images, and what it does to top-1."""

    change: str
    correct: int
    images: int
    top1: float
    low: float
    high: float
    changed_predictions: int
    paired: Paired | None


def follow(preprocess: Preprocess) -> Read:
    """Read as a description says: (3, H, W)."""
    return lambda path: load_image(path, preprocess)


def follow_without_antialiasing(short: int | tuple[int, int], crop: int, preprocess: Preprocess) -> Read:
    """Resize as OpenCV's INTER_LINEAR (short side, or height and width), crop the middle, normalise."""

    def read(path: Path) -> Images:
        chw = np.ascontiguousarray(np.asarray(decode_image(path)).transpose(2, 0, 1))
        height, width = chw.shape[1:]
        scale = short / min(height, width) if isinstance(short, int) else 0.0
        target = (int(height * scale), int(width * scale)) if isinstance(short, int) else short
        resized = resize_as_opencv(chw, max(target[0], crop), max(target[1], crop))
        top, left = (resized.shape[1] - crop) // 2, (resized.shape[2] - crop) // 2
        cropped = resized[:, top : top + crop, left : left + crop]
        image: Images = normalize_images(cropped.transpose(1, 2, 0)[None], preprocess)[0]
        return image

    return read


def list_changes(published: Preprocess, side: int) -> Iterator[tuple[str, Read]]:
    """Yield a name and a reader for each change; a published squash to S x S stands for images used as they are."""

    def change(**changes: object) -> Read:
        return follow(published.model_copy(update=changes))

    def bicubic(size: int | tuple[int, int]) -> Read:
        return change(ops=(Resize(size=size, interpolation="bicubic"), crop))

    first = published.ops[0]
    short = first.size if isinstance(first, Resize) and isinstance(first.size, int) else None
    zoom, crop, vendor = short or side * 8 // 7, CenterCrop(size=side), round(side * 328 / 224)
    if short is None:
        yield "aspect ratio: width scaled by 4/3 of the height, then cropped", bicubic((side, side * 4 // 3))
        yield f"crop: {side / zoom:.1%} of the short side", bicubic(zoom)
    else:
        yield "aspect ratio: squashed to a square, then cropped", bicubic((zoom, zoom))
        yield "crop: the whole short side", bicubic(side)
    yield f"crop: {side / vendor:.1%} of the short side (the vendor's 224 of 328)", bicubic(vendor)
    yield "crop: ECenterCrop, S/(S+32)", change(ops=(ECenterCrop(size=side),))
    yield "interpolation: Pillow bilinear", change(ops=(Resize(size=zoom), crop))
    yield "interpolation: OpenCV bilinear, no antialiasing", follow_without_antialiasing(zoom, side, published)
    squash = follow_without_antialiasing((vendor, vendor), side, published)
    yield "the vendor's file: squash to 328/224, OpenCV bilinear", squash
    yield "normalisation: mean and std 0.5", change(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    yield "normalisation: ImageNet's mean and std", change(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    yield "normalisation: divided by 255 only", change(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    mean, std = (tuple(value / 255 for value in values) for values in (published.mean, published.std))
    yield "normalisation: not divided by 255", change(mean=mean, std=std)
    yield "channels: BGR for RGB", change(channels="bgr")


def measure(artifact: Artifact, dataset: Path, limit: int | None) -> list[Row]:
    """Measure the reference and every change on labelled folders; `limit` takes that many, evenly over classes."""
    folder = list_images(dataset)
    truth_of = dict(zip(folder.paths, match_classes(folder, artifact.labels), strict=True))
    paths = folder.paths if limit is None else tuple(sorted(choose_balanced(folder, limit, seed=0)))
    truth = np.array([truth_of[path] for path in paths])
    published = artifact.manifest.preprocess
    reference = find_best_classes(artifact, paths, follow(published), batch=BATCH, description="as published")
    rows = [_make_row("as published", reference, reference, truth)]
    for name, read in list_changes(published, artifact.manifest.height):
        predictions = find_best_classes(artifact, paths, read, batch=BATCH, description=name)
        rows.append(_make_row(name, predictions, reference, truth))
    return rows


def _make_row(
    name: str, predictions: npt.NDArray[np.int64], reference: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]
) -> Row:
    right = predictions == truth
    rate = compute_rate(int(right.sum()), len(truth))
    return Row(
        change=name,
        correct=rate.correct,
        images=len(truth),
        top1=rate.rate,
        low=rate.low,
        high=rate.high,
        changed_predictions=int((predictions != reference).sum()),
        paired=None if predictions is reference else compare_paired(right, reference == truth),
    )


def format_row(row: Row) -> list[str]:
    """Write a row of the table."""
    paired, difference, p = row.paired, "-", "-"
    if paired is not None:
        difference = f"{100 * paired.difference:+.2f} pp ({100 * paired.low:+.2f} to {100 * paired.high:+.2f})"
        p = f"{paired.mcnemar_p:.2g}" if paired.mcnemar_p else "<1e-300"
    top1 = f"{row.top1:.2%} ({row.low:.2%} to {row.high:.2%})"
    return [row.change, top1, difference, p, str(row.changed_predictions)]


def main() -> None:
    """Measure, print, and write where that is asked for."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("dataset", type=Path, help="labelled folder")
    parser.add_argument("--limit", type=int, help="take that many images, evenly over classes")
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON, too")
    args = parser.parse_args()
    rows = measure(open_artifact(args.artifact), args.dataset, args.limit)
    columns = ("change", "top-1 (95%)", "difference, paired (95%)", "McNemar p", "changed predictions")
    print(make_table(columns, map(format_row, rows)))
    if args.json:
        write_json(rows, args.json)


if __name__ == "__main__":
    run_command(main, name="preprocessing")
