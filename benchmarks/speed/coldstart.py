"""From the start of the process to the first prediction: `nestforge predict` against the engines' shortest scripts.

    pip install -e '.[bench]'
    python -m benchmarks.speed.coldstart PHOTOS [--rounds N] [-o benchmarks/results/coldstart.json]

ResNeSt-50 at 224 with seeded weights in int8. Contenders, each a fresh process that classifies one photograph,
interleaved:

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

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import report
from benchmarks.speed.pipeline import PACKAGES, build_models
from nestforge.commandline import run_command
from nestforge.data.imagefolder import list_images
from nestforge.engines.model_cache import ENV_VAR
from nestforge.measure.interleave import TimedCall, run_interleaved
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.progress import show_bars

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
stamp("nestforge's modules")
artifact = nestforge.open_artifact(sys.argv[1])
stamp("manifest, hashes, labels")
import openvino
stamp("import openvino")
parallelism = nestforge.inference.pipeline.choose_parallelism(artifact, 1)
session = artifact.open_session(parallelism)
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


def list_commands(artifact: Path, peer: Path, photo: Path, caches: dict[str, Path]) -> dict[str, TimedCall[Any]]:
    """Return every contender's process, to be started again and again."""
    arguments = [str(artifact), str(photo)]
    warm, empty = ({"NESTFORGE_CACHE": str(caches[name])} for name in ("warm", "empty"))
    model = str(artifact / "model.onnx")

    def start(
        code: str, *words: str, variables: dict[str, str] | None = None, clear: Path | None = None
    ) -> TimedCall[Any]:
        command = [sys.executable, "-c", code, *words]
        environment = {**os.environ, **(variables or {})}
        call = partial(subprocess.run, command, env=environment, check=True, stdout=subprocess.DEVNULL)
        prepare = partial(shutil.rmtree, clear, ignore_errors=True) if clear else None
        return TimedCall(call, prepare=prepare)

    return {
        "nestforge": start(START, "predict", *arguments, variables=warm),
        "nestforge, first ever": start(START, "predict", *arguments, variables=empty, clear=caches["empty"]),
        "nestforge, no cache": start(START, "predict", *arguments, variables={ENV_VAR: "0"}),
        "openvino": start(LOAD + OPENVINO, model, str(photo)),
        "onnxruntime": start(LOAD + ONNXRUNTIME, str(peer), str(photo)),
        "numpy": start("import numpy"),
        "nestforge, no garbage collection": start(NO_COLLECTION, "predict", *arguments, variables=warm),
        "nestforge, no teardown": start(NO_END, "predict", *arguments, variables=warm),
    }


def measure(artifact: Path, peer: Path, photo: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Start every contender once per round, and nestforge once more to see each of its steps."""
    caches = {name: folder / name for name in ("warm", "empty")}
    commands = list_commands(artifact, peer, photo, caches)
    environment = {**os.environ, "NESTFORGE_CACHE": str(caches["warm"])}
    steps = [sys.executable, "-c", PHASES, str(artifact), str(photo)]
    phases: TimedCall[str] = TimedCall(partial(subprocess.check_output, steps, env=environment, text=True))
    # the warm-up fills the caches, nestforge's and the system's
    run_interleaved(
        [*commands.values(), phases],
        seconds=0.0,
        rounds=rounds,
        warm_up_seconds=0.0,
        description="starting",
        progress=show_bars,
    )
    found = [json.loads(output) for output in phases.results]
    return {
        "results": {
            name: {
                "median_ms": float(np.median(run.times_ms)),
                "times_ms": run.times_ms,
                "nestforge_by_this": compute_ratio_interval(commands["nestforge"].times_ms, run.times_ms),
            }
            for name, run in commands.items()
        },
        "phases_ms": {name: float(np.median([phase[name] for phase in found])) for name in found[0]},
        "size_bytes": {
            "nestforge": sum(path.stat().st_size for path in artifact.iterdir()),
            "nestforge's cache": sum(path.stat().st_size for path in caches["warm"].rglob("*") if path.is_file()),
            "onnxruntime": peer.stat().st_size,
            "float32 ONNX": (peer.parent / "fp32.onnx").stat().st_size,
        },
    }


def show(measured: dict[str, Any]) -> None:
    """Print the three tables."""
    rows = []
    for name, result in measured["results"].items():
        times_ms = result["times_ms"]
        spread = f"{result['median_ms']:.0f} ({min(times_ms):.0f} to {max(times_ms):.0f})"
        rows.append((name, spread, report.format_interval(result["nestforge_by_this"], digits=2)))
    report.show_table("one photograph, a fresh process", ("contender", "ms", "nestforge / it [95%]"), rows)
    steps = [(name, f"{value:.0f}") for name, value in measured["phases_ms"].items()]
    report.show_table("one process, step by step", ("step", "ms"), steps)
    sizes = [(name, f"{size / 1e6:.1f}") for name, size in measured["size_bytes"].items()]
    report.show_table("on disk", ("what", "MB"), sizes)


def main() -> None:
    """Build, measure, print, write."""
    parser = report.make_parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", type=Path, help="keep the built models here, and find them here")
    report.add_output(parser, "coldstart.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.models or Path(temporary) / "models"
        folder.mkdir(exist_ok=True)
        artifact, peer = build_models(args.photos, folder)
        photo = list_images(args.photos).paths[0]
        measured = measure(artifact, peer, photo, Path(temporary), args.rounds)
    show(measured)
    report.write_report(
        args.output,
        command=report.describe_command(__file__, "PHOTOS", rounds=args.rounds),
        packages=PACKAGES,
        rounds=args.rounds,
        **measured,
    )


if __name__ == "__main__":
    run_command(main, name="coldstart")
