"""A full disk, a read-only one, a process that is killed: one clear line, nothing half-written, and it continues."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import IMAGE2NPZ, NESTFORGE, list_all, run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def write_config(slim_config: dict[str, object], folder: Path, output: Path) -> Path:
    path = folder / "c.yaml"
    path.write_text(json.dumps({**slim_config, "dtype": "fp32", "output": str(output)}))
    return path


def test_full_disk(
    disk: Path, slim_config: dict[str, object], artifacts: dict[str, Path], dataset: Path, tmp_path: Path
) -> None:
    config = write_config(slim_config, tmp_path, disk / "artifact")
    assert "the disk is full while writing" in run(NESTFORGE, "build", config, code=2)
    assert list_all(disk) == []
    (disk / "filler").write_bytes(bytes(400 << 10))

    flags = ("--dataset_path", dataset, "--target_path", disk / "npz", "--text_path", disk / "list.txt")
    assert "the disk is full while writing" in run(IMAGE2NPZ, *flags, code=2)
    assert not (disk / "list.txt").exists()
    assert not list(disk.rglob("*.partial"))
    written = len(list(disk.rglob("*.npz")))
    assert 0 < written < 40
    (disk / "filler").unlink()
    assert "the disk is full" not in run(IMAGE2NPZ, *flags, code=0)
    assert len((disk / "list.txt").read_text().splitlines()) == 40

    with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
        file.write(bytes(1 << 20))
    evaluate = ("evaluate", artifacts["fp32"], dataset, "--json")
    assert "the disk is full" in run(NESTFORGE, *evaluate, disk / "result.json", code=2)
    assert not (disk / "result.json").exists()


def test_the_same_without_a_disk_of_our_own(slim_config: dict[str, object], tmp_path: Path) -> None:
    """A limit on the size of files: the model's does not fit."""
    config = write_config(slim_config, tmp_path, tmp_path / "artifact")

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    stderr = run(NESTFORGE, "build", config, code=2, preexec_fn=limit_files)
    assert "cannot write" in stderr
    assert list_all(tmp_path) == ["c.yaml"]


def test_read_only_output(
    disk: Path, slim_config: dict[str, object], artifacts: dict[str, Path], dataset: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    config = write_config(slim_config, tmp_path, disk / "artifact")
    assert "Read-only file system" in run(NESTFORGE, "build", config, code=2)
    flags = ("--dataset_path", dataset, "--target_path", disk / "npz", "--text_path", disk / "list.txt")
    assert "Read-only file system" in run(IMAGE2NPZ, *flags, code=2)
    evaluate = ("evaluate", artifacts["fp32"], dataset, "--json")
    assert "Read-only file system" in run(NESTFORGE, *evaluate, disk / "result.json", code=2)
    environment = os.environ | {"NESTFORGE_CACHE": str(disk)}
    run(NESTFORGE, *evaluate, tmp_path / "result.json", code=0, env=environment)
    assert json.loads((tmp_path / "result.json").read_text())["images"] == 40


def test_killed_while_it_replaces_an_artifact(slim_config: dict[str, object], tmp_path: Path) -> None:
    """At the worst moment: the old artifact is out of the way, the new one not yet in its place."""
    config = write_config(slim_config, tmp_path, tmp_path / "artifact")
    run(NESTFORGE, "build", config, code=0)
    before = (tmp_path / "artifact" / "manifest.json").read_bytes()
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "rename = Path.rename\n"
        "def die(source, target):\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if source.name.endswith('.partial') else rename(source, target)\n"
        "Path.rename = die\n"
        "from nestforge.cli import main; main()"
    )
    run(program, "build", config, "--overwrite", code=-signal.SIGKILL)
    assert len(list(tmp_path.glob(".artifact.*"))) == 2
    assert "artifact exists" in run(NESTFORGE, "build", config, code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "c.yaml"]
    assert (tmp_path / "artifact" / "manifest.json").read_bytes() == before


def test_what_others_are_writing_stays(slim_config: dict[str, object], tmp_path: Path) -> None:
    config = write_config(slim_config, tmp_path, tmp_path / "artifact")
    names = (f".artifact.{os.getpid()}.abc.partial", ".artifact.notes.partial", ".artifacts.1.a.old")
    for name in names:
        (tmp_path / name).mkdir()
    run(NESTFORGE, "build", config, code=0)
    assert {*names, "artifact", "c.yaml"} == {path.name for path in tmp_path.iterdir()}
