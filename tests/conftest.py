"""Fixtures: a small labelled data set, a seeded network as ONNX, and artifacts built from them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nestforge.builder import build
from nestforge.compile.onnxfile import serialize
from nestforge.config import parse_config
from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
CLASSES = ("bag", "boot", "coat", "dress", "pullover", "sandal", "shirt", "sneaker", "t-shirt", "trouser")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep journals, downloads and compiled models out of the user's cache, also in commands that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NESTFORGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the checkout; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def photos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(shared / "data" / "photos.tar") as tar:
        tar.extractall(folder, filter="data")
    return folder / "photos"


def make_images(root: Path, *, seed: int) -> Path:
    """Ten class folders of four small noisy images each."""
    rng = np.random.default_rng(seed)
    for index, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(4):
            pixels = rng.integers(0, 256, (40 + index, 50, 3), np.uint8)
            pixels[: 4 * index] //= 4
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("dataset"), seed=0)


@pytest.fixture(scope="session")
def calibration_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the artifacts are calibrated on: like `dataset`, but no image of it."""
    return make_images(tmp_path_factory.mktemp("calibration"), seed=1)


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("".join(f"{name}\n" for name in CLASSES))
    return path


@pytest.fixture(scope="session")
def slim_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped variant with seeded weights."""
    variant = get_variant("resnest14_slim")
    path = tmp_path_factory.mktemp("onnx") / "slim.onnx"
    path.write_bytes(serialize(build_graph(variant, make_seeded_weights(variant, 0))))
    return path


@pytest.fixture(scope="session")
def slim_config(calibration_images: Path, labels: Path) -> dict[str, object]:
    """A build file's content without its output."""
    return {
        "model": {"name": "resnest14_slim", "seed": 0},
        "dtype": "int8",
        "calibration": {"data": str(calibration_images), "count": 20},
        "preprocess": {"ops": [{"op": "ecenter_crop", "size": 56}]},
        "labels": str(labels),
    }


@pytest.fixture(scope="session")
def artifacts(slim_config: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """fp32 and int8 artifacts of the seeded network."""
    root = tmp_path_factory.mktemp("artifacts")
    for dtype in ("fp32", "int8"):
        build(parse_config({**slim_config, "dtype": dtype, "output": str(root / dtype)}, source="test"))
    return {dtype: root / dtype for dtype in ("fp32", "int8")}
