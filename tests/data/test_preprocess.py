"""ECenterCrop and normalisation bit for bit; every PIL mode; what cannot be read is a DataError."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from nestforge.data.preprocess import (
    CenterCrop,
    ECenterCrop,
    Interpolation,
    Preprocess,
    Resize,
    ResizeKeepRatio,
    decode_image,
    load_image,
    make_reference_preprocess,
    normalize_images,
    read_image,
)
from nestforge.errors import ConfigError, DataError
from nestforge.schema import parse


def crop_as_the_document(img: Image.Image, imgsize: int) -> np.ndarray:
    """The document's ECenterCrop, word for word; its Resize is Pillow's resize to (size, size), bicubic."""
    image_width, image_height = img.size
    image_short = min(image_width, image_height)
    crop_size = float(imgsize) / (imgsize + 32) * image_short
    crop_height, crop_width = crop_size, crop_size
    crop_top = int(round((image_height - crop_height) / 2.0))  # noqa: RUF046
    crop_left = int(round((image_width - crop_width) / 2.0))  # noqa: RUF046
    img = img.crop((crop_left, crop_top, crop_left + crop_width, crop_top + crop_height))
    return np.asarray(img.resize((imgsize, imgsize), Image.Resampling.BICUBIC))


SIZES = [(1, 1), (1, 2000), (2000, 1), (31, 32), (32, 31), (255, 257), (500, 375), (333, 500), (64, 64), (7, 1001)]


@pytest.mark.parametrize("size", [224, 256, 320, 416, 56])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_ecenter_crop_is_the_documents(shape: tuple[int, int], size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(ECenterCrop(size=size).apply(image)), crop_as_the_document(image, size))


def test_ecenter_crop_on_every_photograph(photos: Path) -> None:
    paths = sorted(photos.rglob("*.jpg"))
    assert len(paths) == 300
    for index, path in enumerate(paths):
        size = (224, 256, 320, 416)[index % 4]
        with Image.open(path) as image:
            expected = crop_as_the_document(image.convert("RGB"), size)
        assert np.array_equal(read_image(path, make_reference_preprocess(size)), expected), path


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_every_kind_of_jpeg_is_the_documents(
    mode: str, sampling: str, progressive: bool, quality: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "x.jpg"
    image = Image.fromarray(rng.integers(0, 256, (41, 29, 3), np.uint8)).resize((131, 97)).convert(mode)
    image.save(path, quality=quality, subsampling=sampling, progressive=progressive)
    with Image.open(path) as image:
        expected = crop_as_the_document(image.convert("RGB"), 56)
    assert np.array_equal(read_image(path, make_reference_preprocess(56)), expected)


def test_load_image_is_read_and_normalize(dataset: Path) -> None:
    preprocess = make_reference_preprocess(32)
    path = next(dataset.rglob("*.png"))
    expected = normalize_images(read_image(path, preprocess)[None], preprocess)[0]
    assert np.array_equal(load_image(path, preprocess), expected)


def test_normalize_equals_torch_bit_for_bit() -> None:
    levels = np.arange(256, dtype=np.uint8)
    images = np.stack([levels, levels[::-1], np.roll(levels, 7)], -1).reshape(1, 16, 16, 3)
    preprocess = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (preprocess.mean, preprocess.std))
    assert np.array_equal(normalize_images(images, preprocess), tensor.sub_(mean).div_(std).numpy())


def test_resize_short_side_and_squash() -> None:
    image = Image.new("RGB", (400, 300))
    assert Resize(size=150).apply(image).size == (200, 150)
    assert Resize(size=(64, 32)).apply(image).size == (32, 64)
    assert Resize(size=100).apply(Image.new("RGB", (300, 301))).size == (100, 100)
    with pytest.raises(DataError, match="too large"):
        Resize(size=8192).apply(Image.new("RGB", (1, 30_000)))


def test_center_crop_pads_what_is_too_small() -> None:
    pixels = np.asarray(CenterCrop(size=4).apply(Image.new("RGB", (2, 6), (9, 9, 9))))
    assert pixels.shape == (4, 4, 3)
    assert pixels[:, 1:3].min() == 9
    assert pixels[:, [0, 3]].max() == 0


@pytest.mark.parametrize(
    ("image_size", "size", "fit", "expected"),
    [
        ((400, 300), (106, 80), "cover", (141, 106)),  # (width, height); 400 / 300 * 106 = 141.3
        ((400, 300), (106, 80), "inside", (80, 60)),
        ((300, 401), (235, 235), "cover", (235, 314)),  # 314.1
        ((300, 401), (235, 235), "inside", (176, 235)),  # 175.8 is rounded up
        ((100, 50), (50, 100), "cover", (100, 50)),
        ((3, 2), (5, 5), "cover", (8, 5)),  # 7.5 is rounded to the even number
    ],
)
def test_resize_keeps_the_ratio(
    image_size: tuple[int, int], size: tuple[int, int], fit: Literal["cover", "inside"], expected: tuple[int, int]
) -> None:
    op = ResizeKeepRatio(size=size, fit=fit, interpolation="bicubic")
    pixels = np.random.default_rng(0).integers(0, 256, (image_size[1], image_size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    found = op.apply(image)
    assert found.size == expected
    assert np.array_equal(np.asarray(found), np.asarray(image.resize(expected, Image.Resampling.BICUBIC)))
    assert op.output_size(None) is None


def test_resize_that_leaves_nothing_or_too_much() -> None:
    for size in ((1, 3000), (3000, 1)):
        with pytest.raises(DataError, match="too thin"):
            ResizeKeepRatio(size=(224, 224), fit="inside").apply(Image.new("RGB", size))
        with pytest.raises(DataError, match="too large"):
            ResizeKeepRatio(size=(2000, 2000), fit="cover").apply(Image.new("RGB", size))


def test_center_crop_of_any_shape_and_colour() -> None:
    pixels = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    image = Image.fromarray(np.stack([pixels] * 3, -1))
    assert np.array_equal(np.asarray(CenterCrop(size=(2, 5)).apply(image))[..., 0], pixels[2:4, 2:7])
    found = np.asarray(CenterCrop(size=(9, 3), fill=(7, 8, 9)).apply(image))
    assert found.shape == (9, 3, 3)
    assert np.array_equal(found[1:7, :, 0], pixels[:, 2:5])
    assert {tuple(row) for row in found[[0, 7, 8]].reshape(-1, 3)} == {(7, 8, 9)}
    assert CenterCrop(size=(9, 3)).output_size(None) == (9, 3)


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_interpolations_are_pillows(name: Interpolation) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    expected = image.resize((17, 13), Image.Resampling[name.upper()])
    assert np.array_equal(np.asarray(Resize(size=(13, 17), interpolation=name).apply(image)), np.asarray(expected))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "RGB", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    grey = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    suffix = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    path = tmp_path / f"x.{suffix}"
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        image = Image.fromarray(grey).convert("RGB")
        (image.quantize(64, dither=Image.Dither.NONE) if mode == "P" else image.convert(mode)).save(path)
    image = decode_image(path)
    assert image.mode == "RGB"
    pixels = np.asarray(image).astype(int)
    if mode in ("L", "LA", "RGBA", "RGB", "P", "I;16"):
        assert np.abs(pixels - grey[..., None]).max() <= (4 if mode == "P" else 0)
    elif mode != "1":
        assert np.abs(pixels - grey[..., None]).max() <= 12


def test_16_bit_pgm_and_float_tiff(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    (tmp_path / "x.pgm").write_bytes(b"P5 16 16 65535\n" + (grey * 257).astype(">u2").tobytes())
    assert np.array_equal(np.asarray(decode_image(tmp_path / "x.pgm"))[..., 0], grey)
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match=r"x\.tiff: pixels are floating-point"):
        decode_image(tmp_path / "x.tiff")


def test_exif_orientation_only_if_asked(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (40, 20)).save(tmp_path / "x.jpg", exif=exif)
    assert decode_image(tmp_path / "x.jpg").size == (40, 20)
    assert decode_image(tmp_path / "x.jpg", exif_orientation=True).size == (20, 40)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 not a jpeg", b"plain text", b"\x89PNG\r\n\x1a\n"])
def test_broken_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable image"):
        decode_image(path)


def test_truncated_and_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError):
        decode_image(path)
    with pytest.raises(DataError):
        decode_image(tmp_path / "none.png")


def test_hash_depends_on_everything_and_nothing_else() -> None:
    base = make_reference_preprocess(224)
    assert base.sha256 == Preprocess(ops=(ECenterCrop(size=224, interpolation="bicubic"),)).sha256
    others = [
        make_reference_preprocess(256),
        base.model_copy(update={"mean": (0.5, 0.5, 0.5)}),
        base.model_copy(update={"exif_orientation": True}),
        Preprocess(ops=(ECenterCrop(size=224, interpolation="bilinear"),)),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 5


def test_descriptions_keep_their_hash() -> None:
    """Artifacts of earlier versions hold these."""
    assert make_reference_preprocess(224).sha256[:16] == "a110744507be63a2"
    assert Preprocess(ops=(Resize(size=256), CenterCrop(size=224))).sha256[:16] == "57173da6b30cd7c9"
    assert Preprocess(ops=(Resize(size=256), CenterCrop(size=224, fill=(0, 0, 1)))).sha256[:16] != "57173da6b30cd7c9"


def test_description_for_people() -> None:
    ops = (ResizeKeepRatio(size=(235, 235), fit="inside"), CenterCrop(size=(224, 200), fill=(1, 2, 3)))
    text = Preprocess(ops=ops).describe()
    assert "resize (235, 235) inside bilinear -> centre crop (224, 200) on (1, 2, 3) -> mean" in text


def test_bad_descriptions() -> None:
    wrong = ({"std": [0, 1, 1]}, {"std": [float("nan"), 1, 1]}, {"mean": ["0.5", 0, 0]}, {"exif_orientation": "yes"}, 5)
    for data in (
        *wrong,
        {"ops": [{"op": "rotate"}]},
        {"ops": [{"op": "center_crop", "size": 8, "fill": [0, 0, 256]}]},
        {"ops": [{"op": "resize", "size": 0}]},
        {"ops": object()},
    ):
        with pytest.raises(ConfigError, match="bad preprocessing"):
            parse(Preprocess, data, source="bad preprocessing")


def read_scale(mean: list[float], std: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    preprocess = parse(Preprocess, {"mean": mean, "std": std}, source="bad preprocessing")
    return preprocess.mean, preprocess.std


LEGITIMATE = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "zero_to_one": ([0, 0, 0], [1, 1, 1]),
    "minus_one_to_one": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "half_around_zero": ([0.5, 0.5, 0.5], [1.0, 1.0, 1.0]),
    "zero_to_255": ([0, 0, 0], [1 / 255, 1 / 255, 1 / 255]),
    "zero_to_255_rounded": ([0, 0, 0], [0.0039, 0.0039, 0.0039]),
    "caffe": ([103.939 / 255, 116.779 / 255, 123.68 / 255], [1 / 255, 1 / 255, 1 / 255]),
    "caffe_scaled": ([103.939 / 255, 116.779 / 255, 123.68 / 255], [1 / 255 / 0.017] * 3),
    "lite": ([127 / 255] * 3, [128 / 255] * 3),
    "mnist": ([0.1307] * 3, [0.3081] * 3),
    "inverted": ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5]),
    "bgr_order": ([0.406, 0.456, 0.485], [0.225, 0.224, 0.229]),
    "one_black_channel": ([0.0, 0.456, 0.406], [1.0, 0.224, 0.225]),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_scales_that_models_have_are_taken_as_they_are(name: str) -> None:
    mean, std = LEGITIMATE[name]
    assert read_scale(mean, std) == (tuple(mean), tuple(std))


WRONG = {
    "pixels": (
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        r"write mean \[0\.485, 0\.456, 0\.406\] and std \[0\.229, 0\.224, 0\.225\]",
    ),
    "integers": (([127, 127, 127], [128, 128, 128]), r"write mean \[0\.498039, .* and std \[0\.501961, "),
    "caffe": (([123.68, 116.779, 103.939], [1, 1, 1]), r"write mean \[0\.48502, .* and std \[0\.00392157, "),
    "mean_alone": (([123.675, 116.28, 103.53], [0.229, 0.224, 0.225]), r"and std \[0\.229, 0\.224, 0\.225\]"),
    "std_alone": (([0.485, 0.456, 0.406], [58.395, 57.12, 57.375]), r"write mean \[0\.485, .* and std \[0\.229, "),
    "only_divided": (([0, 0, 0], [255, 255, 255]), r"write mean \[0, 0, 0\] and std \[1, 1, 1\]"),
    "one_channel": (([0.485, 0.456, 103.53], [0.229, 0.224, 0.225]), "of pixels from 0 to 255"),
    "16_bits": (([32768, 32768, 32768], [0.5, 0.5, 0.5]), "not within 0 to 1"),
    "negative": (([-0.485, -0.456, -0.406], [0.229, 0.224, 0.225]), "is negative, but it is subtracted"),
    "negative_std": (([0.5, 0.5, 0.5], [-0.5, 0.5, 0.5]), "std must be above 0"),
    "divided_twice": (
        ([0.485 / 255, 0.456 / 255, 0.406 / 255], [0.229 / 255, 0.224 / 255, 0.225 / 255]),
        r"divided by 255 already: write std \[0\.229, 0\.224, 0\.225\]",
    ),
    "swapped": (([0.229, 0.224, 0.225], [0.485, 0.456, 0.406]), "are swapped"),
    "swapped_clip": (([0.26862954, 0.26130258, 0.27577711], [0.48145466, 0.4578275, 0.40821073]), "are swapped"),
    "swapped_cifar": (([0.2470, 0.2435, 0.2616], [0.4914, 0.4822, 0.4465]), "are swapped"),
}


@pytest.mark.parametrize("name", WRONG)
def test_scales_that_cannot_be_right_are_refused_with_what_was_meant(name: str) -> None:
    (mean, std), message = WRONG[name]
    with pytest.raises(ConfigError, match=message) as caught:
        read_scale(mean, std)
    assert "\n" not in str(caught.value)
    assert "errors.pydantic.dev" not in str(caught.value)
