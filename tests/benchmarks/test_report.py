"""Commands, results and tables as the scripts write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accuracy import tables as accuracy_tables
from benchmarks.common.documents import list_marks, make_table, replace_blocks
from benchmarks.common.report import RESULTS, ROOT, describe_command, format_interval, read_report, write_report
from benchmarks.speed import tables as speed_tables
from nestforge.errors import NestForgeError
from nestforge.pages.sensitivity import read_sensitivity

DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))


def test_the_command_is_what_was_run() -> None:
    file = str(ROOT / "benchmarks" / "speed" / "coldstart.py")
    command = describe_command(
        file, "PHOTOS", rounds=9, max_drop=[0.5, 5.0], name="two words", dry_run=True, models=None, build_only=False
    )
    assert command == (
        "python -m benchmarks.speed.coldstart PHOTOS --rounds 9 --max-drop 0.5 5 --name 'two words' --dry-run"
    )


def test_a_report_holds_what_it_holds_for(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert read_report(path) == {}
    write_report(path, command="python -m x", packages=("numpy", "no-such-package"), rows=[1])
    report = read_report(path)
    assert report["command"] == "python -m x"
    assert report["versions"]["no-such-package"] == "not installed"
    assert report["versions"]["numpy"][0].isdigit()
    assert set(report) == {"command", "machine", "python", "versions", "rows"}


def test_intervals() -> None:
    assert format_interval((1.23456, 1.0, 2.0)) == "1.235 [1.000, 2.000]"
    assert format_interval((1.23456, 1.0, 2.0), digits=1) == "1.2 [1.0, 2.0]"


def test_blocks_replace_what_stands_between_their_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\nstays\n<!-- end -->\nc\n")
    replace_blocks(path, {"one": make_table(["x", "y"], [[r"\1", "2"]]), "three": "new"})
    assert path.read_text() == (
        "a\n<!-- one -->\n| x | y |\n|---|---|\n| \\1 | 2 |\n<!-- end -->\nb\n<!-- two -->\nstays\n<!-- end -->\nc\n"
    )
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: replaced: one",
        f"{path}: has no mark for: three",
        f"{path}: left as it was: two",
    ]


def test_a_document_without_a_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("text\n<!-- other -->\nstays\n<!-- end -->\n")
    with pytest.raises(NestForgeError, match="has none of the marks 'one'"):
        replace_blocks(path, {"one": "new"})


def test_every_mark_of_the_documents_is_filled_from_the_committed_results() -> None:
    """A table whose script no longer knows it, or whose results it cannot read, would silently stay as it was."""
    blocks = {
        **accuracy_tables.make_blocks(RESULTS),
        **speed_tables.make_blocks(RESULTS),
        **speed_tables.make_blocks(RESULTS / "amx"),
    }
    marks = {mark: path.name for path in DOCUMENTS for mark in list_marks(path.read_text())}
    assert len(marks) >= 10
    assert {mark: name for mark, name in marks.items() if mark not in blocks} == {}
    assert all(block.count("\n") >= 2 for block in blocks.values())


def test_plots_are_drawn_from_the_committed_results(tmp_path: Path) -> None:
    speed_tables.draw_plots(read_report(RESULTS / "contenders-resnest50.json"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers.svg", "peak.svg", "throughput.svg"]
    assert "hand-tuned" in (tmp_path / "peak.svg").read_text()


def test_the_committed_sensitivity_can_be_shown() -> None:
    assert len(read_sensitivity(RESULTS / "amx" / "sensitivity-resnest50.json").layers) == 120


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json")), ids=lambda path: str(path.relative_to(RESULTS)))
def test_the_commands_of_results_are_scripts_that_exist(path: Path) -> None:
    def list_commands(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [value["command"]] if isinstance(value.get("command"), str) else []
            return own + [command for inner in value.values() for command in list_commands(inner)]
        return []

    for command in list_commands(json.loads(path.read_text())):
        words = command.split()
        assert words[:2] == ["python", "-m"]
        assert (ROOT / Path(*words[2].split("."))).with_suffix(".py").is_file()
