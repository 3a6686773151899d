"""One worker: an artifact opened once, and parts turned into rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from nestforge.artifact.artifact import open_artifact
from nestforge.data.labels import ClassNames
from nestforge.data.loader import Unreadable
from nestforge.data.parts import EncodedImage, MissingImage, Part, Sample
from nestforge.errors import DataError
from nestforge.files import StrPath
from nestforge.inference.pipeline import BATCH, classify_in_session
from nestforge.scale.rows import ROWS

TOP = 5
SAMPLES_AT_ONCE = 256  # encoded images in memory
Item = TypeVar("Item")


class PartClassifier:
    """An artifact opened for parts; each of the `threads` decodes its batch and runs it.

    Raises:
        ArtifactError, EngineError: the artifact cannot be opened.
    """

    def __init__(self, artifact: StrPath, *, threads: int, labelled: bool, allow_overlap: bool) -> None:
        self._artifact = open_artifact(artifact)
        batch = self._artifact.choose_batch(BATCH)
        self._session = self._artifact.open_session(batch=batch, streams=threads, threads=threads)
        self._threads = threads
        self._truths = TruthFinder(self._artifact.labels) if labelled else None
        manifest = self._artifact.manifest
        guarded = labelled and not allow_overlap and manifest.config.dtype == "int8"
        self._calibration = {(record.size_bytes, record.sha256) for record in manifest.inputs.values() if guarded}
        self._sizes = {size for size, _ in self._calibration}

    def classify(self, number: int, part: Part) -> pa.Table:
        """Return the rows of part `number`, in order, as `ROWS`.

        Raises:
            DataError: the part is damaged, or holds images that the artifact was calibrated on.
        """
        rows: list[dict[str, Any]] = []
        for samples in split_list(part.read(), SAMPLES_AT_ONCE):
            for sample in samples:
                self._refuse_calibration_image(sample)
            rows += self._classify_samples(samples)
        for position, row in enumerate(rows):
            row.update(part=number, position=position, of=len(rows))
        return pa.Table.from_pylist(rows, schema=ROWS)

    def _refuse_calibration_image(self, sample: Sample) -> None:
        """Check what came out of a shard; files are checked before, by `refuse_calibration_images`."""
        if not isinstance(sample.image, EncodedImage) or len(sample.image.data) not in self._sizes:
            return
        data = sample.image.data
        if (len(data), hashlib.sha256(data).hexdigest()) in self._calibration:
            raise DataError(
                f"{sample.key} is also a calibration image: accuracy on it would flatter; take others, or insist with "
                "--allow-overlap"
            )

    def _classify_samples(self, samples: list[Sample]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {"key": sample.key, "truth": None, "classes": [], "probabilities": [], "error": None} for sample in samples
        ]
        wanted = []  # the samples to classify: all but those of an unknown class
        for index, sample in enumerate(samples):
            try:
                if self._truths and not isinstance(sample.image, MissingImage):
                    rows[index]["truth"] = self._truths.find(sample.label)
                wanted.append(index)
            except DataError as error:
                rows[index]["error"] = f"{sample.key}: {error}"
        images = [samples[index].image for index in wanted]
        for item in classify_in_session(self._artifact, self._session, images, top=TOP, workers=self._threads):
            row = rows[wanted[item.index]]
            if isinstance(item, Unreadable):
                row["error"] = item.reason
            else:
                row.update(classes=item.classes, probabilities=item.probabilities)
        return rows


class TruthFinder:
    """The class index of what a source says of an image."""

    def __init__(self, labels: Iterable[Any]) -> None:
        self._labels = tuple(labels)
        self._names = ClassNames(self._labels)

    def find(self, label: str | int | None) -> int:
        """Return the class index.

        Raises:
            DataError: no label, or one that the artifact does not know.
        """
        if label is None:
            raise DataError("has no class: neither a folder, nor a .cls file, nor a column says it")
        if isinstance(label, int):
            if not 0 <= label < len(self._labels):
                raise DataError(f"class {label} is outside the artifact's {len(self._labels)} classes")
            return label
        index = self._names.find(label)
        if index is None:
            why = "names more than one of" if self._names.is_ambiguous(label) else "is none of"
            raise DataError(f"class {label!r} {why} the artifact's labels ({self._labels[0].aliases[0]}, ...)")
        return index


def split_list(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items as lists of `size`, the last one shorter."""
    while taken := list(islice(items, size)):
        yield taken
