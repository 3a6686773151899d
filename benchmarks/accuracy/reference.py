"""What float32 predicts for labelled images: decoded once and kept on disk, and what everything is compared with."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common.splits import link_halves
from nestforge.compile.onnxfile import serialize
from nestforge.compile.source import Source
from nestforge.config import BuildConfig
from nestforge.data.imagefolder import list_images, match_classes
from nestforge.data.labelfiles import read_labels
from nestforge.data.labels import read_imagenet_labels
from nestforge.data.loader import map_in_order
from nestforge.data.preprocess import normalize_images, read_image
from nestforge.engines import get_engine
from nestforge.engines.base import Dtype, Images, Logits, Settings
from nestforge.engines.machine import count_available_cores
from nestforge.errors import ConfigError
from nestforge.files import atomic_write, fingerprint_file, hash_json

BATCH = 10
TOP = 5


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A build file, and the images that what it makes is evaluated on."""

    config: BuildConfig
    paths: tuple[Path, ...]
    truth: tuple[int, ...]


def make_folds(config: BuildConfig, dataset: Path, *, halves: bool, folder: Path) -> list[Fold]:
    """Return one fold, or the two that calibrate on one image of each class and evaluate on the other.

    Raises:
        ConfigError: the build file has no labels or no calibration.
    """
    if config.labels is None or config.calibration is None:
        raise ConfigError("the build file needs labels and calibration; add what is missing")
    labels = read_imagenet_labels() if config.labels == "imagenet" else read_labels(Path(config.labels))
    images = list_images(dataset)
    truth = match_classes(images, labels)
    if not halves:
        return [Fold(config=config, paths=images.paths, truth=tuple(truth))]
    folds = []
    for side, kept in enumerate(link_halves(images, folder)):
        section = config.calibration.model_copy(update={"data": str(folder / f"half{1 - side}")})
        folds.append(
            Fold(
                config=config.model_copy(update={"calibration": section}),
                paths=tuple(images.paths[index] for index in kept),
                truth=tuple(truth[index] for index in kept),
            )
        )
    return folds


class Reference:
    """One fold's images, and the best five classes of each in float32: `expected`, (N, 5)."""

    def __init__(self, fold: Fold, source: Source) -> None:
        self.fold = fold
        self._preprocess = source.preprocess
        self._settings = Settings(
            batch=BATCH, height=source.height, width=source.width, threads=count_available_cores()
        )
        folder = Path(tempfile.gettempdir()) / "nestforge-accuracy"
        folder.mkdir(exist_ok=True)
        images = [[str(path), *fingerprint_file(path)] for path in fold.paths]
        self._pixels = folder / f"{hash_json([images, self._preprocess.sha256])[:32]}.npy"
        if not self._pixels.is_file():
            read = partial(read_image, preprocess=self._preprocess)
            _save(self._pixels, np.stack(list(map_in_order(fold.paths, read, ahead=64, workers=2))))
        model = serialize(source.model)
        predictions = folder / f"{self._pixels.stem}-{hashlib.sha256(model).hexdigest()[:32]}.npy"
        if not predictions.is_file():
            _save(predictions, self.predict(model))
        self.expected: npt.NDArray[np.int64] = np.load(predictions)

    def predict(self, model: bytes, *, exact: bool = False, dtype: Dtype = "fp32") -> npt.NDArray[np.int64]:
        """Return the best five classes of every image, (N, 5)."""
        settings = replace(self._settings, dtype=dtype)
        run = open_exact(model, settings) if exact else get_engine("openvino").open(model, settings).run
        pixels = np.load(self._pixels, mmap_mode="r")
        parts = [pixels[begin : begin + BATCH] for begin in range(0, len(pixels), BATCH)]
        logits = [run(normalize_images(part, self._preprocess)) for part in parts]
        return np.concatenate([np.argsort(-part, axis=1, kind="stable")[:, :TOP] for part in logits])


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with atomic_write(path) as partial_path, partial_path.open("wb") as file:
        np.save(file, array)


def open_exact(model: bytes, settings: Settings) -> Callable[[Images], Logits]:
    """Open a QDQ file on OpenVINO without its int8 kernels: every pair is executed in float32."""
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape([settings.batch, 3, settings.height, settings.width])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": settings.threads, "LP_TRANSFORMS_MODE": "NO"}
    compiled = core.compile_model(network, "CPU", options)

    def run(images_nchw: Images) -> Logits:
        padding = np.zeros((settings.batch - len(images_nchw), *images_nchw.shape[1:]), np.float32)
        return np.array(compiled([np.concatenate([images_nchw, padding])])[0][: len(images_nchw)])

    return run
