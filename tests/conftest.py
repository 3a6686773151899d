"""Fixtures: a small labelled data set, a seeded network as ONNX, and artifacts built from them."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestforge.builder import build
from nestforge.compile.onnxfile import serialize
from nestforge.config import parse_config
from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from tests.support.data import CLASSES, SHARED, list_files, make_images, write_tar


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


@pytest.fixture(scope="session")
def damaged(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set with two images that cannot be read."""
    copy = tmp_path_factory.mktemp("damaged") / "data"
    shutil.copytree(dataset, copy)
    (copy / "coat" / "1.png").write_bytes(b"gone")
    (copy / "bag" / "9.png").write_bytes(b"")
    return copy


@pytest.fixture(scope="session")
def shards(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tar shards: classes as an index, as a name, and as a folder."""
    root = tmp_path_factory.mktemp("shards")
    files: list[dict[str, bytes]] = [{}, {}, {}]
    for number, (index, path) in enumerate(list_files(damaged)):
        shard = number % 3
        key = f"{path.parent.name}/{path.stem}" if shard == 2 else f"{number:05d}"
        files[shard][f"{key}.png"] = path.read_bytes()
        if shard < 2:
            files[shard][f"{key}.cls"] = (str(index) if shard == 0 else CLASSES[index]).encode()
            files[shard][f"{key}.json"] = b"{}"
    for shard, content in enumerate(files):
        write_tar(root / f"part-{shard}.tar", content)
    return root


@pytest.fixture(scope="session")
def parquet(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Parquet files of several row groups: bytes and a name, a struct and an index."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("parquet")
    rows = list_files(damaged)
    first = {"jpg": [path.read_bytes() for _, path in rows[:20]], "label": [CLASSES[index] for index, _ in rows[:20]]}
    second = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for _, path in rows[20:]],
        "label": [index for index, _ in rows[20:]],
    }
    pq.write_table(pa.table(first), root / "a.parquet", row_group_size=7)
    pq.write_table(pa.table(second), root / "b.parquet", row_group_size=7)
    return root


@pytest.fixture
def memory_url(damaged: Path) -> Iterator[str]:
    """The damaged data set on fsspec's in-memory file system."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for path in damaged.rglob("*.png"):
        system.pipe(f"/data/{path.parent.name}/{path.name}", path.read_bytes())
    yield "memory://data"
    system.rm("/data", recursive=True)
