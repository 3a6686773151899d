"""From the start of the process to the first answer: `nestforge predict` against the shortest scripts of the engines.

    pip install -e '.[bench]'
    python benchmarks/coldstart.py PHOTOS [--rounds N] [-o benchmarks/results/coldstart.json]

ResNeSt-50 at 224 with seeded weights in int8. Contenders, each a fresh process that classifies one photograph, in
turns:

- nestforge: `nestforge predict`, the compiled model found in the cache
- nestforge, first ever: the same with an empty cache
- nestforge, no cache: the same with the cache switched off
- openvino: the OpenVINO API on the same ONNX file, Pillow and numpy
- onnxruntime: ONNX Runtime on its own `quantize_static` file, Pillow and numpy
- numpy: it alone imported, which all of them pay
- nestforge without garbage collection, and nestforge left without tearing anything down: what these would gain

Also the milliseconds of each step of nestforge's start, in one process, and the bytes on disk of what each needs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.speed.pipeline import build_models
from nestforge.commandline import run_command
from nestforge.data.imagefolder import list_images
from nestforge.engines.machine import read_machine
from nestforge.engines.model_cache import ENV_VAR
from nestforge.files import write_json
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.progress import show_bars
from nestforge.tables.layout import make_grid

LOAD = """
import sys
import numpy as np
from PIL import Image
image = Image.open(sys.argv[2]).convert("RGB")
width, height = image.size
side = 224 / 256 * min(width, height)
top, left = round((height - side) / 2), round((width - side) / 2)
image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)
pixels = np.asarray(image, np.float32) / 255
mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
images = np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)[None])
"""
OPENVINO = """
import openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU")
print(np.argsort(-model(images)[0][0])[:5])
"""
ONNXRUNTIME = """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
print(np.argsort(-session.run(None, {session.get_inputs()[0].name: images})[0][0])[:5])
"""


PHASES = """
import json, sys, time
from pathlib import Path
stamps = []
def stamp(name):
    stamps.append((name, time.perf_counter()))
stamp("")
sys.modules["openvino.tools.ovc"] = None
import nestforge.cli
stamp("typer and the command line")
import typer._adapters
stamp("pydantic, which typer imports too")
import numpy, PIL.Image, PIL.ImageOps
stamp("numpy, Pillow")
import nestforge.scale.predict
stamp("our modules")
artifact = nestforge.open_artifact(sys.argv[1])
stamp("manifest, hashes, labels")
import openvino
stamp("import openvino")
arrangement = nestforge.inference.pipeline.choose_arrangement(artifact, 1)
session = artifact.open_session(batch=arrangement.batch, streams=arrangement.streams, threads=arrangement.threads)
stamp("read, check and import the compiled model")
image = nestforge.data.preprocess.load_image(Path(sys.argv[2]), artifact.manifest.preprocess)
stamp("load the image")
session.run(image[None])
stamp("first inference")
import nestforge.tables.measurements, rich.console
stamp("tables, rich")
print(json.dumps({name: (end - begin) * 1e3 for (_, begin), (name, end) in zip(stamps, stamps[1:])}))
"""
START = "import nestforge.cli\nnestforge.cli.main()"
NO_COLLECTION = f"import gc\ngc.disable()\n{START}"
NO_END = f"import os, sys\ntry:\n    {START.replace(chr(10), chr(10) + '    ')}\nexcept SystemExit:\n    pass\n"
NO_END += "sys.stdout.flush()\nos._exit(0)"


def main() -> None:
    """Build, start in turns, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", type=Path, help="keep the built models here, and find them here")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/coldstart.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.models or Path(temporary) / "models"
        folder.mkdir(exist_ok=True)
        ours, peer = build_models(args.photos, folder)
        photo = list_images(args.photos).paths[0]
        result = measure(ours, peer, photo, Path(temporary), args.rounds)
    write_json(result, str(args.output))


