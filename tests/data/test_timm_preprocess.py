"""timm's evaluation transform, by hand for its kinds, and bit for bit where timm is installed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nestforge.data.preprocess import CenterCrop, Preprocess, Resize, ResizeKeepRatio, load_image
from nestforge.data.timm_preprocess import make_timm_preprocess
from nestforge.errors import DataError, ModelError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def make_config(**changes: Any) -> dict[str, Any]:
    base = {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": 0.95,
        "crop_mode": "center",
    }
    return base | changes


@pytest.mark.parametrize(
    ("changes", "ops"),
    [
        ({}, (Resize(size=235, interpolation="bicubic"), CenterCrop(size=224))),
        (
            {"crop_pct": 0.875, "interpolation": "bilinear"},
            (Resize(size=256, interpolation="bilinear"), CenterCrop(size=224)),
        ),
        ({"crop_pct": None}, (Resize(size=256, interpolation="bicubic"), CenterCrop(size=224))),
        ({"crop_pct": 1.15}, (Resize(size=194, interpolation="bicubic"), CenterCrop(size=224))),
        ({"crop_mode": None, "crop_pct": 1.0}, (Resize(size=224, interpolation="bicubic"), CenterCrop(size=224))),
        ({"crop_mode": "squash"}, (Resize(size=(235, 235), interpolation="bicubic"), CenterCrop(size=224))),
        (
            {"crop_mode": "squash", "crop_pct": 1.0, "input_size": (3, 1024, 768)},
            (Resize(size=(1024, 768), interpolation="bicubic"), CenterCrop(size=(1024, 768))),
        ),
        (
            {"input_size": (3, 96, 72), "crop_pct": 0.9},
            (ResizeKeepRatio(size=(106, 80), fit="cover", interpolation="bicubic"), CenterCrop(size=(96, 72))),
        ),
        (
            {"crop_mode": "border", "mean": (0.5, 0.25, 1.0)},
            (
                ResizeKeepRatio(size=(235, 235), fit="inside", interpolation="bicubic"),
                CenterCrop(size=224, fill=(128, 64, 255)),
            ),
        ),
    ],
)
def test_configurations(changes: dict[str, Any], ops: tuple[Any, ...]) -> None:
    config = make_config(**changes)
    preprocess = make_timm_preprocess(config)
    assert preprocess == Preprocess(ops=ops, mean=config["mean"], std=config["std"])
    assert preprocess.output_hw == config["input_size"][1:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "random"}, "interpolation is 'random', not one fixed filter"),
        ({"crop_mode": "corner"}, "crop mode 'corner' is not known"),
        ({"input_size": (1, 28, 28)}, "images of 1 channels"),
        ({"mean": (0.5,), "std": (0.5,)}, "only models of 3 channels"),
        ({"input_size": (3, 9000, 9000)}, "1 to 8192 are supported"),
    ],
)
def test_what_has_no_fixed_result_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_timm_preprocess(make_config(**changes))


SHAPES = [(1, 1), (31, 32), (255, 257), (500, 375), (333, 500), (64, 64), (7, 101), (640, 100), (97, 400)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bit_for_bit_what_timm_sees(shape: tuple[int, int], mode: str, tmp_path: Path) -> None:
    data = pytest.importorskip("timm.data", exc_type=ImportError)
    pixels = np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "x.png")
    filters = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
    sizes = ((3, 224, 224), (3, 96, 72), (3, 64, 65))
    constants = (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (CLIP_MEAN, CLIP_STD), ((0.5,) * 3, (0.5,) * 3))
    for crop_pct, interpolation, size in itertools.product((0.875, 0.95, 0.8975, 1.0, 1.15), filters, sizes):
        mean, std = constants[len(interpolation) % 3]
        config = make_config(
            input_size=size, interpolation=interpolation, mean=mean, std=std, crop_pct=crop_pct, crop_mode=mode
        )
        try:
            expected = data.create_transform(**config, is_training=False)(image).numpy()
        except ValueError:  # Pillow: an image so thin that nothing of it is left
            with pytest.raises(DataError, match="too thin"):
                load_image(tmp_path / "x.png", make_timm_preprocess(config))
            continue
        assert np.array_equal(load_image(tmp_path / "x.png", make_timm_preprocess(config)), expected), config


@pytest.mark.filterwarnings("ignore")
def test_every_pretrained_configuration_is_understood() -> None:
    timm = pytest.importorskip("timm", exc_type=ImportError)
    from timm.data import resolve_data_config

    names = [name for name in timm.list_models(pretrained=True) if timm.get_pretrained_cfg(name).input_size[0] == 3]
    assert len(names) > 1000
    for name in names:
        config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        assert make_timm_preprocess(config).output_hw == tuple(config["input_size"][1:])
