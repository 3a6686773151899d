"""valprep.sh under plain sh: every mode, resuming, conflicts, and the table it reads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nestforge.data.labels import read_imagenet_labels

FOLDER = Path(__file__).parents[2] / "deploy/resnest/data_prep_sh_files"
ROWS = [line.split() for line in (FOLDER / "ilsvrc2012_val.txt").read_text().splitlines()]
NUMBERS = {number: wnid for wnid, *numbers in ROWS[:4] for number in numbers[:3]}


def name(number: str) -> str:
    return f"ILSVRC2012_val_000{number}.JPEG"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(FOLDER / "valprep.sh"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def list_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder" / "val"
    folder.mkdir(parents=True)
    for number in NUMBERS:
        (folder / name(number)).write_text(number)
    return folder


SORTED = sorted(f"{wnid}/{name(number)}" for number, wnid in NUMBERS.items())


def test_table_has_every_file_once() -> None:
    assert [row[0] for row in ROWS] == [label.wnid for label in read_imagenet_labels()]
    assert all(len(row) == 51 for row in ROWS)
    assert sorted(number for row in ROWS for number in row[1:]) == [f"{n:05d}" for n in range(1, 50_001)]
    assert NUMBERS["00293"] == "n01440764"


def test_moves_and_is_idempotent(flat: Path) -> None:
    first = run(str(flat), cwd=flat.parent)
    assert (first.returncode, list_files(flat)) == (0, SORTED)
    assert "12 files placed (move)" in first.stdout
    assert "49988 of 50000 files are missing" in first.stdout
    again = run(str(flat), cwd=flat.parent)
    assert (again.returncode, list_files(flat)) == (0, SORTED)
    assert "0 files placed (move), 12 in place already" in again.stdout


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_copies_and_links_leave_the_source(flat: Path, mode: str) -> None:
    done = run(f"--{mode}", "--target", "sorted", "a folder/val", cwd=flat.parents[1])
    assert done.returncode == 0
    target = flat.parents[1] / "sorted"
    assert list_files(target) == SORTED
    assert list_files(flat) == sorted(name(number) for number in NUMBERS)
    for number, wnid in NUMBERS.items():
        assert (target / wnid / name(number)).samefile(flat / name(number)) == (mode == "link")
        assert (target / wnid / name(number)).read_text() == number
    assert "0 files placed" in run(f"--{mode}", "--target", "sorted", "a folder/val", cwd=flat.parents[1]).stdout


def test_finds_the_documents_layout(tmp_path: Path, flat: Path) -> None:
    shutil.copytree(flat, tmp_path / "here/ImageNet/val")
    assert run(cwd=tmp_path / "here").returncode == 0
    assert list_files(tmp_path / "here/ImageNet/val") == SORTED


def test_overwrites_nothing(flat: Path) -> None:
    number, wnid = next(iter(NUMBERS.items()))
    (flat / wnid).mkdir()
    (flat / wnid / name(number)).write_text("other")
    done = run(str(flat), cwd=flat)
    assert done.returncode == 1
    assert "neither was touched" in done.stderr
    assert "1 conflicts" in done.stdout
    assert (flat / wnid / name(number)).read_text() == "other"
    assert (flat / name(number)).read_text() == number
    assert len(list_files(flat)) == len(NUMBERS) + 1


def test_goes_on_after_a_kill(flat: Path) -> None:
    """A staged file is complete when its original is gone, and a piece of it otherwise."""
    (moved, wnid), *_, (half, other) = NUMBERS.items()
    staging = flat / ".valprep.partial"
    for folder, number, text in ((wnid, moved, moved), (other, half, "ha")):
        (staging / folder).mkdir(parents=True, exist_ok=True)
        (staging / folder / name(number)).write_text(text)
    (flat / name(moved)).unlink()
    assert run(str(flat), cwd=flat).returncode == 0
    assert list_files(flat) == SORTED
    assert all((flat / wnid / name(number)).read_text() == number for number, wnid in NUMBERS.items())
    assert not staging.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no folder nowhere"),
        (["--swap"], "unknown option --swap"),
        (["."], "give the folder that holds them"),
        (["--target"], "--target needs a folder"),
    ],
)
def test_errors_name_the_remedy(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert list_files(tmp_path) == []
