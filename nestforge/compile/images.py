"""The images of a build, and the refusal to measure on what was calibrated on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from nestforge.compile.artifact import FileRecord, Manifest, record_file
from nestforge.config import BuildConfig
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.loader import Unreadable, load_batches
from nestforge.data.preprocess import Preprocess
from nestforge.engines.base import Images
from nestforge.engines.machine import count_available_cores
from nestforge.errors import DataError
from nestforge.files import hash_file


class BuildImages:
    """The calibration subset, or seeded noise where there is none."""

    def __init__(self, config: BuildConfig, preprocess: Preprocess, hw: tuple[int, int], *, batch: int) -> None:
        self.batch = batch
        self._preprocess = preprocess
        self._hw = hw
        self._paths: tuple[Path, ...] = ()
        self.inputs: dict[str, FileRecord] = {}
        section = config.calibration
        if section is not None:
            dataset = list_images(Path(section.data), suffix=section.suffix)
            self._paths = choose_balanced(dataset, section.count, section.seed)
            for path in self._paths:
                if path.is_file():
                    self.inputs[f"{section.data}:{path.relative_to(dataset.root)}"] = record_file(path)
            if section.evaluation is not None and not section.allow_overlap:
                refuse_overlap(
                    self.inputs, list_images(Path(section.evaluation)).paths, insist="calibration.allow_overlap: true"
                )

    @property
    def are_calibration(self) -> bool:
        return bool(self._paths)

    def load(self, limit: int | None = None, *, batch: int | None = None) -> Iterator[Images]:
        """Yield batches of normalised images; unreadable calibration images are an error."""
        batch = batch or self.batch
        if not self._paths:
            rng = np.random.default_rng(0)
            for _ in range(4):
                yield rng.standard_normal((batch, 3, *self._hw), np.float32)
            return
        for item in load_batches(self._paths[:limit], self._preprocess, batch=batch, workers=count_available_cores()):
            if isinstance(item, Unreadable):
                raise DataError(f"calibration image {item.reason}; remove it and build again")
            yield item.images_nchw

    def __len__(self) -> int:
        return len(self._paths) or 4 * self.batch


def find_overlap(inputs: Mapping[str, FileRecord], paths: Sequence[Path]) -> list[Path]:
    """Return the files among `paths` with the content of an input; only files of an input's size are read."""
    hashes: dict[int, set[str]] = {}
    for record in inputs.values():
        hashes.setdefault(record.size_bytes, set()).add(record.sha256)
    found = []
    for path in paths:
        same_size = hashes.get(path.stat().st_size) if path.is_file() else None
        if same_size and hash_file(path) in same_size:
            found.append(path)
    return found


def refuse_overlap(
    inputs: Mapping[str, FileRecord], paths: Sequence[Path], *, insist: str, kind: str = "calibration"
) -> None:
    """Refuse images that were used already, as `kind` says; `insist` is what takes them all the same.

    Raises:
        DataError: some of `paths` have the content of an input.
    """
    found = find_overlap(inputs, paths)
    if found:
        raise DataError(
            f"{len(found)} of these {len(paths)} images are also {kind} images, the first {found[0]}: accuracy on "
            f"them would flatter; take others, or insist with {insist}"
        )


def refuse_calibration_images(manifest: Manifest, paths: Sequence[Path]) -> None:
    """Refuse to measure an int8 artifact on the images it was calibrated on.

    Raises:
        DataError: as `refuse_overlap`.
    """
    if manifest.config.dtype == "int8":
        refuse_overlap(manifest.inputs, paths, insist="--allow-overlap")
