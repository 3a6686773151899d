"""Top classes with names and probabilities for single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestforge.artifact.artifact import open_artifact
from nestforge.data.loader import Unreadable
from nestforge.errors import DataError
from nestforge.files import StrPath
from nestforge.inference.pipeline import classify_images
from nestforge.progress import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class TopClass:
    """One class as an answer; `probability` is a fraction of 1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one image; `error` says why there is none."""

    image: Path
    top: tuple[TopClass, ...]
    error: str | None = None


def predict(
    artifact: StrPath, images: Sequence[StrPath], *, top: int = 5, verify: bool = True, progress: Progress = no_progress
) -> list[Prediction]:
    """Classify images, in the order given; an unreadable one has an `error` and no classes.

    `verify` as `open_artifact`.

    Raises:
        DataError: no image was given, or none could be read.
        ArtifactError: as `open_artifact`.
    """
    opened = open_artifact(artifact, verify=verify)
    paths = [Path(image) for image in images]
    if not paths:
        raise DataError("no image given; name one or more image files")
    if top < 1:
        raise DataError(f"top {top} is below 1; ask for at least one class")
    found: dict[int, Prediction] = {}
    for item in classify_images(opened, paths, top=top, progress=progress):
        if isinstance(item, Unreadable):
            found[item.index] = Prediction(image=paths[item.index], top=(), error=item.reason)
            continue
        classes = zip(item.classes, item.probabilities, strict=True)
        rows = tuple(TopClass(index=i, label=opened.labels[i].name, probability=p) for i, p in classes)
        found[item.index] = Prediction(image=paths[item.index], top=rows)
    predictions = [found[index] for index in range(len(paths))]
    if all(prediction.error for prediction in predictions):
        raise DataError(str(predictions[0].error))
    return predictions
