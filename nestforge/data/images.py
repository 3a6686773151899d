"""The forms of an input image: a file, the bytes of a file, or pixels that are already decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image


class ImageFile(Protocol):
    """A whole image file: a `Path`, or bytes from elsewhere; `str` gives its name."""

    def read_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file, with a name for messages."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        return self.data


@dataclass(frozen=True, eq=False)
class PixelImage:
    """Decoded pixels, with a name for messages: (H, W, 3) uint8 RGB, or a Pillow image in any mode."""

    name: str
    pixels: npt.NDArray[np.uint8] | Image.Image

    def __str__(self) -> str:
        return self.name

    def open(self) -> Image.Image:
        """Return the pixels as a Pillow image."""
        return self.pixels if isinstance(self.pixels, Image.Image) else Image.fromarray(self.pixels)


AnyImage = ImageFile | PixelImage
