"""timm's evaluation transform as our description: `transforms_imagenet_eval` of timm 1.0, operation by operation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from nestforge.data.preprocess import BLACK, CenterCrop, GeometryOp, Interpolation, Preprocess, Resize, ResizeKeepRatio
from nestforge.errors import ModelError

DEFAULT_CROP_PCT = 0.875  # timm's, where a model has none


def make_timm_preprocess(data_config: Mapping[str, Any]) -> Preprocess:
    """Return what timm's own transform does for the result of its `resolve_model_data_config`.

    Images are resized to input size / crop_pct, rounded down, and cropped in the middle. The crop mode says how they
    are resized: "center" keeps the aspect ratio and covers, "squash" does not keep it, "border" keeps it, fits inside
    and pads with the mean colour.

    Raises:
        ModelError: not three channels, or an operation that has no fixed result.
    """
    channels, height, width = data_config["input_size"]
    interpolation: Any = data_config["interpolation"]
    mode = data_config.get("crop_mode") or "center"
    crop_pct = data_config.get("crop_pct") or DEFAULT_CROP_PCT
    mean, std = tuple(map(float, data_config["mean"])), tuple(map(float, data_config["std"]))
    if channels != 3 or len(mean) != 3 or len(std) != 3:
        raise ModelError(f"it takes images of {channels} channels; only models of 3 channels (RGB) are supported")
    if interpolation not in get_args(Interpolation):
        raise ModelError(
            f"its interpolation is {interpolation!r}, not one fixed filter ({', '.join(get_args(Interpolation))})"
        )
    if mode not in ("center", "squash", "border"):
        raise ModelError(f"its crop mode {mode!r} is not known here (center, squash, border)")
    scaled = math.floor(height / crop_pct), math.floor(width / crop_pct)
    if not all(1 <= side <= 8192 for side in (height, width, *scaled)):
        raise ModelError(f"its images are resized to {scaled[0]}x{scaled[1]} pixels; 1 to 8192 are supported")
    size = height if height == width else (height, width)
    fill = BLACK
    resize: GeometryOp
    if mode == "squash":
        resize = Resize(size=scaled, interpolation=interpolation)
    elif mode == "border":
        resize = ResizeKeepRatio(size=scaled, fit="inside", interpolation=interpolation)
        red, green, blue = (round(255 * value) for value in mean)
        fill = (red, green, blue)
    elif scaled[0] == scaled[1]:
        resize = Resize(size=scaled[0], interpolation=interpolation)
    else:
        resize = ResizeKeepRatio(size=scaled, fit="cover", interpolation=interpolation)
    return Preprocess(ops=(resize, CenterCrop(size=size, fill=fill)), mean=mean, std=std)
