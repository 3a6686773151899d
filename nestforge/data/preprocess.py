"""From a file to what the network sees: the only decode, crop, resize and normalise of the project.

The description (`Preprocess`) is part of every artifact, with its hash. All geometry has Pillow's semantics:
torchvision's transforms on PIL images give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nestforge.errors import ConfigError, DataError
from nestforge.schema import explain_invalid

ImageHWC = npt.NDArray[np.uint8]  # (H, W, 3) RGB

MAX_PIXELS = 178_956_970  # Pillow's own limit for "decompression bombs", applied to every image
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
Interpolation = Literal["bilinear", "bicubic"]
Side = Annotated[int, Field(ge=1, le=8192, strict=True)]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


_LARGEST_STD = 2.0  # inputs within a quarter to either side
_LEAST_STD = 1 / 512  # half of 1/255, which leaves pixels between 0 and 255
_PUBLISHED = (  # mean and std of training sets, which are what gets swapped
    (IMAGENET_MEAN, IMAGENET_STD),
    ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),  # OpenAI's CLIP
    ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),  # CIFAR-10
    ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),  # CIFAR-100
)


class ImageFile(Protocol):
    """A whole image file: a `Path`, or bytes from elsewhere under the name that `str` gives."""

    def read_bytes(self) -> bytes: ...


class _Op(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ECenterCrop(_Op):
    """The authors' crop: a centred square of side short x S/(S+32), resized to S x S.

    Left and top are rounded, then right and bottom, as Pillow rounds the box (seed document, "pre-processing").
    """

    op: Literal["ecenter_crop"] = "ecenter_crop"
    size: Side
    interpolation: Interpolation = "bicubic"

    def apply(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        side = float(self.size) / (self.size + 32) * min(width, height)
        top = round((height - side) / 2.0)
        left = round((width - side) / 2.0)
        right, bottom = round(left + side), round(top + side)
        if left >= right or top >= bottom:
            raise DataError(f"an image of {width}x{height} pixels leaves nothing to crop for size {self.size}")
        return image.crop((left, top, right, bottom)).resize((self.size, self.size), _RESAMPLING[self.interpolation])

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return self.size, self.size


class Resize(_Op):
    """One number: the short side, the aspect ratio kept. Two, [height, width]: squash to exactly that."""

    op: Literal["resize"] = "resize"
    size: Side | tuple[Side, Side]
    interpolation: Interpolation = "bilinear"

    def apply(self, image: Image.Image) -> Image.Image:
        if isinstance(self.size, tuple):
            height, width = self.size
        else:
            short, long = sorted(image.size)
            scaled = int(self.size * long / short)
            if scaled > MAX_PIXELS // self.size:
                raise DataError(f"resizing {image.size[0]}x{image.size[1]} to a short side of {self.size} is too large")
            width, height = (self.size, scaled) if image.size[0] <= image.size[1] else (scaled, self.size)
        return image.resize((width, height), _RESAMPLING[self.interpolation])

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return self.size if isinstance(self.size, tuple) else None


class CenterCrop(_Op):
    """A centred square of `size` pixels; a smaller image is padded with black, as torchvision does."""

    op: Literal["center_crop"] = "center_crop"
    size: Side

    def apply(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if width < self.size or height < self.size:
            left, top = max(self.size - width, 0) // 2, max(self.size - height, 0) // 2
            padded = Image.new("RGB", (max(width, self.size), max(height, self.size)))
            padded.paste(image, (left, top))
            image, (width, height) = padded, padded.size
        top, left = round((height - self.size) / 2.0), round((width - self.size) / 2.0)
        return image.crop((left, top, left + self.size, top + self.size))

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return self.size, self.size


GeometryOp = Annotated[ECenterCrop | Resize | CenterCrop, Field(discriminator="op")]
Triple = tuple[float, float, float]


class Preprocess(BaseModel):
    """Decode to RGB, apply `ops` in order, then (pixel / 255 - mean) / std per channel, in the order `channels`.

    So mean is between 0 and 1, and std between 1/512 and 2. Models that take pixels from 0 to 1 have mean 0 and std 1,
    from -1 to 1 both 0.5, from 0 to 255 mean 0 and std 1/255; with only a mean subtracted, as in Caffe, mean / 255 and
    std 1/255. What cannot be right, such as values for pixels from 0 to 255, is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    ops: tuple[GeometryOp, ...] = ()
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    exif_orientation: bool = False  # the reference ignores it
    channels: Literal["rgb", "bgr"] = "rgb"  # the order the network takes; mean and std are in that order

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        problem = _find_wrong_scale(self.mean, self.std)
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def output_hw(self) -> tuple[int, int] | None:
        """Height and width of every result, or None where they follow the image."""
        size: tuple[int, int] | None = None
        for op in self.ops:
            size = op.output_size(size)
        return size

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON of this description."""
        data = self.model_dump(mode="json")
        if self.channels == "rgb":
            del data["channels"]  # so that descriptions from before the key keep their hash
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> str:
        """Return one line for people."""
        names = {"ecenter_crop": "ECenterCrop", "resize": "resize", "center_crop": "centre crop"}
        steps = [
            f"{names[op.op]} {op.size}" + (f" {op.interpolation}" if not isinstance(op, CenterCrop) else "")
            for op in self.ops
        ]
        return " -> ".join([self.channels.upper(), *steps, f"mean {list(self.mean)} std {list(self.std)}"])


def _find_wrong_scale(mean: Triple, std: Triple) -> str | None:
    """Say what is surely wrong with a mean and std of pixels divided by 255, and what may have been meant."""
    if min(mean) < 0:
        return f"mean {_show(mean)} is negative, but it is subtracted: give it without the sign"
    if max(mean) > 1 or max(std) > _LARGEST_STD:
        meant_mean = _divide(mean, 255) if max(mean) > 1 else mean
        meant_std = _divide(std, 255) if max(std) > _LARGEST_STD or min(std) >= 1 else std
        if max(meant_mean) > 1 or max(meant_std) > _LARGEST_STD:
            return f"mean {_show(mean)} is not within 0 to 1, or std {_show(std)} not within 1/512 to {_LARGEST_STD:g}"
        return (
            f"mean {_show(mean)} or std {_show(std)} is of pixels from 0 to 255, but pixels are divided by 255 first: "
            f"write mean {_show(meant_mean)} and std {_show(meant_std)}"
        )
    if max(std) < _LEAST_STD:
        return (
            f"std {_show(std)} makes inputs as large as {1 / min(std):.3g}, but pixels are divided by 255 already: "
            f"write std {_show(_divide(std, 1 / 255))}, and mean on the same scale"
        )
    for right_mean, right_std in _PUBLISHED:
        if np.allclose(mean, right_std, atol=2e-3) and np.allclose(std, right_mean, atol=2e-3):
            return f"mean {_show(mean)} and std {_show(std)} are swapped"
    return None


def _divide(values: Triple, by: float) -> Triple:
    return values[0] / by, values[1] / by, values[2] / by


def _show(values: Triple) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def make_reference_preprocess(size: int) -> Preprocess:
    """Return the published preprocessing of ResNeSt for an input of `size` pixels."""
    return Preprocess(ops=(ECenterCrop(size=size),))


def decode_image(path: ImageFile, *, exif_orientation: bool = False) -> Image.Image:
    """Decode any image Pillow knows to RGB.

    16-bit grey values are scaled to 8 bits, 32-bit ones (TIFF) clipped as Pillow does; alpha is dropped; the first
    frame of an animation is used.

    Raises:
        DataError: not a readable image, float pixels, or more than `MAX_PIXELS`.
    """
    try:
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise DataError(f"{path}: not a regular file")  # a pipe would be waited for
        with Image.open(path if isinstance(path, Path) else io.BytesIO(path.read_bytes())) as image:
            if image.format == "EPS":
                raise DataError(f"{path}: not an image but a program (EPS); save it as PNG")  # Pillow would run it
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise DataError(f"{path}: {image.size[0]}x{image.size[1]} is more than {MAX_PIXELS:,} pixels")
            image.load()
            return _convert_to_rgb(ImageOps.exif_transpose(image) if exif_orientation else image)
    except DataError as error:
        raise DataError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except Exception as error:  # Pillow's decoders raise whatever the broken bytes lead them to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable image ({reason})") from error


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return image.convert("RGB")


def read_image(path: ImageFile, preprocess: Preprocess) -> ImageHWC:
    """Return the image after all geometry: (H, W, 3) uint8 RGB.

    Raises:
        DataError: not a readable image.
    """
    image = decode_image(path, exif_orientation=preprocess.exif_orientation)
    try:
        for op in preprocess.ops:
            image = op.apply(image)
        return np.asarray(image)
    except (DataError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: cannot be preprocessed ({error})") from error


def load_image(path: ImageFile, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """Return the image as the network takes it: (3, H, W) float32.

    Raises:
        DataError: as `read_image`.
    """
    image: npt.NDArray[np.float32] = normalize_images(read_image(path, preprocess)[None], preprocess)[0]
    return image


def normalize_images(images_nhwc: npt.NDArray[np.uint8], preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """Map (B, H, W, 3) uint8 to (B, 3, H, W) float32, bit for bit as torchvision's ToTensor and Normalize do."""
    planes = images_nhwc.transpose(0, 3, 1, 2)
    out = (planes if preprocess.channels == "rgb" else planes[:, ::-1]).astype(np.float32, order="C")
    out /= np.float32(255)
    out -= np.array(preprocess.mean, np.float32)[:, None, None]
    out /= np.array(preprocess.std, np.float32)[:, None, None]
    return out


def parse_preprocess(data: object) -> Preprocess:
    """Validate a description read from a file.

    Raises:
        ConfigError: not a valid description.
    """
    try:
        return Preprocess.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise ConfigError(f"bad preprocessing: {explain_invalid(error, Preprocess)}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"bad preprocessing: {str(error).splitlines()[0]}") from error
