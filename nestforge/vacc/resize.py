"""The two bilinear resizes of vdsp files on uint8 images, each equal bit for bit to the library in its name.

BILINEAR_CV is OpenCV's ``INTER_LINEAR``: two taps per axis at any scale, in fixed point, with half-pixel centres.
BILINEAR_PILLOW is Pillow's ``BILINEAR``: a triangle filter as wide as the scale, so that shrinking averages.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

ImageCHW = npt.NDArray[np.uint8]  # (3, H, W)

_COEFFICIENT_BITS = 11


def resize_as_opencv(image_chw: ImageCHW, height: int, width: int) -> ImageCHW:
    """Return (3, height, width) as ``cv2.resize(..., interpolation=cv2.INTER_LINEAR)`` computes it.

    Weights have 11 bits. OpenCV drops 4 bits of the horizontal sums, 16 of the vertical products, and rounds off 2.
    Half the size on both axes is a special case: the mean of four pixels.
    """
    source_height, source_width = image_chw.shape[1:]
    if (source_height, source_width) == (height, width):
        return image_chw
    if (source_height, source_width) == (2 * height, 2 * width):
        wide = image_chw.astype(np.uint16)
        rows = wide[:, ::2] + wide[:, 1::2]
        return ((rows[:, :, ::2] + rows[:, :, 1::2] + 2) >> 2).astype(np.uint8)
    left, fraction_x = _find_taps(source_width, width)
    outside = (left < 0) | (left >= source_width - 1)
    fraction_x = np.where(outside, np.float32(0), fraction_x)
    left = left.clip(0, source_width - 1)
    right = np.minimum(left + 1, source_width - 1)
    top, fraction_y = _find_taps(source_height, height)
    used, positions = np.unique(np.concatenate([top, top + 1]).clip(0, source_height - 1), return_inverse=True)

    near_x, far_x = _to_fixed_point(fraction_x)
    rows = image_chw[:, used].astype(np.int32)
    sums = (rows[:, :, left] * near_x + rows[:, :, right] * far_x) >> 4  # (3, used rows, width)
    near_y, far_y = (weights[:, None] for weights in _to_fixed_point(fraction_y))
    upper, lower = sums[:, positions[:height]], sums[:, positions[height:]]
    mixed = ((near_y * upper) >> 16) + ((far_y * lower) >> 16)
    return ((mixed + 2) >> 2).clip(0, 255).astype(np.uint8)


def resize_as_pillow(image_chw: ImageCHW, height: int, width: int) -> ImageCHW:
    """Return (3, height, width) as Pillow's ``Image.resize`` with ``Resampling.BILINEAR`` computes it."""
    image = Image.fromarray(np.ascontiguousarray(image_chw.transpose(1, 2, 0)))
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def _find_taps(source: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the first of the two pixels that make each target pixel, and the weight of the second."""
    scale = 1.0 / (target / source)  # OpenCV's order of operations, in double precision
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position)
    return first.astype(np.int64), position - first


def _to_fixed_point(fraction: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    one = np.float32(1 << _COEFFICIENT_BITS)
    near, far = (np.float32(1) - fraction) * one, fraction * one
    return np.rint(near).astype(np.int32), np.rint(far).astype(np.int32)
