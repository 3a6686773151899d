"""A room imports only from rooms before it, and optional packages only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nestforge"
# From the bottom to the top. A module imports from its own package and from layers below; packages on one line are
# siblings, which do not import each other.
RUN_SIDE = (
    ("errors",),
    ("checks", "files", "progress"),
    ("journal", "schema"),
    ("commandline", "networks", "data"),
    ("config",),
    ("engines",),
    ("artifact",),
    ("inference",),
    ("scale",),
    ("measure",),
)
BUILD_SIDE = (
    ("compile",),
    ("accuracy",),
    ("builder",),
    ("tables",),
    ("pages", "vacc"),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {name: index for index, layer in enumerate(RUN_SIDE + BUILD_SIDE) for name in layer}
ROOT_ALLOWED = {"__version__"}  # what any module may import from the top-level package
PUBLIC_API_ALLOWED = {"cli", "pages", "__main__"}  # these call the public functions by `import nestforge`
HEAVY = {
    "torch": {
        "networks/resnest.py",
        "engines/torch.py",
        "networks/tensor_file.py",
        "compile/timm_export.py",
        "compile/timm_model.py",
    },
    "timm": {"compile/timm_model.py"},
    "nncf": set(),
    "ray": {"scale/cluster.py"},
    "pyarrow": {"data/parts.py", "scale/arrow.py", "scale/cluster.py", "scale/worker.py"},
    "fsspec": {"data/storage.py"},
    "mlperf_loadgen": {"measure/loadgen_sut.py"},
    "cv2": set(),
    "playwright": set(),
}


def list_imports(code: str, package: str) -> list[tuple[str, str]]:
    """Return (module, name) of every import; `package` is the dotted package the code is in, name "" for a module."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(module, alias.name) for alias in node.names]
    return found


def find_violations(code: str, package: str, layer: str) -> list[str]:
    """Return what code of a layer imports although it must not."""
    wrong = []
    for module, name in list_imports(code, package):
        parts = [*module.split("."), *([name] if name else [])]
        if parts[0] != "nestforge":
            continue
        target = parts[1] if len(parts) > 1 else ""
        if target in LAYER_OF:
            allowed = target == layer or LAYER_OF[target] < LAYER_OF[layer]
        else:
            allowed = target in ROOT_ALLOWED or layer in PUBLIC_API_ALLOWED
        if not allowed:
            wrong.append(".".join(parts))
    return wrong


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def read_layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    package = ".".join(["nestforge", *path.relative_to(PACKAGE).parts[:-1]])
    assert find_violations(path.read_text(), package, read_layer(path)) == []


@pytest.mark.parametrize(
    ("code", "layer", "wrong"),
    [
        ("import nestforge.compile.plan", "measure", ["nestforge.compile.plan"]),
        ("from nestforge.compile import plan", "measure", ["nestforge.compile.plan"]),
        ("from nestforge import compile", "measure", ["nestforge.compile"]),
        ("from nestforge import evaluate", "measure", ["nestforge.evaluate"]),
        ("from ..compile import plan", "measure", ["nestforge.compile.plan"]),
        ("from .. import compile as c", "measure", ["nestforge.compile"]),
        ("from nestforge.vacc import vamp", "pages", ["nestforge.vacc.vamp"]),
        ("def f():\n    from nestforge.cli import main", "tables", ["nestforge.cli.main"]),
        ("from nestforge import __version__", "measure", []),
        ("from . import statistics", "measure", []),
        ("from nestforge.engines import get_engine", "measure", []),
    ],
)
def test_the_check_sees_every_form_of_import(code: str, layer: str, wrong: list[str]) -> None:
    assert find_violations(code, f"nestforge.{layer}", layer) == wrong


def test_every_package_has_a_layer() -> None:
    assert {read_layer(path) for path in MODULES} == set(LAYER_OF)


def test_heavy_packages_only_where_allowed() -> None:
    for path in MODULES:
        for module, _ in list_imports(path.read_text(), "nestforge"):
            allowed = HEAVY.get(module.split(".")[0])
            assert allowed is None or str(path.relative_to(PACKAGE)) in allowed, f"{path} imports {module}"


def test_running_an_artifact_never_imports_the_build_side() -> None:
    modules = [
        ".".join(["nestforge", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        for path in MODULES
        if LAYER_OF[read_layer(path)] < len(RUN_SIDE) and str(path.relative_to(PACKAGE)) not in HEAVY["torch"]
    ]
    code = f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    built = {name for layer in BUILD_SIDE for name in layer}
    assert not {name for name in out.split() if name.startswith("nestforge.") and name.split(".")[1] in built}


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
        ("timm", ("export", "timm:resnet18", "--seed", "0"), "nestforge[timm]"),
        ("torch", ("export", "timm:resnet18", "--seed", "0"), "nestforge[timm]"),
        ("torch", ("export", "resnest14_slim", "--seed", "0"), "nestforge[torch]"),
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
