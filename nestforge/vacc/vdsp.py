"""The vendor's ``vdsp_params`` JSON: what its image processor does to an RGB image before the network.

This module does the same: squash-resize, colour code, crop, normalise, in the order of the OpType's name.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nestforge.errors import ConfigError, DataError
from nestforge.schema import parse, read_json
from nestforge.vacc.resize import ImageCHW, resize_as_opencv, resize_as_pillow

MAX_JSON_BYTES = 1 << 20
MIN_STD = 1e-6

Side = Annotated[int, Field(ge=1, le=8192)]
Offset = Annotated[int, Field(ge=0, le=8192)]
Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Triple = tuple[Number, Number, Number]
CROP, NO_CROP = "FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR", "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR"
NormaType = Literal["DIV255_MINUSMEAN_DIVSTD", "MINUSMEAN_DIVSTD", "DIV255", "EQUAL"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class VdspConfig(_Part):
    """The key ``OpConfig``, with the vendor's names. Sizes are in pixels; images may have another size than Iimage."""

    IimageFormat: Literal["RGB_PLANAR"] = "RGB_PLANAR"
    IimageWidth: Side | None = None
    IimageHeight: Side | None = None
    IimageWidthPitch: Side | None = None
    IimageHeightPitch: Side | None = None
    OimageWidth: Side
    OimageHeight: Side
    CropX: Offset = 0
    CropY: Offset = 0
    ResizeWidth: Side | None = None  # default: OimageWidth
    ResizeHeight: Side | None = None
    Mean: Triple = (0.0, 0.0, 0.0)
    Std: Triple = (1.0, 1.0, 1.0)
    NormaType: NormaType
    ColorCvtCode: Literal["NO_CHANGE", "RGB2BGR", "BGR2RGB"] = "NO_CHANGE"
    ResizeType: Literal["BILINEAR_CV", "BILINEAR_PILLOW"]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.Std) < MIN_STD:
            raise ValueError(f"Std must be {MIN_STD} or more")
        for side in ("Width", "Height"):
            pitch, nominal = getattr(self, f"Iimage{side}Pitch"), getattr(self, f"Iimage{side}")
            if pitch is not None and nominal is not None and pitch < nominal:
                raise ValueError(f"Iimage{side}Pitch {pitch} is below Iimage{side} {nominal}")
        return self


class Vdsp(_Part):
    """A whole vdsp_params file."""

    OpType: Literal["FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR", "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR"]
    OpConfig: VdspConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        config = self.OpConfig
        (height, width), (top, left) = self.resize_hw, (config.CropY, config.CropX)
        if self.OpType == NO_CROP and ((height, width) != self.output_hw or top or left):
            raise ValueError(
                f"{NO_CROP} does not crop: resize {width}x{height} and Oimage {self.output_hw[1]}x{self.output_hw[0]} "
                f"must be equal and CropX, CropY 0; or use {CROP}"
            )
        if left + config.OimageWidth > width or top + config.OimageHeight > height:
            raise ValueError(
                f"the crop of {config.OimageWidth}x{config.OimageHeight} at x {left}, y {top} does not fit "
                f"into the resized {width}x{height}"
            )
        return self

    @property
    def resize_hw(self) -> tuple[int, int]:
        """Height and width that every image is squashed to."""
        config = self.OpConfig
        return config.ResizeHeight or config.OimageHeight, config.ResizeWidth or config.OimageWidth

    @property
    def output_hw(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.OpConfig.OimageHeight, self.OpConfig.OimageWidth

    @cached_property
    def levels(self) -> npt.NDArray[np.float32]:
        """The value of each of the 256 levels in each channel of the network, (3, 256) float32."""
        config, pixels = self.OpConfig, np.arange(256, dtype=np.float32)
        if config.NormaType == "EQUAL":
            return np.tile(pixels, (3, 1))
        if config.NormaType.startswith("DIV255"):
            pixels = pixels / np.float32(255)
        if config.NormaType == "DIV255":
            return np.tile(pixels, (3, 1))
        mean, std = (np.array(values, np.float32)[:, None] for values in (config.Mean, config.Std))
        levels: npt.NDArray[np.float32] = (pixels - mean) / std
        return levels

    def apply(self, image_chw: ImageCHW) -> npt.NDArray[np.float32]:
        """Turn an RGB image (3, H, W), uint8, into the network's input (3, OimageHeight, OimageWidth), float32.

        Raises:
            DataError: `image_chw` is not such an array.
        """
        if image_chw.dtype != np.uint8 or image_chw.ndim != 3 or len(image_chw) != 3 or 0 in image_chw.shape:
            raise DataError(f"an image must be (3, H, W) uint8, not {image_chw.shape} {image_chw.dtype}")
        config = self.OpConfig
        resize = resize_as_opencv if config.ResizeType == "BILINEAR_CV" else resize_as_pillow
        resized = resize(image_chw, *self.resize_hw)
        if config.ColorCvtCode != "NO_CHANGE":
            resized = resized[::-1]
        rows = slice(config.CropY, config.CropY + config.OimageHeight)
        columns = slice(config.CropX, config.CropX + config.OimageWidth)
        out = np.empty((3, *self.output_hw), np.float32)
        for channel in range(3):
            np.take(self.levels[channel], resized[channel, rows, columns], out=out[channel])
        return out


def read_vdsp(path: Path) -> Vdsp:
    """Read a vdsp_params file.

    Raises:
        ConfigError: missing, not JSON, an unknown key, or sizes that contradict each other.
    """
    remedy = "write it as the vendor's vdsp_params"
    data = read_json(path, limit_bytes=MAX_JSON_BYTES, kind="vdsp_params file", remedy=remedy)
    return parse_vdsp(data, source=str(path))


def parse_vdsp(data: object, *, source: str) -> Vdsp:
    """Validate the content of a vdsp_params file; `source` names it in errors.

    Raises:
        ConfigError: as `read_vdsp`.
    """
    return parse(Vdsp, data, source=source)


def check_output_size(vdsp: Vdsp, *, height: int, width: int, artifact: Path) -> None:
    """Check that the file produces the input size of the artifact.

    Raises:
        ConfigError: it does not; the message names both sizes.
    """
    if vdsp.output_hw != (height, width):
        raise ConfigError(
            f"the vdsp_params give images of {vdsp.output_hw[1]}x{vdsp.output_hw[0]} (OimageWidth x OimageHeight) but "
            f"{artifact} takes {width}x{height}; change Oimage and the crop, or build for that size"
        )
