"""The most probable classes of images from any source, in memory or as rows of a file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from nestforge import __version__
from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.checks import check_range
from nestforge.data.labels import format_label
from nestforge.data.loader import UnreadableImage
from nestforge.data.sources import Source, locate_image, open_images
from nestforge.errors import DataError
from nestforge.files import StrPath
from nestforge.inference.classifier import Prediction, name_classes
from nestforge.inference.topk import TopK
from nestforge.progress import Progress, no_progress
from nestforge.scale.rows import Row
from nestforge.scale.run import Placement, open_runner
from nestforge.scale.samples import Request
from nestforge.scale.tally import Tally


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions for images, in their order; a sequence of `Prediction`.

    `images` were classified; `unreadable` were not, and `unreadable_images` lists the first of them. With an `output`
    the predictions are in that file and not in `predictions`. `seconds` run from opening the model to the last image.
    """

    artifact: Path
    images: int
    unreadable: int
    unreadable_images: tuple[UnreadableImage, ...]
    predictions: tuple[Prediction, ...]
    output: Path | None
    placement: Placement = field(compare=False)
    repeated: int  # rows that came again from a worker that took over a lost one's part, and were dropped
    seconds: float = field(compare=False)

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...

    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.predictions[index]


def predict(
    artifact: StrPath,
    images: StrPath | Sequence[StrPath],
    *,
    top: int = 5,
    output: StrPath | None = None,
    ray: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    verify: bool = True,
    progress: Progress = no_progress,
) -> Predictions:
    """Classify images: files, folders, lists of images, tar shards or Parquet, here or at a URL.

    An image that cannot be read has an `error` and no classes. `output` is a Parquet file with a row for every image.
    `ray` is the address of a Ray cluster, or ``local``, with `workers` (default: as many as fit the cluster) of
    `threads` (default 1; without Ray all cores). `verify` as in `open_artifact`.

    Raises:
        DataError: no image was given, or none could be read; a shard is damaged.
        ConfigError: a number out of range, or more workers than the cluster has CPUs for.
        ArtifactError: as `open_artifact`.
        NestForgeError: a package is missing, no cluster answers, or the output cannot be written.
    """
    check_range("top", top, 1, 1 << 30)
    wanted = [images] if isinstance(images, str | Path) else list(images)
    if not wanted:
        raise DataError("no image given; name one or more image files, a folder, or shards")
    opened = open_artifact(artifact, verify=verify)
    with progress("listing images", None):
        source = open_images(wanted)
    tally = Tally(len(source.parts))
    path = None if output is None else Path(output)
    found: list[tuple[int, int, Prediction]] = []
    request = Request(top=top, labelled=False, allow_overlap=True)
    with ExitStack() as stack:
        runner = stack.enter_context(
            open_runner(ray, workers=workers, threads=threads, verify=verify, progress=progress)
        )
        write = None
        if path is not None:
            from nestforge.scale.arrow import write_results

            write = stack.enter_context(write_results(path, describe_rows(opened, source)))
        advance = stack.enter_context(progress(f"classifying with {opened.folder.name}", source.images))
        begin = time.perf_counter()
        for row in stack.enter_context(closing(runner.run(opened, source, request, tally))):
            if write is not None:
                write(row)
            else:
                found.append((row.part, row.position, _make_prediction(opened, source, row)))
            advance(1)
        seconds = time.perf_counter() - begin
    found.sort(key=lambda entry: entry[:2])
    return Predictions(
        artifact=opened.folder,
        images=tally.images,
        unreadable=tally.unreadable,
        unreadable_images=tally.listed,
        predictions=tuple(prediction for _, _, prediction in found),
        output=path,
        placement=runner.describe(opened),
        repeated=tally.repeated,
        seconds=seconds,
    )


def describe_rows(artifact: Artifact, source: Source) -> dict[str, Any]:
    """Return what a file of rows says about where they come from, as JSON values."""
    manifest = artifact.manifest
    return {
        "version": __version__,
        "artifact": manifest.name,
        "model_sha256": artifact.model_sha256,
        "preprocess_sha256": manifest.preprocess_sha256,
        "source": source.url,
        "labels": [format_label(label) for label in artifact.labels],
    }


def _make_prediction(artifact: Artifact, source: Source, row: Row) -> Prediction:
    image = locate_image(source, row.part, row.position, row.key)
    if row.error is not None:
        return Prediction(image=image, top=(), error=row.error)
    top = TopK(index=row.position, classes=row.classes, probabilities=row.probabilities)
    return name_classes(image, top, artifact.labels)
