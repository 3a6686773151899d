"""Every row of the table of models names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "models.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def list_rows() -> list[str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ") and not line.endswith("| test |")]


@pytest.mark.parametrize("row", list_rows(), ids=lambda row: row.split("|")[1].strip()[:60])
def test_every_row_names_its_test(row: str) -> None:
    found = TEST.findall(row.split("|")[-2])
    assert len(found) == 1
    file, name = found[0]
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_text_names_tests_that_exist() -> None:
    for file, name in TEST.findall(PAGE.read_text(encoding="utf-8")):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_there_are_rows() -> None:
    assert len(list_rows()) > 30
