"""A report on two small artifacts that disagree, with names that try to break out of the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nestforge.builder import build
from nestforge.config import parse_config
from nestforge.pages.report import report
from tests.support.pages import HOSTILE_ARTIFACT, HOSTILE_IMAGE, HOSTILE_LABEL, LAYERS, UNDECODABLE_IMAGE, Written


@pytest.fixture(scope="session")
def written(calibration_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(1)
    dataset = root / "data"
    for index in range(6):
        folder = dataset / f"c{index}"
        folder.mkdir(parents=True)
        for name in ("0.png", {0: HOSTILE_IMAGE, 1: UNDECODABLE_IMAGE}.get(index, "1.png")):
            small = rng.integers(0, 256, (4, 5, 3), np.uint8)
            Image.fromarray(small).resize((90, 70 + index)).save(folder / name)
    labels = root / "labels.txt"
    names = [HOSTILE_LABEL, *(f"class {index}, a longer name of it" for index in range(1, 10))]
    labels.write_text("".join(f"c{index}\t{name}\n" for index, name in enumerate(names)))
    artifacts = [root / "fp32", root / HOSTILE_ARTIFACT]
    for output, dtype, seed in zip(artifacts, ("fp32", "int8"), (0, 1), strict=True):
        config = {
            "model": {"name": "resnest14_slim", "seed": seed},
            "dtype": dtype,
            "calibration": {"data": str(calibration_images), "count": 8},
            "preprocess": {"ops": [{"op": "ecenter_crop", "size": 56}]},
            "labels": str(labels),
            "output": str(output),
        }
        build(parse_config(config, source="test"))
    sensitivity = root / "sensitivity.json"
    sensitivity.write_text(json.dumps(make_sensitivity(artifacts[1])))
    result = report(
        artifacts, output=root / "r.html", dataset=dataset, sensitivity=[sensitivity], seconds=0.1, max_batch=2
    )
    return Written(result, (root / "r.html").read_text(encoding="utf-8"), artifacts, dataset, sensitivity)


def make_sensitivity(artifact: Path) -> dict[str, object]:
    layers = [
        {
            "name": f"stage{index}.<conv>",
            "kind": "Conv",
            "macs": 1000,
            "macs_share": 0.05,
            "time_share": None,
            "alone_sqnr_db": 30.0 + index,
            "alone_flips": index % 3,
            "kept_in_float_sqnr_db": 25.0 - index / 50,
            "kept_in_float_flips": 2,
            "range_low": -1.0,
            "range_high": 2.0,
            "clipped_share": 1e-5,
        }
        for index in range(LAYERS)
    ]
    return {
        "artifact_or_config": str(artifact),
        "images": 8,
        "seconds": 1.0,
        "complete": True,
        "total_sqnr_db": 24.0,
        "total_flips": 3,
        "layers": layers,
    }
