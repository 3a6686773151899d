"""The small data set as other sources hold it: tar shards, Parquet, a file system that is not this machine's."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CLASSES


def list_files(dataset: Path) -> list[tuple[int, Path]]:
    return [(index, path) for index, name in enumerate(CLASSES) for path in sorted((dataset / name).iterdir())]


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="session")
def damaged(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set with two images that cannot be read."""
    import shutil

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


def find_processes(mark: str) -> list[str]:
    """Return the command lines of processes that inherited `mark`."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return [line for line in found if line]
