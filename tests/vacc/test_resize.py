"""Both bilinear resizes equal their libraries bit for bit, on every kind of size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nestforge.vacc.resize import resize_as_opencv, resize_as_pillow

SIDES = st.integers(1, 120)


def make_image(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8)


def resize_with_cv2(image_chw: np.ndarray, height: int, width: int) -> np.ndarray:
    image_hwc = np.ascontiguousarray(image_chw.transpose(1, 2, 0))
    return cv2.resize(image_hwc, (width, height), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)


@settings(max_examples=400, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_opencv_bit_for_bit(height: int, width: int, new_height: int, new_width: int, seed: int) -> None:
    image = make_image(height, width, seed)
    assert np.array_equal(resize_as_opencv(image, new_height, new_width), resize_with_cv2(image, new_height, new_width))


@settings(max_examples=50, deadline=None)
@given(SIDES, SIDES, st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_opencv_at_whole_ratios(height: int, width: int, down: int, across: int, seed: int) -> None:
    """Exactly half is another formula in OpenCV."""
    image = make_image(height * down, width * across, seed)
    assert np.array_equal(resize_as_opencv(image, height, width), resize_with_cv2(image, height, width))


@pytest.mark.parametrize("size", [(375, 500, 328), (333, 500, 288), (500, 375, 352), (1200, 1600, 475), (64, 64, 448)])
def test_opencv_at_photograph_sizes(size: tuple[int, int, int]) -> None:
    image = make_image(size[0], size[1], 0)
    assert np.array_equal(resize_as_opencv(image, size[2], size[2]), resize_with_cv2(image, size[2], size[2]))


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_pillow_bit_for_bit(height: int, width: int, new_height: int, new_width: int, seed: int) -> None:
    image = make_image(height, width, seed)
    expected = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    expected = expected.resize((new_width, new_height), Image.Resampling.BILINEAR)
    assert np.array_equal(resize_as_pillow(image, new_height, new_width).transpose(1, 2, 0), np.asarray(expected))
