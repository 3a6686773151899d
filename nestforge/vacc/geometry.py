"""Compare the preprocessing of a deployment with the published one: one line for each difference that costs accuracy.

Preprocessing is described by its effect on a photograph of the usual 500 x 375 pixels: the part that the network sees,
the scale of each side, the filter used, and the values of black and white.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nestforge.artifact.manifest import Manifest
from nestforge.data.preprocess import (
    CenterCrop,
    ECenterCrop,
    Preprocess,
    Resize,
    ResizeKeepRatio,
    make_reference_preprocess,
)
from nestforge.networks.zoo import VARIANTS
from nestforge.vacc.vdsp import Vdsp, check_output_size, read_vdsp

PHOTO_WIDTH, PHOTO_HEIGHT = 500, 375
VIEW_TOLERANCE = 0.01  # of the short side: allows for a pixel or two of rounding
STRETCH_TOLERANCE = 0.01
LEVEL_TOLERANCE = 0.01  # of a normalised value: constants rounded to 16 bits stay within 0.001
CENTRE_TOLERANCE = 1.0  # pixels


@dataclass(frozen=True, kw_only=True)
class InputView:
    """What a network sees of the photograph.

    `short_side` is the fraction of the height that it sees, and `stretch` the horizontal scale over the vertical one.
    `off_centre` is the distance of the crop from the centre in pixels. `levels` (3, 2) holds the values of 0 and 255 in
    each channel of the network.
    """

    short_side: float
    stretch: float
    off_centre: float
    interpolation: str
    order: str
    levels: npt.NDArray[np.float64]


def describe_preprocess(preprocess: Preprocess) -> InputView:
    """Return what the network sees of the photograph after `preprocess`."""
    width, height = float(PHOTO_WIDTH), float(PHOTO_HEIGHT)
    scale_x = scale_y = 1.0
    filters = []
    for op in preprocess.ops:
        if isinstance(op, ECenterCrop):
            side = op.size / (op.size + 32) * min(width, height)
            scale_x, scale_y = scale_x * op.size / side, scale_y * op.size / side
            width = height = float(op.size)
            filters.append(op.interpolation)
        elif isinstance(op, Resize):
            if isinstance(op.size, tuple):
                new_height, new_width = map(float, op.size)
            else:
                new_height, new_width = height * op.size / min(width, height), width * op.size / min(width, height)
            scale_x, scale_y = scale_x * new_width / width, scale_y * new_height / height
            width, height = new_width, new_height
            filters.append(op.interpolation)
        elif isinstance(op, ResizeKeepRatio):
            ratios = height / op.size[0], width / op.size[1]
            ratio = min(ratios) if op.fit == "cover" else max(ratios)
            scale_x, scale_y = scale_x / ratio, scale_y / ratio
            width, height = width / ratio, height / ratio
            filters.append(op.interpolation)
        else:
            assert isinstance(op, CenterCrop)
            width, height = min(width, op.size_hw[1]), min(height, op.size_hw[0])
    mean, std = (np.array(values)[:, None] for values in (preprocess.mean, preprocess.std))
    return InputView(
        short_side=height / scale_y / PHOTO_HEIGHT,
        stretch=scale_x / scale_y,
        off_centre=0.0,
        interpolation=" + ".join(dict.fromkeys(filters)) or "none",
        order=preprocess.channels,
        levels=(np.array([0.0, 1.0]) - mean) / std,
    )


def describe_vdsp(vdsp: Vdsp) -> InputView:
    """Return what the network sees of the photograph after the steps of a vdsp_params file."""
    (height, width), (crop_height, crop_width) = vdsp.resize_hw, vdsp.output_hw
    config = vdsp.OpConfig
    offsets = (config.CropY - (height - crop_height) / 2, config.CropX - (width - crop_width) / 2)
    return InputView(
        short_side=crop_height / height,
        stretch=(width / PHOTO_WIDTH) / (height / PHOTO_HEIGHT),
        off_centre=max(abs(offset) for offset in offsets),
        interpolation="bilinear" if config.ResizeType == "BILINEAR_PILLOW" else "bilinear without antialiasing",
        order="rgb" if config.ColorCvtCode == "NO_CHANGE" else "bgr",
        levels=vdsp.levels[:, [0, 255]].astype(np.float64),
    )


def find_published_preprocess(manifest: Manifest) -> Preprocess | None:
    """Return the preprocessing that the authors evaluated this model with, or None if it is not published."""
    variant = VARIANTS.get(manifest.config.model.name or manifest.name)
    if variant is None or variant.sha256_prefix is None or manifest.height != manifest.width:
        return None
    return make_reference_preprocess(manifest.height)


def compare_views(found: InputView, expected: InputView, *, what: str, reference: str) -> Iterator[str]:
    """Yield one line for each difference; `what` and `reference` name the two sides."""
    if abs(found.short_side - expected.short_side) > VIEW_TOLERANCE:
        yield (
            f"field of view: {what} keeps {found.short_side:.1%} of the short side, {reference} "
            f"{expected.short_side:.1%}"
        )
    if abs(found.stretch / expected.stretch - 1) > STRETCH_TOLERANCE:
        yield (
            f"aspect ratio: {what} scales the width of a {PHOTO_WIDTH}x{PHOTO_HEIGHT} photograph by "
            f"{found.stretch:.2f} of its height, {reference} by {expected.stretch:.2f}"
        )
    if found.off_centre > CENTRE_TOLERANCE:
        yield f"field of view: {what} crops {found.off_centre:g} pixels off centre, {reference} in the middle"
    if found.interpolation != expected.interpolation:
        yield f"interpolation: {what} resizes with {found.interpolation}, {reference} with {expected.interpolation}"
    if found.order != expected.order:
        yield f"normalisation: {what} gives {found.order.upper()} channels, {reference} {expected.order.upper()}"
    if np.abs(found.levels - expected.levels).max() > LEVEL_TOLERANCE:
        yield (
            f"normalisation: {what} maps 0..255 to {_format_levels(found.levels)}, {reference} to "
            f"{_format_levels(expected.levels)}"
        )


def check_vdsp(manifest: Manifest, vdsp: Vdsp) -> tuple[str, ...]:
    """Compare a vdsp_params file with the published preprocessing or, if there is none, with the artifact's own."""
    published = find_published_preprocess(manifest)
    reference = "the published preprocessing" if published else "the artifact's preprocessing"
    expected = describe_preprocess(published or manifest.preprocess)
    return tuple(compare_views(describe_vdsp(vdsp), expected, what="vdsp_params", reference=reference))


def check_preprocess(manifest: Manifest, artifact: Path, vdsp_params: Path | None = None) -> tuple[str, ...]:
    """Compare the preprocessing of an artifact, and that of a vdsp_params file, with the published one.

    Raises:
        ConfigError: the file cannot be used, or its input size is not that of the artifact.
    """
    published = find_published_preprocess(manifest)
    lines: list[str] = []
    if published is not None:
        lines += compare_views(
            describe_preprocess(manifest.preprocess),
            describe_preprocess(published),
            what="the artifact's preprocessing",
            reference="the published one",
        )
    if vdsp_params is not None:
        vdsp = read_vdsp(vdsp_params)
        check_output_size(vdsp, height=manifest.height, width=manifest.width, artifact=artifact)
        lines += check_vdsp(manifest, vdsp)
    return tuple(lines)


def _format_levels(levels: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{low:.3g}..{high:.3g}" for low, high in levels)
