"""LoadGen's counts equal ours, its verdict and figures are read as it wrote them; no times are asserted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nestforge.errors import ConfigError, DataError, NestForgeError
from nestforge.measure.evaluate import evaluate
from tests.support.commands import find_processes, run

pytest.importorskip("mlperf_loadgen")
from nestforge.measure.loadgen import loadgen


@pytest.mark.parametrize("scenario", ["Offline", "SingleStream"])
def test_accuracy_equals_evaluate_s(artifacts: dict[str, Path], damaged: Path, scenario: str) -> None:
    expected = evaluate(artifacts["fp32"], damaged)
    result = loadgen(artifacts["fp32"], damaged, scenario=scenario, mode="accuracy")
    assert (result.images, result.samples, len(result.unreadable)) == (41, 41, 2)
    assert result.top1 == expected.top1
    assert result.top5 == expected.top5
    assert (result.valid, result.throughput_ips, result.latency_ms) == (None, None, None)


@pytest.mark.parametrize("scenario", ["Offline", "SingleStream", "Server"])
def test_performance(artifacts: dict[str, Path], damaged: Path, tmp_path: Path, scenario: str) -> None:
    logs = tmp_path / "logs"
    result = loadgen(
        artifacts["int8"], damaged, scenario=scenario, seconds=0.5, queries=70, target_qps=200, streams=2, logs=logs
    )
    assert result.images == 39
    assert result.samples >= 70
    assert result.throughput_ips is not None
    assert result.throughput_ips > 0
    assert (result.latency_ms is None) == (scenario == "Offline")
    assert {"mlperf_log_summary.txt", "mlperf_log_detail.txt"} <= {path.name for path in logs.iterdir()}
    verdict = next(line for line in (logs / "mlperf_log_summary.txt").read_text().splitlines() if "Result is" in line)
    assert verdict.split()[-1] == ("VALID" if result.valid else "INVALID")


def test_ctrl_c_leaves_nothing(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    """Also not the process that LoadGen runs in, nor its logs."""
    command = [sys.executable, "-c", "from nestforge.cli import main; main()", "loadgen", artifacts["fp32"], dataset]
    process = subprocess.Popen(
        [*map(str, command), "--seconds", "60", "--logs", str(tmp_path / "logs")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("nestforge-loadgen-*/mlperf_log_detail.txt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
    assert find_processes(f"TMPDIR={tmp_path}") == []


def test_refusals(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    for options, error, message in (
        ({"scenario": "Offlin"}, ConfigError, "did you mean 'Offline'"),
        ({"mode": "speed"}, ConfigError, "no mode 'speed'"),
        ({"queries": 0}, ConfigError, "queries 0"),
        ({"logs": tmp_path}, NestForgeError, "not an empty folder"),
    ):
        with pytest.raises(error, match=message):
            loadgen(artifacts["fp32"], dataset, **options)  # type: ignore[arg-type]
    broken = tmp_path / "data" / "bag"
    broken.mkdir(parents=True)
    (broken / "0.png").write_bytes(b"x")
    for mode in ("performance", "accuracy"):
        with pytest.raises((DataError, NestForgeError), match=r"0\.png"):
            loadgen(artifacts["fp32"], broken.parent, mode=mode, seconds=0.2, logs=tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_command(artifacts: dict[str, Path], dataset: Path) -> None:
    table = run("loadgen", artifacts["fp32"], dataset, "--mode", "accuracy").stdout
    assert "top-1" in table
    run("loadgen", artifacts["fp32"], dataset, "--scenario", "Nothing", code=2)
