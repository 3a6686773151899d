"""The images of a build, and the refusal to measure on what was calibrated on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nestforge.artifact.manifest import FileRecord, record_file
from nestforge.artifact.overlap import refuse_overlap
from nestforge.config import BuildConfig
from nestforge.data.imagefolder import ImageFolder, choose_balanced, list_images, match_classes
from nestforge.data.labels import Label
from nestforge.data.loader import Unreadable, load_batches
from nestforge.data.preprocess import Preprocess, normalize_images
from nestforge.engines.base import Images
from nestforge.engines.machine import count_available_cores
from nestforge.errors import DataError

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "eval", "dev", "test", "testing"})


def make_random_images(preprocess: Preprocess, hw: tuple[int, int], count: int, *, seed: int = 0) -> Images:
    """Return `count` images (count, 3, H, W) of noise, normalised: of different brightness, contrast and coarseness."""
    height, width = hw
    rng = np.random.default_rng(seed)
    images = []
    for index in range(count):
        coarse = 1 << (index % 4)
        rows, columns = -(-height // coarse), -(-width // coarse)
        noise = rng.integers(0, 256, (rows, columns, 3), np.uint8).repeat(coarse, 0).repeat(coarse, 1)[:height, :width]
        low, high = sorted(rng.integers(0, 256, 2).tolist())
        images.append((low + noise.astype(np.float32) * (high - low) / 255).astype(np.uint8))
    return normalize_images(np.stack(images), preprocess)


class BuildImages:
    """The calibration subset, or seeded noise where there is none.

    Raises:
        DataError: there are no images, some are also in the evaluation set, or the evaluation or validation set has
            classes that none of the `labels` names; without `labels` that is not looked at.
    """

    def __init__(
        self,
        config: BuildConfig,
        preprocess: Preprocess,
        hw: tuple[int, int],
        *,
        batch: int,
        labels: Sequence[Label] = (),
    ) -> None:
        self.batch = batch
        self._preprocess = preprocess
        self._hw = hw
        self._paths: tuple[Path, ...] = ()
        self.inputs: dict[str, FileRecord] = {}
        self.classes = 0  # how many class folders the chosen images are from
        if labels and config.dtype == "int8" and config.quantize.validation is not None:
            match_classes(list_images(Path(config.quantize.validation.data)), labels)
        section = config.calibration
        if section is None:
            return
        evaluation = list_images(Path(section.evaluation)) if section.evaluation is not None else None
        if evaluation is not None and labels:
            match_classes(evaluation, labels)
        dataset = list_images(Path(section.data), suffix=section.suffix)
        _warn_of_other_classes(dataset, labels if config.labels is not None else ())
        self._paths = choose_balanced(dataset, section.count, section.seed)
        class_of = dict(zip(dataset.paths, dataset.folders, strict=True))
        self.classes = len({class_of[path] for path in self._paths})
        for path in self._paths:
            if path.is_file():
                self.inputs[f"{section.data}:{dataset.name_of(path)}"] = record_file(path)
        if evaluation is not None and not section.allow_overlap:
            refuse_overlap(self.inputs, evaluation.paths, override="calibration.allow_overlap: true")

    @property
    def are_calibration(self) -> bool:
        return bool(self._paths)

    def load(self, limit: int | None = None, *, batch: int | None = None) -> Iterator[Images]:
        """Yield batches of normalised images; unreadable calibration images are an error."""
        batch = batch or self.batch
        if not self._paths:
            for seed in range(4):
                yield make_random_images(self._preprocess, self._hw, batch, seed=seed)
            return
        for item in load_batches(self._paths[:limit], self._preprocess, batch=batch, workers=count_available_cores()):
            if isinstance(item, Unreadable):
                raise DataError(f"calibration image {item.reason}; remove it and build again")
            yield item.images_nchw

    def __len__(self) -> int:
        return len(self._paths) or 4 * self.batch


def _warn_of_other_classes(dataset: ImageFolder, labels: Sequence[Label]) -> None:
    """Warn where the calibration images have classes, and they are not those of the model."""
    splits = [name for name in dataset.classes if name.lower() in _SPLITS]
    if len(splits) > 1 and not dataset.is_list:
        best = next((name for name in splits if name.lower().startswith("train")), splits[0])
        warnings.warn(
            f"calibration.data {dataset.root} holds {', '.join(splits)}, and images of each are calibrated on; give "
            f"{dataset.root / best}",
            stacklevel=1,
        )
    elif labels and "" not in dataset.folders:
        try:
            match_classes(dataset, labels)
        except DataError as error:
            warnings.warn(f"are the calibration images of another dataset? {error}", stacklevel=1)
