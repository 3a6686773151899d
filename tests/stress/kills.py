"""kill -9 at random moments: the work goes on, nothing is lost, and nothing counts twice.

    python -m tests.stress.kills [--kills 200] [--work evaluate vamp ...] [--seed 0] [-o benchmarks/results/kills.json]

Each work is run once without a disturbance. Then it is started, killed after a random part of that time, and started
again, until it ends by itself; its result must be the undisturbed one, byte for byte and with no file more; of
`sensitivity` but for the times. The images that all the runs classified or converted (of `sensitivity`: the layers that
they measured), beyond those of the undisturbed run, were done twice.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import nestforge
from benchmarks.common.report import ROOT, add_output, describe_command, make_parser, show_table, write_report
from nestforge.commandline import run_command
from nestforge.errors import NestForgeError
from nestforge.progress import show_bars
from tests.support.vacc import make_vdsp

SAMPLE = ROOT / "examples" / "fashion_mnist" / "sample.zip"
CONFIG = ROOT / "configs" / "fashion_mnist_int8.yaml"


@dataclass(frozen=True)
class Work:
    """A command line; `results` are what it makes in `out`: a file that stands first is written at the very end."""

    arguments: Callable[[Path, Path], tuple[str, ...]]  # of the folder of inputs and of `out`
    results: tuple[str, ...]
    times: tuple[str, ...] = ()  # keys of a JSON result that no two runs have alike


WORKS = {
    "evaluate": Work(
        lambda data, out: ("nestforge", "evaluate", f"{data}/int8", f"{data}/images", "--json", f"{out}/result.json"),
        ("result.json",),
        times=("seconds",),
    ),
    "evaluate --vs": Work(
        lambda data, out: (
            *("nestforge", "evaluate", f"{data}/int8", f"{data}/images", "--vs", f"{data}/fp32"),
            *("--json", f"{out}/result.json"),
        ),
        ("result.json",),
        times=("seconds",),
    ),
    "image2npz": Work(
        lambda data, out: (
            *("image2npz", "--dataset_path", f"{data}/images", "--target_path", f"{out}/npz"),
            *("--text_path", f"{out}/list.txt"),
        ),
        ("list.txt", "npz"),
    ),
    "vamp": Work(lambda data, out: _vamp(data, out, "-b", "8", "-i", "2"), ("results",)),
    "sensitivity": Work(
        lambda data, out: ("nestforge", "sensitivity", f"{data}/int8", "--json", f"{out}/result.json"),
        ("result.json",),
        times=("seconds", "time_share"),
    ),
    "build with max_drop": Work(
        lambda data, out: ("nestforge", "build", f"{data}/max_drop.yaml", "--set", f"output={out}/artifact"),
        ("artifact/model.onnx",),  # the manifest holds measured times
    ),
    "vamp -p 2": Work(lambda data, out: _vamp(data, out, "-b", "4", "-p", "2"), ("results",)),
}


def _vamp(data: Path, out: Path, *flags: str) -> tuple[str, ...]:
    model = ("vamp", "-m", f"{data}/int8", "--vdsp_params", f"{data}/vdsp.json", *flags)
    return (*model, "--datalist", f"{data}/list.txt", "--path_output", f"{out}/results")


def prepare(folder: Path, repeat: int) -> None:
    """Unpack the shipped images `repeat` times, build the artifacts, convert the images."""
    with zipfile.ZipFile(SAMPLE) as archive:
        archive.extractall(folder / "sample")
    for image in (folder / "sample" / "test").rglob("*.png"):
        target = folder / "images" / image.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for number in range(repeat):
            (target / f"{number}_{image.name}").hardlink_to(image)
    config = yaml.safe_load(CONFIG.read_text())
    config["model"]["onnx"] = str(ROOT / config["model"]["onnx"])
    config["labels"] = str(ROOT / config["labels"])
    config["calibration"] = {"data": str(folder / "sample" / "calibration"), "count": 50}
    for dtype in ("int8", "fp32"):
        nestforge.build(config | {"dtype": dtype, "output": str(folder / dtype)})
    config["quantize"] |= {"max_drop": 5, "validation": {"data": str(folder / "images")}}
    (folder / "max_drop.yaml").write_text(yaml.safe_dump(config))
    (folder / "vdsp.json").write_text(json.dumps(make_vdsp(56)))
    command = WORKS["image2npz"].arguments(folder, folder)
    run_until(command, folder / "unused", None)


def run_until(arguments: tuple[str, ...], counter: Path, seconds: float | None) -> tuple[bool, float]:
    """Run the command and kill it after `seconds`; return whether it came to its end, and how long it ran.

    Raises:
        NestForgeError: it failed by itself.
    """
    begin = time.perf_counter()
    environment = os.environ | {"NESTFORGE_CACHE": str(counter.parent / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stress.counting", str(counter), *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        _, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return process.returncode == 0, time.perf_counter() - begin
    if process.returncode != 0:
        raise NestForgeError(f"{' '.join(arguments)} failed with {process.returncode}: {stderr}")
    return True, time.perf_counter() - begin


def read_results(work: Work, out: Path) -> dict[str, bytes]:
    """Return every file of the results, hidden ones too, with the folder's own name taken out of the content."""
    found = {}
    for name in work.results:
        paths = sorted((out / name).rglob("*")) if (out / name).is_dir() else [out / name]
        for path in paths:
            if path.is_file():
                found[str(path.relative_to(out))] = path.read_bytes().replace(str(out).encode(), b"OUT")
        if work.times:
            found[name] = json.dumps(_leave_out(json.loads(found[name]), work.times)).encode()
    return found


