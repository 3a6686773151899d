"""The demo of the README, on its smaller network."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from tests.support.data import ROOT


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    demo = runpy.run_path(str(ROOT / "examples" / "demo.py"))
    functions = demo["main"].__globals__
    monkeypatch.setitem(functions, "NETWORKS", {"fashion": (demo["NETWORKS"]["fashion"][0], ("fp32", "int8"))})
    monkeypatch.setitem(functions, "SECONDS", 0.2)
    for name in ("examples", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    demo["main"]()
    shown = capsys.readouterr().out
    assert "2,000 test images of Fashion-MNIST" in shown
    assert "nestforge report demo/artifacts/fashion-fp32" in shown
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert {name: row["images"] for name, row in results["evaluate"].items()}.items() >= {
        ("fashion-fp32", 2000),
        ("fashion-int8", 2000),
    }
    assert results["evaluate"]["fashion-fp32"]["top1"]["correct"] == 1888
    assert results["bench"].keys() == results["evaluate"].keys()
