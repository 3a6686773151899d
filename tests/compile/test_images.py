"""The datasets of a build are compared with its labels before anything is measured; calibration takes lists too."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from nestforge.artifact.artifact import inspect, open_artifact
from nestforge.builder import build
from nestforge.compile import plan
from nestforge.config import parse_config
from nestforge.errors import ConfigError, DataError
from nestforge.measure.evaluate import evaluate
from tests.support.data import CLASSES
from tests.support.images import write_images

Config = dict[str, Any]


def attempt(config: Config, output: Path, **changes: Any) -> None:
    build(parse_config({**config, "output": str(output), **changes}, source="test"))


@pytest.fixture
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("calibrated before the datasets were looked at")

    monkeypatch.setattr(plan, "plan_quantization", fail)
    monkeypatch.setattr(plan, "apply_passes", fail)


@pytest.fixture
def renamed(dataset: Path, tmp_path: Path) -> Path:
    """The data set with one class folder called otherwise."""
    copy = tmp_path / "renamed"
    shutil.copytree(dataset, copy)
    (copy / "bag").rename(copy / "handbag")
    return copy


@pytest.mark.usefixtures("nothing_is_measured")
def test_an_evaluation_set_of_other_classes_is_refused_first(
    slim_config: Config, renamed: Path, tmp_path: Path
) -> None:
    calibration = {**slim_config["calibration"], "evaluation": str(renamed)}
    for labels in (slim_config["labels"], None):
        with pytest.raises(DataError, match=r"class folders in .*renamed match no label"):
            attempt(slim_config, tmp_path / "a", calibration=calibration, labels=labels)
    assert [path.name for path in tmp_path.iterdir()] == ["renamed"]


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_validation_set_of_other_classes_is_refused_first(slim_config: Config, renamed: Path, tmp_path: Path) -> None:
    quantize = {"max_drop": 5.0, "validation": {"data": str(renamed)}}
    with pytest.raises(DataError, match=r"'handbag' is not one of the labels; did you mean .*'bag'"):
        attempt(slim_config, tmp_path / "a", quantize=quantize)
    with pytest.raises(ConfigError, match=r"'quantize\.max_drop' needs 'labels'"):
        attempt(slim_config, tmp_path / "a", quantize=quantize, labels=None)


def test_calibration_images_of_other_classes_are_a_warning(slim_config: Config, renamed: Path, tmp_path: Path) -> None:
    calibration = {"data": str(renamed), "count": 10}
    with pytest.warns(UserWarning, match=r"of another dataset\? 1 of 10 class folders .* match no label: .*'handbag'"):
        attempt(slim_config, tmp_path / "a", calibration=calibration, dtype="fp32")
    flat = write_images(tmp_path / "flat", *(f"{number}.png" for number in range(4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attempt(slim_config, tmp_path / "b", calibration={"data": str(flat)}, dtype="fp32")


def test_calibrating_on_every_split_is_a_warning(slim_config: Config, dataset: Path, tmp_path: Path) -> None:
    for name in ("train", "val"):
        shutil.copytree(dataset, tmp_path / "data" / name)
    with pytest.warns(UserWarning, match=r"holds train, val, and images of each .*; give .*data/train"):
        attempt(slim_config, tmp_path / "a", calibration={"data": str(tmp_path / "data"), "count": 10}, dtype="fp32")


def test_lists_where_a_build_takes_folders(
    slim_config: Config, calibration_images: Path, dataset: Path, tmp_path: Path
) -> None:
    def write_list(name: str, folder: Path, count: int) -> Path:
        rows = [f"{path},{CLASSES.index(path.parent.name)}" for path in sorted(folder.rglob("*.png"))[:count]]
        path = tmp_path / name
        path.write_text("path,label\n" + "".join(f"{row}\n" for row in rows))
        return path

    calibration = write_list("calibration.csv", calibration_images, 40)
    evaluation = write_list("evaluation.csv", dataset, 40)
    section = {"data": str(calibration), "count": 20, "evaluation": str(evaluation)}
    attempt(slim_config, tmp_path / "a", calibration=section)
    manifest = inspect(tmp_path / "a")
    images = [name for name in manifest.inputs if name.startswith(f"{calibration}:")]
    assert len(images) == 20
    assert sorted({Path(name).parent.name for name in images}) == sorted(CLASSES)
    assert evaluate(tmp_path / "a", evaluation).top1 == evaluate(tmp_path / "a", dataset).top1
    with pytest.raises(DataError, match="also calibration images"):
        evaluate(tmp_path / "a", calibration)
    evaluation.write_text(calibration.read_text())
    with pytest.raises(DataError, match="also calibration images"):
        attempt(slim_config, tmp_path / "b", calibration=section)


def test_labels_of_every_format_reach_the_artifact(slim_config: Config, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({str(index): name for index, name in enumerate(CLASSES)}))
    attempt(slim_config, tmp_path / "a", labels=str(path), dtype="fp32")
    assert [label.name for label in open_artifact(tmp_path / "a").labels] == list(CLASSES)
    path.write_text(json.dumps([f"{index}: {name}" for index, name in enumerate(CLASSES)]))
    attempt(slim_config, tmp_path / "b", labels=str(path), dtype="fp32", calibration=None)
    assert open_artifact(tmp_path / "b").labels[3].name == f"3: {CLASSES[3]}"


def test_labels_that_are_odd(slim_config: Config, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    config = {**slim_config, "calibration": None, "dtype": "fp32", "labels": str(path)}
    path.write_text("\n".join(["background", *CLASSES]))
    with pytest.raises(DataError, match="has 11 names but the model has 10 classes; leave out 'background'"):
        attempt(config, tmp_path / "a")
    path.write_text("\n".join(CLASSES[:9]))
    with pytest.raises(DataError, match=r"has 9 names but the model has 10 classes$"):
        attempt(config, tmp_path / "a")
    path.write_text("\n".join([*CLASSES[:9], "bag"]))
    with pytest.warns(UserWarning, match="1 names mean more than one class, such as 'bag'"):
        attempt(config, tmp_path / "a")


def test_imagenet_in_another_order_is_a_warning(tmp_path: Path) -> None:
    from nestforge.compile.labels import read_build_labels
    from nestforge.data.labels import format_label, read_imagenet_labels

    labels = read_imagenet_labels()
    path = tmp_path / "labels.txt"
    config = parse_config(
        {"model": {"name": "resnest50", "seed": 0}, "dtype": "fp32", "labels": str(path), "output": "unused"},
        source="test",
    )
    path.write_text("\n".join(map(format_label, labels)))
    assert read_build_labels(config, 1000) == labels
    path.write_text("\n".join(map(format_label, reversed(labels))))
    with pytest.warns(UserWarning, match="ImageNet's classes in an order of their own"):
        assert len(read_build_labels(config, 1000)) == 1000
