"""Every bad or odd file has its outcome, and the good ones beside it are used: no crash, no hang, bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.corpus import list_cases
from tests.hostile.corpus.case import REFUSED, USED
from tests.hostile.run import READERS, run_corpus

CLASSES = 10  # of the artifact, and suffixes of the corpus's images
IMAGE_KINDS = ("images", "names", "places")
UNLISTABLE = 4  # good images with a line break or bytes that are no text in their names
BAD_AND_UNLISTABLE = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def rows(root: Path) -> list[dict[str, Any]]:
    return run_corpus(root)


@pytest.mark.parametrize("kind", READERS)
def test_outcomes(kind: str, rows: list[dict[str, Any]]) -> None:
    mine = [row for row in rows if row["kind"] == kind]
    assert len(mine) >= 8
    assert [f"{row['name']!r}: {row['problem']}" for row in mine if row["problem"]] == []


def test_there_are_enough(rows: list[dict[str, Any]]) -> None:
    assert len(rows) >= 300
    assert len({(row["kind"], row["name"]) for row in rows}) == len(rows)


@pytest.fixture(scope="module")
def folder(root: Path, rows: list[dict[str, Any]]) -> Path:
    """All images together, in class folders by suffix, with a good one in each."""
    data = root / "data"
    cases = [case for case in list_cases(root) if case.kind in IMAGE_KINDS]
    suffixes = sorted({Path(case.name).suffix.lower() for case in cases})
    folder_of = {suffix: data / f"class {index}" for index, suffix in enumerate(suffixes)}
    assert len(folder_of) == CLASSES
    for path in folder_of.values():
        path.mkdir(parents=True)
        (path / "a good one.png").write_bytes((root / "kinds" / "images" / "plain.png").read_bytes())
    for case in cases:
        case.make(folder_of[Path(case.name).suffix.lower()] / case.name)
    return data


def expect(rows: list[dict[str, Any]], outcome: str) -> set[str]:
    return {row["name"] for row in rows if row["kind"] in IMAGE_KINDS and row["outcome"] == outcome}


def run(program: str, *arguments: object, code: int) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    return done


NESTFORGE = "from nestforge.cli import main; main()"
IMAGE2NPZ = "from nestforge.vacc.commands import image2npz; image2npz()"


def test_evaluate_counts_the_good_ones(root: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    done = run(NESTFORGE, "evaluate", root / "artifact", folder, "--json", "-", code=0)
    result = json.loads(done.stdout)
    assert {Path(row["image"]).name for row in result["unreadable_images"]} == expect(rows, REFUSED)
    assert result["unreadable"] == len(result["unreadable_images"])
    assert result["images"] == len(expect(rows, USED)) + CLASSES


def test_image2npz_converts_the_good_ones(root: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    out = root / "npz"
    done = run(IMAGE2NPZ, "--dataset_path", folder, "--target_path", out, "--text_path", root / "list.txt", code=1)
    listed = (root / "list.txt").read_text().splitlines()
    assert all(Path(name).is_file() for name in listed)
    assert len(listed) == len(expect(rows, USED)) + CLASSES - UNLISTABLE
    assert done.stderr.count(b"rename it") == UNLISTABLE + BAD_AND_UNLISTABLE


def test_terminal_and_json_survive_every_name(root: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    images = sorted((root / "kinds" / "names").glob("*.jpg"))
    arguments = ("predict", root / "artifact", *images, "--top", "1")
    shown = run(NESTFORGE, *arguments, code=1).stdout
    assert not any(byte < 32 and byte != 10 for byte in shown)
    assert "\u2028" not in shown.decode()
    assert "日本語.jpg" in shown.decode()
    found = json.loads(run(NESTFORGE, *arguments, "--json", "-", code=1).stdout)
    assert [row["image"] for row in found["predictions"]] == [str(path) for path in images]
    run(NESTFORGE, *arguments, "--json", root / "predictions.json", code=1)
    again = json.loads((root / "predictions.json").read_text())
    assert again | {"seconds": 0} == found | {"seconds": 0}


def test_overriding_the_check_of_a_changed_artifact(root: Path, rows: list[dict[str, Any]]) -> None:
    changed = root / "kinds" / "artifacts" / "changed_labels"
    image = root / "good.jpg"
    refused = run(NESTFORGE, "predict", changed, image, code=2)
    assert b"--no-verify to use it as it is" in refused.stderr
    for command in (("predict", changed, image), ("inspect", changed), ("bench", changed, "--seconds", "0.1")):
        done = run(NESTFORGE, *command, "--no-verify", code=0)
        assert b"warning: " in done.stderr
        assert done.stderr.count(b"is not the file that was built") == 1


def test_a_file_that_goes_away_is_unreadable(tmp_path: Path, root: Path, rows: list[dict[str, Any]]) -> None:
    """Listed, then deleted while others are read."""
    from nestforge.data.imagefolder import list_images
    from nestforge.data.loader import Unreadable, load_batches
    from nestforge.data.preprocess import make_reference_preprocess

    for index in range(12):
        (tmp_path / f"{index:02}.jpg").write_bytes((root / "good.jpg").read_bytes())
    paths = list_images(tmp_path).paths
    batches = load_batches(paths, make_reference_preprocess(56), batch=1, workers=1)
    next(batches)
    paths[9].unlink()
    rest = list(batches)
    assert [item.image for item in rest if isinstance(item, Unreadable)] == [str(paths[9])]
    assert len(rest) == 11
