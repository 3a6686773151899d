"""A build whose parity is poor says so: a warning in red, and an error where it is no better than chance."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from nestforge.artifact.artifact import inspect, open_artifact
from nestforge.builder import build
from nestforge.compile.agreement import find_constant_inputs, judge_agreement, measure_parity
from nestforge.compile.images import BuildImages
from nestforge.config import parse_config
from nestforge.data.preprocess import Preprocess, Resize
from nestforge.engines.base import Images, Kernel, Logits, Settings
from nestforge.errors import ModelError
from nestforge.progress import no_progress
from nestforge.tables.builds import show_build
from tests.test_cli import run

Config = dict[str, Any]

GOOD, POOR, USELESS = "good", "poor", "useless"
JUDGED = [  # agreeing, images, classes
    (64, 64, 10, GOOD),
    (62, 64, 10, GOOD),
    (60, 64, 10, GOOD),
    (59, 64, 10, POOR),  # 92%, but as few as that by chance in less than 5% of sound builds
    (58, 64, 10, POOR),
    (29, 30, 1000, GOOD),
    (28, 30, 1000, GOOD),  # 93%, which chance explains
    (26, 30, 1000, POOR),
    (17, 20, 10, POOR),
    (30, 64, 1000, POOR),
    (9, 40, 10, POOR),  # guesses among 10 would agree less often
    (1, 40, 10, USELESS),
    (6, 40, 10, USELESS),
    (0, 64, 1000, USELESS),
    (0, 1, 1000, USELESS),
    (33, 64, 2, USELESS),
    (45, 64, 2, POOR),
    (1, 1, 2, GOOD),  # never where all agree, however few
    (4, 4, 2, GOOD),
    (3, 4, 2, POOR),  # guesses would do as well, but so would a sound build
    (64, 64, 1, GOOD),
]


@pytest.mark.parametrize(("agreeing", "images", "classes", "expected"), JUDGED)
def test_agreement_is_judged(agreeing: int, images: int, classes: int, expected: str) -> None:
    poor = judge_agreement(agreeing, images, classes=classes)
    assert (GOOD if poor is None else USELESS if poor.is_useless else POOR) == expected
    if poor is not None:
        assert f"agree on {agreeing} of {images} images" in poor.text


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_more_agreement_is_never_judged_worse(classes: int) -> None:
    order = [USELESS, POOR, GOOD]
    for images in (1, 2, 5, 8, 20, 64):
        found = [judge_agreement(agreeing, images, classes=classes) for agreeing in range(images + 1)]
        ranks = [order.index(GOOD if p is None else USELESS if p.is_useless else POOR) for p in found]
        assert ranks == sorted(ranks)
        assert (ranks[0], ranks[-1]) == (0, 2)


@dataclass
class Model:
    """A session whose predictions are those given, one after the other."""

    predictions: Callable[[int], int]
    classes: int = 10
    settings: Settings = field(default_factory=lambda: Settings(height=8, width=8))

    def __post_init__(self) -> None:
        self._count = itertools.count()

    def run(self, images_nchw: Images) -> Logits:
        indices = [self.predictions(next(self._count)) for _ in images_nchw]
        return np.eye(self.classes, dtype=np.float32)[indices]

    def run_all(self, images_nchw: Images) -> dict[str, np.ndarray[Any, Any]]:
        return {"logits": self.run(images_nchw)}

    def list_kernels(self) -> list[Kernel]:
        return []


def make_images(root: Path, *, folders: int = 10, std: float = 1.0, blank: bool = False) -> BuildImages:
    """Twenty calibration images."""
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = root / f"{number % folders}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), 100, np.uint8) if blank else rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    preprocess = Preprocess(ops=(Resize(size=(8, 8)),), mean=(0.5, 0.5, 0.5), std=(std, std, std))
    config = {"model": {"name": "resnest50", "seed": 0}, "calibration": {"data": str(root)}, "output": "unused"}
    return BuildImages(parse_config(config, source="test"), preprocess, (8, 8), batch=1)


def find_problems(images: BuildImages, before: Callable[[int], int], after: Callable[[int], int]) -> list[str]:
    return list(measure_parity(Model(before), Model(after), images, no_progress).problems)


def test_nothing_is_said_of_a_good_build(tmp_path: Path) -> None:
    assert find_problems(make_images(tmp_path), lambda index: index % 7, lambda index: index % 7) == []


def test_one_class_for_every_image_is_a_problem(tmp_path: Path) -> None:
    [problem] = find_problems(make_images(tmp_path / "a"), lambda _: 3, lambda _: 3)
    assert "gives class 3 for each of 20 calibration images, of 10 class folders: check mean, std" in problem
    problems = find_problems(make_images(tmp_path / "b"), lambda index: 3 * (index % 5 > 0), lambda _: 3)
    assert any(
        "the built model gives class 3 for each of 20 calibration images, its source does not" in p for p in problems
    )
    assert any(p.startswith("poor parity: ") and "agree on 16 of 20 images (80%)" in p for p in problems)
    assert find_problems(make_images(tmp_path / "c", folders=1), lambda _: 3, lambda _: 3) == []
    images = make_images(tmp_path / "d")  # random weights may give one class, and nothing is wrong
    assert measure_parity(Model(lambda _: 3), Model(lambda _: 3), images, no_progress, trained=False).problems == ()


def test_nearly_constant_inputs_are_a_problem(tmp_path: Path) -> None:
    def judge(images: BuildImages) -> list[str]:
        return find_problems(images, lambda index: index % 7, lambda index: index % 7)

    [problem] = judge(make_images(tmp_path / "blank", blank=True))
    assert "inputs are nearly constant on the calibration images" in problem
    assert "check mean and std, and that the images are not blank" in problem
    assert judge(make_images(tmp_path / "a", std=1 / 255)) == []
    assert judge(make_images(tmp_path / "b", std=2.0)) == []
    assert find_constant_inputs(0.25 / 255, 1 / 255)
    assert find_constant_inputs(0.001, 537.0)
    assert not find_constant_inputs(0.05, 1.0)  # images of little contrast
    assert not find_constant_inputs(60.0, 255.0)


def test_predictions_that_never_agree_are_an_error(tmp_path: Path) -> None:
    images = make_images(tmp_path)
    before, after = Model(lambda index: index % 7), Model(lambda index: index % 7 + 1)
    with pytest.raises(
        ModelError, match=r"agree on 0 of 20 images \(0%\), no more than by chance: .*allow_poor"
    ) as caught:
        measure_parity(before, after, images, no_progress)
    assert "\n" not in str(caught.value)
    parity = measure_parity(before, after, images, no_progress, allow_poor=True)
    assert parity.top1_agreement == 0
    assert "agree on 0 of 20 images" in parity.problems[0]


@pytest.fixture
def useless(slim_config: Config) -> Config:
    """A build whose ranges cut off half of all values."""
    calibration = {**slim_config["calibration"], "count": 40}
    return {**slim_config, "calibration": calibration, "quantize": {"percentile": 51.0}}


def test_a_useless_build_leaves_nothing_unless_it_is_wanted(useless: Config, tmp_path: Path) -> None:
    config = {**useless, "output": str(tmp_path / "a")}
    with pytest.raises(ModelError, match="no more than by chance"):
        build(config)
    assert list(tmp_path.iterdir()) == []
    result = build(config, overrides=["allow_poor_parity=true"])
    assert result.parity.problems
    assert set(result.parity.problems) <= set(result.warnings)
    manifest = inspect(tmp_path / "a")
    assert manifest.parity.problems == result.parity.problems
    assert manifest.config.allow_poor_parity
    open_artifact(tmp_path / "a")
    text = io.StringIO()
    show_build(result, Console(file=text, force_terminal=True, color_system="standard", width=400))
    assert "\x1b[1;31mwarning: poor parity: " in text.getvalue()


def test_the_command(useless: Config, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({**useless, "output": str(tmp_path / "a")}))
    done = run("build", path, "--json", "-", code=2)
    assert done.stdout == ""
    assert "--allow-poor-parity" in done.stderr.splitlines()[-1]
    done = run("build", path, "--allow-poor-parity", "--json", "-")
    assert json.loads(done.stdout)["parity"]["problems"]
    assert "warning: poor parity: " in done.stderr
    assert "warning: poor parity" in " ".join(run("build", path, "--overwrite", "--allow-poor-parity").stdout.split())
