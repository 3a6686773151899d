"""The commands as a user runs them: help on one screen, JSON for scripts, one line and exit code 2 for errors."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nestforge
from tests.support.commands import run, run_json

COMMANDS = ("models", "export", "build", "predict", "evaluate", "bench", "loadgen", "report", "inspect")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_one_screen_and_a_public_function(command: str) -> None:
    text = run(command, "--help").stdout
    assert len(text.splitlines()) <= 40
    assert callable(getattr(nestforge, command))
    assert command in nestforge.__all__


def test_all_is_sorted_and_importable() -> None:
    assert nestforge.__all__ == sorted(nestforge.__all__)
    for name in nestforge.__all__:
        assert getattr(nestforge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nestforge.nothing


def test_every_public_function_that_is_called_exists() -> None:
    """mypy cannot tell, because the names are imported when they are first used."""
    root = Path(nestforge.__file__).parents[1]
    trees = [
        ast.parse(path.read_text())
        for folder in ("nestforge", "benchmarks", "examples", "tests")
        for path in (root / folder).rglob("*.py")
    ]
    used = {
        node.attr
        for node in (node for tree in trees for node in ast.walk(tree))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nestforge"
    }
    assert {"build", "evaluate"} <= used
    assert [name for name in used - {"nothing"} if not hasattr(nestforge, name)] == []


def test_version_and_no_arguments() -> None:
    assert run("--version").stdout == f"nestforge {nestforge.__version__}\n"
    assert "evaluate" in run(code=2).stdout


def test_models(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in run_json("models")}
    assert {"name", "size", "params", "macs", "top1"} <= rows["resnest50"].keys()
    table = run("models").stdout
    for figure in ("12.065", "29.861", "79.672", "173.421", "27.483", "110.929", "528c19ca"):
        assert figure in table
    run("models", "--json", tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text()) == list(rows.values())


def test_the_walk(slim_config: dict[str, object], dataset: Path, tmp_path: Path) -> None:
    """export -> build -> predict, evaluate, bench, inspect, with the keys that scripts rely on."""
    exported = run_json("export", "resnest14_slim", "--seed", 0, "-o", "m.onnx", cwd=tmp_path)
    assert exported["max_relative_difference"] < 1e-4
    (tmp_path / "c.yaml").write_text(json.dumps({**slim_config, "model": {"onnx": "m.onnx"}, "output": "int8"}))
    built = run_json("build", "c.yaml", cwd=tmp_path)
    assert {"artifact", "files", "parity", "seconds", "peak_rss_bytes"} <= built.keys()
    assert {"cosine", "max_abs", "top1_agreement"} <= built["parity"].keys()
    echo = run("build", "c.yaml", "--set", "dtype=fp32", "--set", "output=fp32", cwd=tmp_path)
    assert "percentile: 99.999" in echo.stderr
    assert "parity" in echo.stdout

    image = dataset / "bag" / "0.png"
    predicted = run_json("predict", "int8", image, cwd=tmp_path)
    predicted = predicted["predictions"]
    assert predicted[0]["image"] == str(image)
    assert len(predicted[0]["top"]) == 5
    assert {"index", "label", "probability"} == predicted[0]["top"][0].keys()

    result = run_json("evaluate", "int8", dataset, "--vs", "fp32", cwd=tmp_path)
    assert result["images"] == 40
    assert (result["unreadable"], result["unreadable_images"]) == (0, [])
    assert {"correct", "rate", "low", "high"} == result["top1"].keys() == result["vs"]["top5"].keys()
    assert {"top1", "difference", "low", "high", "mcnemar_p"} <= result["vs"].keys()

    ranked = run_json("sensitivity", "int8", "--images", 2, "--plot", "layers.svg", cwd=tmp_path)
    assert {"images", "complete", "total_sqnr_db", "total_flips", "layers", "artifact_or_config"} <= ranked.keys()
    assert {"name", "alone_sqnr_db", "kept_in_float_flips", "clipped_share", "time_share"} <= ranked["layers"][0].keys()
    assert (tmp_path / "layers.svg").read_text().startswith("<svg")

    measured = run_json("bench", "int8", "--seconds", 0.2, "--vs", "fp32", cwd=tmp_path)
    assert {"throughput_ips", "latency_ms", "parallelism", "peak_share", "macs"} <= measured.keys()
    assert {"batch", "streams", "threads"} == measured["parallelism"].keys()
    assert {"mean", "p50", "p90", "p99"} == measured["latency_ms"].keys()
    assert {"throughput_ips", "ratio", "low", "high"} <= measured["vs"].keys()

    result = run_json("report", "fp32", "int8", "--dataset", dataset, "--no-bench", "--limit", 10, cwd=tmp_path)
    assert result["page"] == "report.html"
    assert result["evaluations"][1]["vs"]["artifact"] == result["reference"] == "fp32"
    assert (tmp_path / "report.html").stat().st_size == result["size_bytes"]
    changes = ("evaluate", "int8", dataset, "--vs", "fp32", "--changes", "changes.csv")
    assert "classes" in run(*changes, cwd=tmp_path).stdout
    assert (tmp_path / "changes.csv").read_text().startswith("image,kind,truth,")

    manifest = run_json("inspect", "int8", cwd=tmp_path)
    assert manifest["preprocess_sha256"]
    for command in (("predict", "int8", image), ("evaluate", "int8", dataset, "--vs", "fp32"), ("inspect", "int8")):
        assert run(*command, cwd=tmp_path).stdout.strip()
    assert "measured" in run("bench", "int8", "--seconds", 0.2, cwd=tmp_path).stdout


def test_errors_are_one_line_and_exit_code_2(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("modell: {name: resnest50}\noutput: x\n")
    (tmp_path / "empty").mkdir()
    for arguments in (
        ("export", "resnest5", "--seed", 0),
        ("build", "none.yaml"),
        ("build", "bad.yaml"),
        ("predict", artifacts["fp32"], "none.jpg"),
        ("predict", "nowhere", dataset / "bag" / "0.png"),
        ("evaluate", artifacts["fp32"], "nowhere"),
        ("evaluate", artifacts["fp32"], "empty"),
        ("bench", "nowhere"),
        ("bench", artifacts["fp32"], "--batch", 0),
        ("bench", artifacts["fp32"], "--budget", 60),
        ("bench", artifacts["fp32"], "--tune", "--seconds", 5),
        ("bench", artifacts["fp32"], "--tune", "--batch", 1),
        ("bench", artifacts["fp32"], "--tune", "--vs", artifacts["int8"]),
        ("predict", artifacts["fp32"], dataset, "--top", 0),
        ("inspect", "empty"),
        ("evaluate", artifacts["fp32"], dataset, "--changes", "c.csv"),
        ("evaluate", artifacts["fp32"], dataset, "--vs", artifacts["int8"], "--changes", "nowhere/c.csv"),
        ("report", "nowhere"),
        ("report", artifacts["fp32"], "--dataset", "empty", "--no-bench"),
        ("report", artifacts["fp32"], "-o", "nowhere/r.html"),
        ("sensitivity", "nowhere"),
        ("sensitivity", "empty"),
        ("sensitivity", artifacts["int8"], "--images", 0),
        ("sensitivity", artifacts["int8"], "--plot", "nowhere/x.svg"),
        ("models", "--json", "nowhere/x.json"),
        ("models", "--json", ""),
        ("inspect", "n" * 300),
        ("build", "bad.yaml", "--set", "output=2020-13-45"),
    ):
        done = run(*arguments, cwd=tmp_path, code=2)
        lines = [line for line in done.stderr.splitlines() if line.startswith("nestforge: ")]
        assert len(lines) == 1, done.stderr
        assert done.stdout == ""
    for arguments in (("bench", artifacts["fp32"], "--batch", "two"), ("nothing",), ("models", "--no-such")):
        run(*arguments, cwd=tmp_path, code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "empty"]


def test_an_option_that_would_do_nothing_is_named(artifacts: dict[str, Path]) -> None:
    done = run("bench", artifacts["fp32"], "--tune", "--seconds", 5, "--threads", 2, code=2)
    assert done.stderr.endswith("leave out --threads, --seconds\n")
    assert "leave out --budget" in run("bench", artifacts["fp32"], "--budget", 9, code=2).stderr


def test_python_m_is_the_command() -> None:
    command = [sys.executable, "-m", "nestforge", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"nestforge {nestforge.__version__}\n"


def test_notebooks_can_complete_names() -> None:
    assert {*nestforge.__all__, "__version__"} == set(dir(nestforge))


def test_a_users_script_passes_strict_type_checking(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "import nestforge\n"
        "from nestforge import BuildConfig, Evaluation, Prediction\n"
        "result = nestforge.build({'model': {'name': 'resnest50'}, 'output': 'a'})\n"
        "evaluation: Evaluation = nestforge.evaluate(result.artifact, 's3://bucket/x', vs='b')\n"
        "with nestforge.load('a') as classify:\n"
        "    one: Prediction = classify('cat.jpg')\n"
        "    many: list[Prediction] = classify([Path('cat.jpg'), b''])\n"
        "names: list[str] = [row.label for row in one.top]\n"
        "rate: float = evaluation.top1.rate if evaluation.vs is None else evaluation.vs.difference\n"
        "labels = [found.top[0].label for found in nestforge.predict('a', 'cat.jpg')]\n"
        "print(names, rate, labels, nestforge.bench('a').throughput_ips, BuildConfig)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    wrong = script.read_text().replace("names: list[str]", "names: list[int]")
    script.write_text(wrong)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "script.py:9: error" in done.stdout


def test_partly_unreadable_is_exit_code_1(artifacts: dict[str, Path], dataset: Path) -> None:
    done = run("predict", artifacts["fp32"], dataset / "bag" / "0.png", "none.jpg", code=1)
    assert "none.jpg: no such file" in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(number: int, code: int, slim_config: dict[str, object], tmp_path: Path) -> None:
    config = {**slim_config, "model": {"name": "resnest101", "seed": 0}, "labels": None, "output": "out"}
    config["preprocess"] = None
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-c", "from nestforge.cli import main; main()", "build", "c.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.glob(".out.*.partial")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code
    if code == 130:
        assert "interrupted; nothing was written" in stderr
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_ctrl_c_during_a_benchmark(artifacts: dict[str, Path]) -> None:
    command = [sys.executable, "-c", "from nestforge.cli import main; main()", "bench", str(artifacts["int8"])]
    process = subprocess.Popen([*command, "--seconds", "30"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(5)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
