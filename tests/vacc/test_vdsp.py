"""vdsp_params: every OpType, NormaType, colour code and resize type against plain formulas; any JSON is handled."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nestforge.data.preprocess import CenterCrop, Preprocess, Resize, normalize_images
from nestforge.errors import ConfigError, DataError, NestForgeError
from nestforge.vacc.vdsp import CROP, NO_CROP, check_output_size, parse_vdsp, read_vdsp

DEPLOY = Path(__file__).parents[2] / "deploy"
SHIPPED = sorted((DEPLOY / "resnest/vacc_code/vdsp_params").glob("*.json"))
MEAN, STD = [0.485107421875, 0.4560546875, 0.406005859375], [0.22900390625, 0.2239990234375, 0.2249755859375]
PUBLISHED = {"resnest50": (328, 52, 224), "resnest101": (333, 38, 256), "resnest200": (341, 10, 320)} | {
    "resnest269": (475, 29, 416)
}


def make_data(resize: int = 40, crop: int = 3, size: int = 32, **changes: Any) -> dict[str, Any]:
    config = {
        "IimageFormat": "RGB_PLANAR",
        "IimageWidth": 50,
        "IimageHeight": 45,
        "IimageWidthPitch": 50,
        "IimageHeightPitch": 45,
        "OimageWidth": size,
        "OimageHeight": size,
        "CropX": crop,
        "CropY": crop,
        "ResizeWidth": resize,
        "ResizeHeight": resize,
        "Mean": MEAN,
        "Std": STD,
        "NormaType": "DIV255_MINUSMEAN_DIVSTD",
        "ColorCvtCode": "NO_CHANGE",
        "ResizeType": "BILINEAR_CV",
    }
    return {"OpType": CROP, "OpConfig": config | changes}


IMAGE = np.random.default_rng(0).integers(0, 256, (3, 45, 50), np.uint8)


@pytest.mark.parametrize("norma", ["DIV255_MINUSMEAN_DIVSTD", "MINUSMEAN_DIVSTD", "DIV255", "EQUAL"])
@pytest.mark.parametrize("code", ["NO_CHANGE", "RGB2BGR", "BGR2RGB"])
@pytest.mark.parametrize("resize_type", ["BILINEAR_CV", "BILINEAR_PILLOW"])
@pytest.mark.parametrize("op_type", [CROP, NO_CROP])
def test_every_value_against_plain_formulas(norma: str, code: str, resize_type: str, op_type: str) -> None:
    resize, left, top = (40, 3, 5) if op_type == CROP else (32, 0, 0)
    data = make_data(resize, NormaType=norma, ColorCvtCode=code, ResizeType=resize_type, CropX=left, CropY=top)
    found = parse_vdsp(data | {"OpType": op_type}, source="test").apply(IMAGE)
    hwc = np.ascontiguousarray(IMAGE.transpose(1, 2, 0))
    if resize_type == "BILINEAR_CV":
        resized = cv2.resize(hwc, (resize, resize), interpolation=cv2.INTER_LINEAR)
    else:
        resized = np.asarray(Image.fromarray(hwc).resize((resize, resize), Image.Resampling.BILINEAR))
    if code != "NO_CHANGE":
        resized = resized[..., ::-1]
    x = resized[top : top + 32, left : left + 32].astype(np.float64)
    if norma.startswith("DIV255"):
        x /= 255
    if norma.endswith("MINUSMEAN_DIVSTD"):
        x = (x - MEAN) / STD
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x.transpose(2, 0, 1), rtol=2e-6, atol=2e-6)


def test_equals_the_projects_preprocessing_bit_for_bit() -> None:
    data = make_data(40, 4, 32, Mean=[0.485, 0.456, 0.406], Std=[0.229, 0.224, 0.225], ResizeType="BILINEAR_PILLOW")
    preprocess = Preprocess(ops=(Resize(size=(40, 40)), CenterCrop(size=32)))
    image = Image.fromarray(np.ascontiguousarray(IMAGE.transpose(1, 2, 0)))
    for op in preprocess.ops:
        image = op.apply(image)
    assert np.array_equal(
        parse_vdsp(data, source="test").apply(IMAGE), normalize_images(np.asarray(image)[None], preprocess)[0]
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_keep_the_field_of_view_of_ecenter_crop(path: Path) -> None:
    vdsp = read_vdsp(path)
    height, width = vdsp.output_hw
    assert vdsp.resize_hw == (height + 32, width + 32)
    assert (vdsp.OpConfig.CropX, vdsp.OpConfig.CropY) == (16, 16)


def test_shipped_files_are_those_of_the_four_models() -> None:
    assert [path.name for path in SHIPPED] == [f"official-resnest{n}-vdsp_params.json" for n in (101, 200, 269, 50)]


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_values_are_accepted(model: str) -> None:
    resize, crop, size = PUBLISHED[model]
    assert parse_vdsp(make_data(resize, crop, size), source="test").apply(IMAGE).shape == (3, size, size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CropX": 20}, "does not fit into the resized 40x40"),
        ({"OimageWidth": 41}, "does not fit"),
        ({"Std": [0.2, 0.0, 0.2]}, "Std must be"),
        ({"ResizeType": "NEAREST"}, "ResizeType"),
        ({"IimageFormat": "YUV_NV12"}, "IimageFormat"),
        ({"OimageWidht": 3}, "did you mean 'OimageWidth'"),
        ({"IimageWidthPitch": 1}, "IimageWidthPitch 1 is below"),
        ({"Mean": [1.0, 2.0]}, "Mean"),
        ({"CropX": "3"}, "CropX"),
    ],
)
def test_wrong_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_vdsp(make_data(**changes), source="a.json")
    assert "\n" not in str(caught.value)
    assert "a.json" in str(caught.value)


def test_no_crop_refuses_a_crop() -> None:
    with pytest.raises(ConfigError, match="does not crop"):
        parse_vdsp(make_data() | {"OpType": NO_CROP}, source="test")


def test_geometry_of_another_artifact_prints_both() -> None:
    with pytest.raises(ConfigError, match=r"32x32.*256x224"):
        check_output_size(parse_vdsp(make_data(), source="t"), height=224, width=256, artifact=Path("a"))


def test_not_an_image() -> None:
    with pytest.raises(DataError, match="uint8"):
        parse_vdsp(make_data(), source="t").apply(IMAGE[:2])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(make_data()["OpConfig"])), JSON)
def test_any_value_gives_a_result_or_our_error(key: str, value: Any) -> None:
    data = copy.deepcopy(make_data())
    data["OpConfig"][key] = value
    try:
        vdsp = parse_vdsp(data, source="test")
    except NestForgeError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert np.isfinite(vdsp.apply(IMAGE[:, :4, :4])).all() or max(vdsp.output_hw) > 64


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode())))
def test_any_file_gives_our_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.raises(NestForgeError):
        read_vdsp(path)


def test_deeply_nested_and_missing(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("deep.json", "none.json"):
        with pytest.raises(ConfigError):
            read_vdsp(tmp_path / name)
