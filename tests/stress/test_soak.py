"""Fifteen seconds of `tests.stress.soak`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common.report import ROOT


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_soak(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    command = [sys.executable, "-m", "tests.stress.soak", str(artifacts["int8"]), str(dataset), "--minutes", "0.25"]
    subprocess.run([*command, "-o", str(output)], check=True, capture_output=True, timeout=200, cwd=ROOT)
    result = json.loads(output.read_text())
    assert len(result["descriptors"]) == 1
    assert result["different_counts"] == 1
    assert result["rss_mb_last"] - result["rss_mb_first"] < 40
