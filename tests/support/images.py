"""Small image files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def encode_image(value: int = 0, *, kind: str = "PNG", size: tuple[int, int] = (16, 12)) -> bytes:
    """Return an encoded image of seeded noise; another `value` is another image."""
    width, height = size
    pixels = np.random.default_rng(value).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_images(root: Path, *names: str) -> Path:
    """Write a small PNG, whatever the suffix, under each of the relative `names`."""
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(value))
    return root


def write_files(root: Path, *names: str) -> Path:
    """Write a file that is no image under each of the relative `names`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")
    return root
