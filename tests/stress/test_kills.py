"""Fewer kills of `tests.stress.kills`, and what it counts."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common.report import ROOT
from tests.stress import kills
from tests.stress.kills import WORKS, Work, read_results, run_until, try_work


def test_a_few_kills(tmp_path: Path) -> None:
    output = tmp_path / "kills.json"
    command = [sys.executable, "-m", "tests.stress.kills", "--kills", "3", "--repeat", "1", "-o", str(output)]
    works = ["evaluate", "image2npz", "vamp"]
    subprocess.run([*command, "--work", *works], check=True, capture_output=True, timeout=600, cwd=ROOT)
    report = json.loads(output.read_text())
    assert report["command"].startswith("python -m tests.stress.kills --kills 3 --work evaluate image2npz vamp")
    assert list(report["works"]) == works
    assert sum(work["kills"] for work in report["works"].values()) >= 3
    for work in report["works"].values():
        assert work["images"] == 2000
        assert work["wrong_results"] == 0
        assert work["done_twice_per_kill_at_most"] < work["images"]


def test_images_and_layers_are_counted(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    (data / "int8").symlink_to(artifacts["int8"])
    (data / "images").symlink_to(dataset)
    done = {}
    for name in ("evaluate", "image2npz", "sensitivity"):
        ended, _ = run_until(WORKS[name].arguments(data, out), tmp_path / name, None)
        assert ended
        done[name] = (tmp_path / name).stat().st_size
    layers = json.loads((out / "result.json").read_text())["layers"]
    assert done == {"evaluate": 40, "image2npz": 40, "sensitivity": len(layers)}


def test_a_result_that_differs_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs that are killed once; then one of them leaves something else behind, and one a file too many."""
    left = iter(
        [{"result": "good"}] + [{"result": "good"}] * 2 + [{"result": "bad"}] * 2 + [{"result": "good", "b": ""}]
    )
    kill = iter([False, True, False, True, False, False])

    def run(arguments: tuple[str, ...], counter: Path, seconds: float | None) -> tuple[bool, float]:
        for name, content in next(left).items():
            (counter.parent / "results").mkdir(exist_ok=True)
            (counter.parent / "results" / name).write_text(content)
        counter.write_bytes(b"." * 10)
        return not next(kill), 0.0

    monkeypatch.setattr(kills, "run_until", run)
    monkeypatch.setitem(WORKS, "fake", Work(lambda data, out: (), ("last", "results")))
    found = try_work("fake", tmp_path, tmp_path / "scratch", 2, 10, random.Random(0))
    assert (found["kills"], found["completed"], found["wrong_results"]) == (2, 2, 1)


def test_times_are_no_difference(tmp_path: Path) -> None:
    work = Work(lambda data, out: (), ("result.json",), times=("seconds",))
    found = []
    for seconds, layer in ((1.0, "a"), (2.0, "a"), (2.0, "b")):
        (tmp_path / "result.json").write_text(json.dumps({"seconds": seconds, "layers": [{"name": layer}]}))
        found.append(read_results(work, tmp_path))
    assert found[0] == found[1]
    assert found[1] != found[2]
