"""From an image file to the network's input: the project's only code that decodes, crops, resizes and normalises.

The description (`Preprocess`) and its hash are part of every artifact. Crops and resizes work as in Pillow:
torchvision's transforms on PIL images give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nestforge.data.images import AnyImage, PixelImage
from nestforge.errors import DataError

ImageHWC = npt.NDArray[np.uint8]  # (H, W, 3) RGB

MAX_PIXELS = 178_956_970  # Pillow's own limit for "decompression bombs", applied to every image
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Side = Annotated[int, Field(ge=1, le=8192, strict=True)]
Level = Annotated[int, Field(ge=0, le=255, strict=True)]
BLACK = (0, 0, 0)

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


class _Op(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ECenterCrop(_Op):
    """The authors' crop: a centred square with side S/(S+32) of the short side, resized to S x S.

    Left and top are rounded first, then right and bottom, as Pillow rounds the box (vendor guide, "pre-processing").
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
    """`size` is the new short side, with the aspect ratio kept, or [height, width], to which the image is squashed."""

    op: Literal["resize"] = "resize"
    size: Side | tuple[Side, Side]
    interpolation: Interpolation = "bilinear"

    def apply(self, image: Image.Image) -> Image.Image:
        if isinstance(self.size, tuple):
            height, width = self.size
        else:
            short, long = sorted(image.size)
            scaled = int(self.size * long / short)
            width, height = (self.size, scaled) if image.size[0] <= image.size[1] else (scaled, self.size)
        return _resize(image, width, height, self.interpolation)

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return self.size if isinstance(self.size, tuple) else None


class ResizeKeepRatio(_Op):
    """Resize with the aspect ratio kept: just cover [height, width], or fit inside it.

    Sides are rounded to the nearest pixel, as timm does; `Resize` of a short side rounds down, as torchvision does.
    """

    op: Literal["resize_keep_ratio"] = "resize_keep_ratio"
    size: tuple[Side, Side]
    fit: Literal["cover", "inside"]
    interpolation: Interpolation = "bilinear"

    def apply(self, image: Image.Image) -> Image.Image:
        ratios = image.height / self.size[0], image.width / self.size[1]
        ratio = min(ratios) if self.fit == "cover" else max(ratios)
        return _resize(image, round(image.width / ratio), round(image.height / ratio), self.interpolation)

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return None


class CenterCrop(_Op):
    """A centred crop: a square of `size` pixels, or [height, width]; a smaller image is padded, as torchvision does.

    `fill` is the RGB colour of the padding.
    """

    op: Literal["center_crop"] = "center_crop"
    size: Side | tuple[Side, Side]
    fill: tuple[Level, Level, Level] = BLACK

    def apply(self, image: Image.Image) -> Image.Image:
        height, width = self.size_hw
        if image.width < width or image.height < height:
            left, top = max(width - image.width, 0) // 2, max(height - image.height, 0) // 2
            padded = Image.new("RGB", (max(width, image.width), max(height, image.height)), self.fill)
            padded.paste(image, (left, top))
            image = padded
        top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
        return image.crop((left, top, left + width, top + height))

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        return self.size_hw


def _resize(image: Image.Image, width: int, height: int, interpolation: Interpolation) -> Image.Image:
    if width * height > MAX_PIXELS or not width * height:
        raise DataError(
            f"resizing {image.width}x{image.height} to {width}x{height} is too {'large' if width * height else 'thin'}"
        )
    return image.resize((width, height), _RESAMPLING[interpolation])


GeometryOp = Annotated[ECenterCrop | Resize | ResizeKeepRatio | CenterCrop, Field(discriminator="op")]
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
    channels: Literal["rgb", "bgr"] = "rgb"  # the order that the network takes; mean and std are in the same order

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
        """Height and width of every result, or None if they depend on the image."""
        size: tuple[int, int] | None = None
        for op in self.ops:
            size = op.output_size(size)
        return size

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON of this description."""
        data = self.model_dump(mode="json")
        # descriptions from before a key keep their hash
        if self.channels == "rgb":
            del data["channels"]
        for op in data["ops"]:
            if op.get("fill") == list(BLACK):
                del op["fill"]
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> str:
        """Return a description in one line."""
        names = {
            "ecenter_crop": "ECenterCrop",
            "resize": "resize",
            "resize_keep_ratio": "resize",
            "center_crop": "centre crop",
        }
        steps = [
            f"{names[op.op]} {op.size}"
            + (f" {op.fit}" if isinstance(op, ResizeKeepRatio) else "")
            + (f" {op.interpolation}" if not isinstance(op, CenterCrop) else "")
            + (f" on {op.fill}" if isinstance(op, CenterCrop) and op.fill != BLACK else "")
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


def decode_image(path: AnyImage, *, exif_orientation: bool = False) -> Image.Image:
    """Decode any image that Pillow knows to RGB; for pixels that are already decoded, only convert the mode.

    16-bit grey values are scaled to 8 bits, and 32-bit ones (TIFF) are clipped as in Pillow. Alpha is dropped. Of an
    animation the first frame is used.

    Raises:
        DataError: not a readable image, float pixels, or more than `MAX_PIXELS`.
    """
    try:
        if isinstance(path, PixelImage):
            return _prepare_decoded(path.open(), exif_orientation=exif_orientation)
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise DataError(f"{path}: not a regular file")  # reading a pipe would block
        with Image.open(path if isinstance(path, Path) else io.BytesIO(path.read_bytes())) as image:
            return _prepare_decoded(image, exif_orientation=exif_orientation)
    except DataError as error:
        raise DataError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not a readable image (unknown format)") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # Pillow's decoders raise many kinds of errors on broken bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable image ({reason})") from error


def _prepare_decoded(image: Image.Image, *, exif_orientation: bool) -> Image.Image:
    if image.format == "EPS":
        raise DataError("not an image but a program (EPS); save it as PNG")  # Pillow would run it
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise DataError(f"{image.size[0]}x{image.size[1]} is more than {MAX_PIXELS:,} pixels")
    image.load()
    return _convert_to_rgb(ImageOps.exif_transpose(image) if exif_orientation else image)


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("pixels are floating-point numbers of unknown range; save the image with 8 or 16 bits")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return image.convert("RGB")


def read_image(path: AnyImage, preprocess: Preprocess) -> ImageHWC:
    """Return the image after all crops and resizes: (H, W, 3) uint8 RGB.

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


def load_image(path: AnyImage, preprocess: Preprocess) -> npt.NDArray[np.float32]:
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
