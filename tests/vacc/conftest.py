"""Fixtures: images of ImageNet classes as the vendor's tools see them, and an artifact that takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nestforge.builder import build
from nestforge.config import parse_config
from nestforge.data.labels import read_imagenet_labels

SIZE = 64
WNIDS = [str(label.wnid) for label in read_imagenet_labels()[:10]]


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten wnid folders of three images each, of different sizes and suffixes."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(1)
    for index, wnid in enumerate(WNIDS):
        (root / wnid).mkdir()
        for number, suffix in enumerate((".JPEG", ".jpg", ".png")):
            coarse = Image.fromarray(rng.integers(0, 256, (3 + index, 4, 3), np.uint8))
            coarse.resize((80 + 5 * index, 70 + number)).save(root / wnid / f"{number}{suffix}")
    return root


@pytest.fixture(scope="session")
def ten_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "ten.txt"
    path.write_text("".join(f"{label.wnid}\t{label.name}\n" for label in read_imagenet_labels()[:10]))
    return path


@pytest.fixture(scope="session")
def ten_artifact(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slim network, seeded, int8, for 64 x 64 pixels."""
    output = tmp_path_factory.mktemp("artifact") / "slim"
    config = {
        "model": {"name": "resnest14_slim", "seed": 0},
        "calibration": {"data": str(labelled), "count": 12, "suffix": "jpg"},
        "preprocess": {"ops": [{"op": "resize", "size": [72, 72]}, {"op": "center_crop", "size": SIZE}]},
        "output": str(output),
    }
    build(parse_config(config, source="test"))
    return output
