"""A room imports only from rooms before it, and optional packages only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nestforge"
ROOMS = (
    "errors",
    "progress",
    "files",
    "journal",
    "networks",
    "data",
    "config",
    "engines",
    "compile",
    "measure",
    "scale",
    "explain",
    "tables",
    "pages",
    "vendor",
    "cli",
)
HEAVY = {
    "torch": {"networks/resnest.py", "engines/torch.py", "networks/checkpoint.py"},
    "nncf": set(),
    "ray": {"scale/cluster.py"},
    "pyarrow": {f"scale/{name}.py" for name in ("cluster", "parts", "rows", "run", "tally", "worker")},
    "fsspec": {"scale/storage.py"},
    "mlperf_loadgen": {"scale/sut.py"},
    "cv2": set(),
    "playwright": set(),
}


def list_imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in list_imports(path):
        parts = name.split(".")
        if parts[0] == "nestforge" and len(parts) > 1:
            assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path} imports {name}"


def test_every_room_is_in_the_order() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert rooms == set(ROOMS)


def test_heavy_packages_only_where_allowed() -> None:
    for path in MODULES:
        for name in list_imports(path):
            allowed = HEAVY.get(name.split(".")[0])
            assert allowed is None or str(path.relative_to(PACKAGE)) in allowed, f"{path} imports {name}"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import nestforge, sys; print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {
        "numpy",
        "torch",
        "onnx",
        "openvino",
        "onnxruntime",
        "pydantic",
        "scipy",
        "PIL",
        "jinja2",
        "rich",
        "typer",
    }


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, nestforge.cli\n"
        "sys.argv = ['nestforge', '--help']\n"
        "try: nestforge.cli.main()\n"
        "except SystemExit: pass\n"
        "print('LOADED', ' '.join(sorted({name.split('.')[0] for name, module in sys.modules.items() if module})))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.rsplit("LOADED", 1)[1].split())
    assert not loaded & {"numpy", "torch", "onnx", "openvino", "onnxruntime", "pydantic", "scipy", "PIL", "jinja2"}


def test_predict_loads_only_what_it_needs(artifacts: dict[str, Path], dataset: Path) -> None:
    image = next(dataset.rglob("*.png"))
    code = (
        "import sys, nestforge.cli\n"
        f"sys.argv = ['nestforge', 'predict', {str(artifacts['int8'])!r}, {str(image)!r}]\n"
        "try: nestforge.cli.main()\n"
        "except SystemExit: pass\n"
        "print('LOADED', ' '.join(sorted(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.rsplit("LOADED", 1)[1].split())
    assert "openvino" in loaded
    unneeded = {"onnx", "onnx_ir", "onnxruntime", "torch", "scipy", "safetensors", "urllib.request"}
    assert not loaded & {*unneeded, "rich.progress", "openvino.tools.ovc.convert", "nestforge.networks"}


def test_main_path_works_without_torch(slim_onnx: Path) -> None:
    """Everything but export and .pth files is imported and run with torch made unimportable."""
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import nestforge.cli, nestforge.compile.build, nestforge.measure.evaluate, nestforge.measure.benchmark\n"
        "from nestforge.engines import get_engine\n"
        "from nestforge.engines.base import Settings\n"
        "import numpy as np, pathlib\n"
        "for name in ('openvino', 'onnxruntime'):\n"
        f"    session = get_engine(name).open(pathlib.Path({str(slim_onnx)!r}), Settings(height=56, width=56))\n"
        "    print(session.run(np.zeros((1, 3, 56, 56), np.float32)).shape)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["(1, 10)", "(1, 10)"]


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("pyarrow", ("predict", "{artifact}", "{images}", "-o", "rows.parquet"), "nestforge[scale]"),
        ("pyarrow", ("evaluate", "{artifact}", "{images}", "--ray", "local"), "nestforge[scale]"),
        ("ray", ("evaluate", "{artifact}", "{images}", "--ray", "local"), "nestforge[scale]"),
        ("mlperf_loadgen", ("loadgen", "{artifact}", "{images}"), "nestforge[loadgen]"),
    ],
)
def test_a_missing_extra_is_named(
    missing: str,
    arguments: tuple[str, ...],
    extra: str,
    artifacts: dict[str, Path],
    dataset: Path,
    tmp_path: Path,
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from nestforge.cli import main; main()"
    filled = [argument.format(artifact=artifacts["int8"], images=dataset) for argument in arguments]
    command = [sys.executable, "-c", code, *filled]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert extra in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_engines_report_to_nobody() -> None:
    code = (
        "import nestforge.engines.openvino, nestforge.engines.onnxruntime, sys\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "import openvino.tools.ovc.telemetry_utils as utils\n"
        "print(utils.tm.__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "openvino.tools.ovc.telemetry_stub"
