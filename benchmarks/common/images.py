"""Images to calibrate and measure on, where there are none or too few, and as a quantizer takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nestforge.data.imagefolder import list_images
from nestforge.data.preprocess import Preprocess, load_image
from nestforge.engines.base import Images


class LazySamples:
    """Preprocessed images (1, 3, H, W), loaded one at a time: what a quantizer keeps of them is its own."""

    def __init__(self, paths: Sequence[Path], preprocess: Preprocess) -> None:
        self._paths = paths
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Images]:
        for path in self._paths:
            yield load_image(path, self._preprocess)[None]


def generate_photos(folder: Path, count: int) -> Path:
    """Write smooth random images, for where there are no photographs."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"class{index}" / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480)).save(path)
    return folder


def link_repeatedly(images: Path, folder: Path, count: int) -> Path:
    """Fill a folder with `count` links to the images of another, as many times over as that needs."""
    paths = list_images(images).paths
    for index in range(count):
        path = paths[index % len(paths)]
        link = folder / path.parent.name / f"{index // len(paths)}_{path.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return folder