def _leave_out(value: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _leave_out(inner, keys) for key, inner in value.items() if key not in keys}
    return [_leave_out(inner, keys) for inner in value] if isinstance(value, list) else value


def try_work(name: str, data: Path, scratch: Path, kills: int, images: int, rng: random.Random) -> dict[str, Any]:
    """Kill one work `kills` times; return what happened."""
    work = WORKS[name]
    counted = name not in ("vamp -p 2", "build with max_drop")  # other processes; several passes
    (scratch / "plain").mkdir(parents=True)
    _, seconds = run_until(work.arguments(data, scratch / "plain"), scratch / "plain" / "counter", None)
    expected = read_results(work, scratch / "plain")
    needed = (scratch / "plain" / "counter").stat().st_size
    killed = completed = wrong = twice = worst = 0
    with show_bars(name, kills) as advance:
        while killed < kills:
            out = scratch / "out"
            out.mkdir()
            here, ended = 0, False
            while not ended:
                ended, _ = run_until(work.arguments(data, out), out / "counter", rng.uniform(0, seconds))
                here += not ended
                advance(not ended)
                ended = ended or (out / work.results[0]).is_file()  # killed after its last word
            killed += here
            completed += 1
            wrong += read_results(work, out) != expected
            if counted:
                extra = (out / "counter").stat().st_size - needed
                twice += extra
                worst = max(worst, -(-extra // max(here, 1)))
            shutil.rmtree(out)
    return {
        "images": needed if counted else images,
        "seconds": seconds,
        "kills": killed,
        "completed": completed,
        "wrong_results": wrong,
        "done_twice": twice if counted else None,
        "done_twice_per_kill_at_most": worst if counted else None,
    }


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def main() -> None:
    """Kill, compare, print, write."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--kills", type=int, default=200, help="of all works together, at least")
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=4, help="how often each of the 2,000 images is there")
    add_output(parser, "kills.json")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    work = None if len(args.work) == len(WORKS) else args.work
    command = describe_command(__file__, kills=args.kills, work=work, seed=args.seed, repeat=args.repeat)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        data, scratch = Path(folder, "data"), Path(folder, "scratch")
        data.mkdir()
        prepare(data, args.repeat)
        kills = -(-args.kills // len(args.work))
        for name in args.work:
            results[name] = try_work(name, data, scratch, kills, 2000 * args.repeat, rng)
            shutil.rmtree(scratch)
            write_report(args.output, command=command, works=results)
    columns = ("work", "images (layers)", "seconds", "kills", "completed", "wrong", "done twice", "at most per kill")
    keys = ("images", "seconds", "kills", "completed", "wrong_results", "done_twice", "done_twice_per_kill_at_most")
    rows = [(name, *(_format(row[key]) for key in keys)) for name, row in results.items()]
    show_table("kill -9 at random moments", columns, rows)
    if any(row["wrong_results"] for row in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main, name="kills")