def measure(ours: Path, peer: Path, photo: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Start every contender once a round, in turned order."""
    arguments = [str(ours), str(photo)]
    predict = [sys.executable, "-c", START, "predict", *arguments]
    caches = {name: folder / name for name in ("warm", "empty")}
    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        "nestforge": (predict, {"NESTFORGE_CACHE": str(caches["warm"])}),
        "nestforge, first ever": (predict, {"NESTFORGE_CACHE": str(caches["empty"])}),
        "nestforge, no cache": (predict, {ENV_VAR: "0"}),
        "openvino": ([sys.executable, "-c", LOAD + OPENVINO, str(ours / "model.onnx"), str(photo)], {}),
        "onnxruntime": ([sys.executable, "-c", LOAD + ONNXRUNTIME, str(peer), str(photo)], {}),
        "numpy": ([sys.executable, "-c", "import numpy"], {}),
    }
    kept = {"NESTFORGE_CACHE": str(caches["warm"])}
    commands |= {
        "nestforge, no garbage collection": ([sys.executable, "-c", NO_COLLECTION, *predict[3:]], kept),
        "nestforge, no teardown": ([sys.executable, "-c", NO_END, *predict[3:]], kept),
    }
    times_ms: dict[str, list[float]] = {name: [] for name in commands}
    with show_bars("starting in turns", len(commands) * (rounds + 1)) as advance:
        for turn in range(rounds + 1):  # the first round fills the caches, ours and the system's, and is not counted
            names = list(commands)[turn % len(commands) :] + list(commands)[: turn % len(commands)]
            for name in names:
                shutil.rmtree(caches["empty"], ignore_errors=True)
                command, variables = commands[name]
                begin = time.perf_counter()
                subprocess.run(command, env={**os.environ, **variables}, check=True, stdout=subprocess.DEVNULL)
                if turn:
                    times_ms[name].append((time.perf_counter() - begin) * 1e3)
                advance(1)
    phases = [
        json.loads(subprocess.check_output([sys.executable, "-c", PHASES, *arguments], env={**os.environ, **kept}))
        for _ in range(rounds)
    ]
    phases_ms = {name: float(np.median([phase[name] for phase in phases])) for name in phases[0]}
    size_bytes = {
        "nestforge": sum(path.stat().st_size for path in ours.iterdir()),
        "nestforge's cache": sum(path.stat().st_size for path in caches["warm"].rglob("*") if path.is_file()),
        "onnxruntime": peer.stat().st_size,
        "float32 ONNX": (ours.parent / "fp32" / "model.onnx").stat().st_size,
    }
    rows, results = [], {}
    for name, values in times_ms.items():
        ratio, low, high = compute_ratio_interval(times_ms["nestforge"], values)
        median = float(np.median(values))
        results[name] = {"median_ms": median, "times_ms": values, "nestforge_by_this": [ratio, low, high]}
        spread = f"{median:.0f} ({min(values):.0f} to {max(values):.0f})"
        rows.append((name, spread, f"{ratio:.2f} [{low:.2f}, {high:.2f}]"))
    console = Console(width=120)
    console.print(make_grid("one photograph, a fresh process", ("contender", "ms", "nestforge / it [95%]"), rows))
    steps = [(name, f"{value:.0f}") for name, value in phases_ms.items()]
    console.print(make_grid("one process, step by step", ("step", "ms"), steps))
    sizes = [(name, f"{size / 1e6:.1f}") for name, size in size_bytes.items()]
    console.print(make_grid("on disk", ("what", "MB"), sizes))
    return {
        "command": f"python benchmarks/coldstart.py PHOTOS --rounds {rounds}",
        "machine": read_machine(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("openvino", "onnxruntime", "pillow", "numpy")},
        "rounds": rounds,
        "results": results,
        "phases_ms": phases_ms,
        "size_bytes": size_bytes,
    }


if __name__ == "__main__":
    run_command(main, name="coldstart")
