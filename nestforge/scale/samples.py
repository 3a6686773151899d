"""The samples of a source through a classifier: one row each, with its true class where that is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from nestforge.artifact.manifest import Manifest
from nestforge.data.images import AnyImage, EncodedImage
from nestforge.data.labels import ClassNames, Label
from nestforge.data.loader import Unreadable
from nestforge.data.parts import MissingImage, Part, Sample
from nestforge.errors import DataError
from nestforge.inference.classifier import Classifier
from nestforge.scale.rows import Row

NumberedSample = tuple[int, int, Sample]  # part, position in it, sample


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted of every sample.

    `labelled` looks up its true class; `allow_overlap` takes images an int8 artifact was calibrated on.
    """

    top: int
    labelled: bool
    allow_overlap: bool


def number_samples(parts: Iterable[tuple[int, Part]]) -> Iterator[NumberedSample]:
    """Yield the samples of numbered parts, each with its part and position."""
    for number, part in parts:
        for position, sample in enumerate(part.read()):
            yield number, position, sample


def classify_samples(
    classifier: Classifier, samples: Iterable[NumberedSample], request: Request
) -> Generator[Row, None, None]:
    """Yield one row for every sample; memory does not grow with their number.

    Rows come in order, except that one with an `error` may come before rows of earlier samples.

    Raises:
        DataError: a part is damaged, or a sample is an image the artifact was calibrated on.
        EngineError: the engine failed twice.
    """
    admission = _Admission(classifier.artifact.manifest, classifier.artifact.labels, request)
    with closing(classifier.classify(admission.admit(samples), top=request.top)) as found:
        for item in found:
            yield from admission.take_rejected()
            part, position, key, truth = admission.pop(item.index)
            if isinstance(item, Unreadable):
                yield Row(part=part, position=position, key=key, truth=truth, error=item.reason)
            else:
                yield Row(
                    part=part,
                    position=position,
                    key=key,
                    truth=truth,
                    classes=item.classes,
                    probabilities=item.probabilities,
                )
    yield from admission.take_rejected()


class _Admission:
    """Checks samples before they are classified, and remembers those in flight."""

    def __init__(self, manifest: Manifest, labels: Sequence[Label], request: Request) -> None:
        self._truths = TruthFinder(labels) if request.labelled else None
        guarded = request.labelled and not request.allow_overlap and manifest.config.dtype == "int8"
        self._calibration = {(record.size_bytes, record.sha256) for record in manifest.inputs.values() if guarded}
        self._sizes = {size for size, _ in self._calibration}
        self._in_flight: dict[int, tuple[int, int, str, int | None]] = {}
        self._rejected: list[Row] = []

    def admit(self, samples: Iterable[NumberedSample]) -> Iterator[AnyImage]:
        """Yield the images to classify; a sample of an unknown class is rejected."""
        index = 0
        for part, position, sample in samples:
            self._refuse_calibration_image(sample)
            truth = None
            if self._truths is not None and not isinstance(sample.image, MissingImage):
                try:
                    truth = self._truths.find(sample.label)
                except DataError as error:
                    reason = f"{sample.key}: {error}"
                    self._rejected.append(Row(part=part, position=position, key=sample.key, error=reason))
                    continue
            self._in_flight[index] = part, position, sample.key, truth
            yield sample.image
            index += 1

    def pop(self, index: int) -> tuple[int, int, str, int | None]:
        """Return (part, position, key, truth) of an image that was yielded as the `index`-th."""
        return self._in_flight.pop(index)

    def take_rejected(self) -> list[Row]:
        """Return the rows of samples rejected since the last call."""
        rejected, self._rejected = self._rejected, []
        return rejected

    def _refuse_calibration_image(self, sample: Sample) -> None:
        """Check what came out of a shard; files are checked before, by `refuse_calibration_images`."""
        if not isinstance(sample.image, EncodedImage) or len(sample.image.data) not in self._sizes:
            return
        data = sample.image.data
        if (len(data), hashlib.sha256(data).hexdigest()) in self._calibration:
            raise DataError(
                f"{sample.key} is also a calibration image: accuracy on it would be optimistic; take other images, or "
                "override with --allow-overlap"
            )


class TruthFinder:
    """The class index of what a source says of an image."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self.labels = labels
        self._names = ClassNames(labels)

    def find(self, label: str | int | None) -> int:
        """Return the class index.

        Raises:
            DataError: no label, or one that the artifact does not know.
        """
        if label is None:
            raise DataError("has no class: neither a folder, nor a .cls file, nor a column says it")
        if isinstance(label, int):
            if not 0 <= label < len(self.labels):
                raise DataError(f"class {label} is outside the artifact's {len(self.labels)} classes")
            return label
        index = self._names.find(label)
        if index is None:
            why = "names more than one of" if self._names.is_ambiguous(label) else "is none of"
            raise DataError(f"class {label!r} {why} the artifact's labels ({self.labels[0].aliases[0]}, ...)")
        return index
