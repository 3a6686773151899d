"""Small labelled data, and where the real data lies."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
CLASSES = ("bag", "boot", "coat", "dress", "pullover", "sandal", "shirt", "sneaker", "t-shirt", "trouser")


def make_images(root: Path, *, seed: int) -> Path:
    """Ten class folders of four small noisy images each."""
    rng = np.random.default_rng(seed)
    for index, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(4):
            pixels = rng.integers(0, 256, (40 + index, 50, 3), np.uint8)
            pixels[: 4 * index] //= 4
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def list_files(dataset: Path) -> list[tuple[int, Path]]:
    return [(index, path) for index, name in enumerate(CLASSES) for path in sorted((dataset / name).iterdir())]


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
