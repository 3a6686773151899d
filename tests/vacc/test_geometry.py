"""What a deployment sees against what the model was published with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nestforge.artifact.artifact import open_artifact
from nestforge.artifact.manifest import Manifest
from nestforge.data.preprocess import (
    CenterCrop,
    ECenterCrop,
    Preprocess,
    Resize,
    ResizeKeepRatio,
    make_reference_preprocess,
)
from nestforge.vacc.geometry import check_preprocess, check_vdsp, describe_preprocess, describe_vdsp
from nestforge.vacc.vdsp import parse_vdsp, read_vdsp

SHIPPED = Path(__file__).parents[2] / "deploy/resnest/vacc_code/vdsp_params/official-resnest50-vdsp_params.json"


def make_published(**changes: object) -> dict[str, object]:
    """The vendor's published values for resnest50."""
    config = {
        "OimageWidth": 224,
        "OimageHeight": 224,
        "CropX": 52,
        "CropY": 52,
        "ResizeWidth": 328,
        "ResizeHeight": 328,
        "Mean": [0.485107421875, 0.4560546875, 0.406005859375],
        "Std": [0.22900390625, 0.2239990234375, 0.2249755859375],
        "NormaType": "DIV255_MINUSMEAN_DIVSTD",
        "ColorCvtCode": "NO_CHANGE",
        "ResizeType": "BILINEAR_CV",
    }
    return {"OpType": "FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR", "OpConfig": config | changes}


@pytest.fixture
def manifest(ten_artifact: Path) -> Manifest:
    """A manifest that says it is the authors' resnest50 at 224."""
    manifest = open_artifact(ten_artifact).manifest
    model = manifest.config.model.model_copy(update={"name": "resnest50"})
    config = manifest.config.model_copy(update={"model": model})
    return manifest.model_copy(update={"config": config, "height": 224, "width": 224})


def list_subjects(lines: tuple[str, ...]) -> list[str]:
    assert all("\n" not in line for line in lines)
    return [line.split(":")[0] for line in lines]


def test_the_vendors_published_values_are_called_out(manifest: Manifest) -> None:
    lines = check_vdsp(manifest, parse_vdsp(make_published(), source="t"))
    assert list_subjects(lines) == ["field of view", "aspect ratio", "interpolation"]
    assert "68.3% of the short side, the published preprocessing 87.5%" in lines[0]
    assert "bicubic" in lines[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"NormaType": "MINUSMEAN_DIVSTD"}, "maps 0..255"),
        ({"NormaType": "DIV255"}, "maps 0..255"),
        ({"NormaType": "EQUAL"}, "maps 0..255"),
        ({"ColorCvtCode": "RGB2BGR"}, "BGR channels"),
        ({"CropX": 0}, "52 pixels off centre"),
    ],
)
def test_each_difference_has_its_line(manifest: Manifest, changes: dict[str, object], words: str) -> None:
    lines = check_vdsp(manifest, parse_vdsp(make_published(**changes), source="t"))
    assert len(lines) == 4
    assert any(words in line for line in lines)


def test_the_shipped_file_keeps_the_field_of_view(manifest: Manifest) -> None:
    manifest = manifest.model_copy(update={"height": 256, "width": 256})
    assert list_subjects(check_vdsp(manifest, read_vdsp(SHIPPED))) == ["aspect ratio", "interpolation"]


def test_a_model_nobody_published_is_compared_with_its_artifact(ten_artifact: Path, tmp_path: Path) -> None:
    manifest = open_artifact(ten_artifact).manifest
    config = {"OimageWidth": 64, "OimageHeight": 64, "CropX": 4, "CropY": 4, "ResizeWidth": 72, "ResizeHeight": 72}
    same = make_published(**config, ResizeType="BILINEAR_PILLOW")
    assert check_vdsp(manifest, parse_vdsp(same, source="t")) == ()
    assert check_preprocess(manifest, ten_artifact) == ()
    other = make_published(**config)
    assert list_subjects(check_vdsp(manifest, parse_vdsp(other, source="t"))) == ["interpolation"]


@pytest.mark.parametrize("size", [224, 256, 320, 416])
def test_ecenter_crop_equals_resize_and_crop_of_the_same_view(size: int) -> None:
    published = describe_preprocess(make_reference_preprocess(size))
    same = describe_preprocess(Preprocess(ops=(Resize(size=size + 32, interpolation="bicubic"), CenterCrop(size=size))))
    assert published.short_side == pytest.approx(size / (size + 32))
    assert (same.short_side, same.stretch) == pytest.approx((published.short_side, 1.0))
    squashed = describe_preprocess(Preprocess(ops=(Resize(size=(size, size)), ECenterCrop(size=size))))
    assert squashed.stretch == pytest.approx(0.75)


def test_resize_that_keeps_the_ratio() -> None:
    cover, inside = (
        describe_preprocess(Preprocess(ops=(ResizeKeepRatio(size=(250, 250), fit=fit), CenterCrop(size=(200, 200)))))
        for fit in ("cover", "inside")
    )
    same = describe_preprocess(Preprocess(ops=(Resize(size=250), CenterCrop(size=200))))
    assert (cover.short_side, cover.stretch) == pytest.approx((0.8, 1))
    assert (same.short_side, same.stretch) == pytest.approx((0.8, 1))
    assert (inside.short_side, inside.stretch) == pytest.approx((1, 1))


def test_vdsp_and_preprocess_describe_the_same_alike() -> None:
    a = describe_vdsp(parse_vdsp(make_published(ResizeType="BILINEAR_PILLOW"), source="t"))
    b = describe_preprocess(Preprocess(ops=(Resize(size=(328, 328)), CenterCrop(size=224))))
    assert (a.short_side, a.stretch) == pytest.approx((b.short_side, b.stretch))
    assert (a.interpolation, a.order) == (b.interpolation, b.order)
    assert abs(a.levels - b.levels).max() < 0.001


def test_inspect_prints_the_warnings(ten_artifact: Path, tmp_path: Path) -> None:
    config = {"OimageWidth": 64, "OimageHeight": 64, "CropX": 0, "CropY": 0, "ResizeWidth": 64, "ResizeHeight": 64}
    (tmp_path / "v.json").write_text(json.dumps(make_published(**config)))
    code = "import sys; from nestforge.cli import main; sys.argv[0] = 'nestforge'; main()"
    command = [sys.executable, "-c", code, "inspect", str(ten_artifact), "--vdsp_params", str(tmp_path / "v.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("warning: ") == 2
    assert "field of view" in done.stderr
