"""Accuracy is not measured on calibration images, unless overridden."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from nestforge.artifact import overlap
from nestforge.artifact.artifact import open_artifact
from nestforge.builder import build
from nestforge.config import parse_config
from nestforge.errors import DataError
from nestforge.measure.evaluate import evaluate
from nestforge.networks.checkpoint import hash_file


@pytest.fixture
def mixed(dataset: Path, calibration_images: Path, artifacts: dict[str, Path], tmp_path: Path) -> Path:
    """The data set and one calibration image under another name."""
    folder = tmp_path / "mixed"
    shutil.copytree(dataset, folder)
    recorded = {record.sha256 for record in open_artifact(artifacts["int8"]).manifest.inputs.values()}
    path = next(p for p in sorted(calibration_images.rglob("*.png")) if hash_file(p) in recorded)
    shutil.copy(path, folder / "boot" / "renamed.png")
    return folder


def test_evaluation_refuses_calibration_images(artifacts: dict[str, Path], mixed: Path) -> None:
    with pytest.raises(DataError, match=r"1 of these 41 images .*renamed\.png.*--allow-overlap"):
        evaluate(artifacts["int8"], mixed)
    with pytest.raises(DataError, match="--allow-overlap"):
        evaluate(artifacts["fp32"], mixed, vs=artifacts["int8"])
    assert evaluate(artifacts["int8"], mixed, allow_overlap=True).images == 41
    assert evaluate(artifacts["fp32"], mixed).images == 41  # float32 learnt nothing from them


def test_build_refuses_evaluation_images(slim_config: dict[str, Any], mixed: Path, tmp_path: Path) -> None:
    def attempt(**changes: Any) -> None:
        calibration = {**slim_config["calibration"], "evaluation": str(mixed), **changes}
        build(parse_config({**slim_config, "calibration": calibration, "output": str(tmp_path / "a")}, source="test"))

    with pytest.raises(DataError, match=r"calibration\.allow_overlap: true"):
        attempt()
    assert not (tmp_path / "a").exists()
    attempt(allow_overlap=True)


def test_only_files_of_the_same_size_are_read(
    artifacts: dict[str, Path], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "hash_file", lambda path: pytest.fail(f"{path} was read"))
    path = tmp_path / "large.png"
    path.write_bytes(bytes(123_457))
    assert overlap.find_overlap(open_artifact(artifacts["int8"]).manifest.inputs, [path, tmp_path / "none"]) == []
