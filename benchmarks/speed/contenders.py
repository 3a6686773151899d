"""ResNeSt on this machine's CPU: every engine and quantizer one would pick, side by side.

    pip install -e '.[torch,bench]'
    python benchmarks/contenders.py [--photos FOLDER] [--networks resnest50 ...] [--rounds N] [--models FOLDER]

One process a contender, rounds in turns with the order turned, the same images, the same threads. Weights are seeded:
speed does not depend on them. Calibrated on 8 photographs, or on generated images where none are given: ranges hardly
move the speed. A contender that cannot run here is listed with the reason. PyTorch's int8 is its PT2E flow (torchao,
x86 inductor). "by hand" is a quantizer's ONNX file executed by OpenVINO, which no documentation suggests.

Results are added to the file given by --output, a network at a time; `performance.py` makes tables and plots of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import nestforge
from benchmarks.common.peers import quantize_with_nncf, quantize_with_nncf_openvino, quantize_with_onnxruntime
from nestforge.artifact.artifact import open_artifact
from nestforge.commandline import run_command
from nestforge.compile.explain import time_kernels
from nestforge.compile.onnxfile import read_onnx, serialize
from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.config import parse_config
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.preprocess import load_image, make_reference_preprocess
from nestforge.engines import get_engine
from nestforge.engines.base import Session, Settings
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.files import write_json
from nestforge.measure.benchmark import Run
from nestforge.measure.peak import Peak, measure_peak
from nestforge.networks.zoo import get_variant
from nestforge.progress import show_bars

CALIBRATION_IMAGES = 8
SECONDS = 0.3  # a round; at least one request
BATCHES = (1, 2, 4, 8, 16)
PACKAGES = ("torch", "torchao", "openvino", "onnxruntime", "nncf", "onnx", "numpy", "nestforge")
Settings3 = tuple[int, int, int]  # batch, streams, threads
Open = Callable[["Task", Settings], Session]


@dataclass(frozen=True)
class Task:
    """What a contender's process is given: a network, and the folder with its model files."""

    network: str
    folder: Path


@dataclass(frozen=True)
class Contender:
    """How a contender opens a session, its dtype, and whether it takes part beyond resnest50."""

    open: Open
    dtype: str
    file: str = ""
    large: bool = False


def has_bf16() -> bool:
    """Tell whether OpenVINO computes in bf16 here, as it does by itself where it can."""
    return get_engine("openvino").supports("bf16")


def on_engine(engine: str, file: str, dtype: str = "int8", *, large: bool = False) -> Contender:
    """Return a model file on one of the engines; what an int8 file leaves in float runs as the engine would choose."""

    def open_session(task: Task, settings: Settings) -> Session:
        opened = get_engine(engine)
        chosen = dtype
        if dtype == "int8" and engine == "openvino":
            chosen = "bf16" if has_bf16() else "fp32"
        return opened.open(task.folder / file, dataclasses.replace(settings, dtype=chosen))

    return Contender(open_session, dtype, file, large)


def ours(folder: str, *, large: bool = False) -> Contender:
    """Return an artifact of ours, opened as `predict` and `bench` open it."""

    def open_session(task: Task, settings: Settings) -> Session:
        opened = open_artifact(task.folder / folder)
        return opened.open_session(
            batch=settings.batch, streams=settings.streams, threads=settings.threads, profile=settings.profile
        )

    return Contender(open_session, folder.split("-")[0], f"{folder}/model.onnx", large)


def open_torch(**options: bool) -> Open:
    """Return an opener of the torch module."""

    def open_session(task: Task, settings: Settings) -> Session:
        from benchmarks.common.torch_session import TorchContender  # torch is large: only in the processes that need it

        return TorchContender(task.network, settings, **options)

    return open_session


CONTENDERS = {
    "torch eager, fp32": Contender(open_torch(compiled=False), "fp32"),
    "torch.compile, fp32": Contender(open_torch(compiled=True), "fp32"),
    "torch.compile, bf16": Contender(open_torch(compiled=True, bf16=True), "bf16"),
    "torch PT2E, int8": Contender(open_torch(compiled=True, int8=True), "int8"),
    "ONNX Runtime, fp32": on_engine("onnxruntime", "given.onnx", "fp32"),
    "ONNX Runtime static, int8": on_engine("onnxruntime", "ort.onnx"),
    "OpenVINO, fp32": on_engine("openvino", "given.onnx", "fp32", large=True),
    "OpenVINO, bf16": on_engine("openvino", "given.onnx", "bf16"),
    "OpenVINO + NNCF as documented, int8": on_engine("openvino", "nncf.xml", large=True),
    "by hand: NNCF's ONNX, int8": on_engine("openvino", "nncf.onnx", large=True),
    "by hand: ORT's QDQ, int8": on_engine("openvino", "ort.onnx", large=True),
    "nestforge, fp32": ours("fp32", large=True),
    "nestforge, bf16": ours("bf16"),
    "nestforge, int8": ours("int8", large=True),
    "nestforge, int8, float_dtype bf16": ours("int8-bf16", large=True),
}
OURS = "nestforge, int8"
STREAMED = ("OpenVINO", "by hand", "nestforge")  # those whose engine runs requests side by side


def build_models(network: str, photos: Path, folder: Path) -> None:
    """Build every model file that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    size = get_variant(network).image_size
    common = {"model": {"name": network, "seed": 0}, "calibration": {"data": str(photos), "count": CALIBRATION_IMAGES}}
    for name in ("fp32", "int8", *(["bf16", "int8-bf16"] if has_bf16() else [])):
        if not (folder / name).exists():
            dtype, *rest = name.split("-")
            quantize = {"float_dtype": rest[0]} if rest else {}
            config = {**common, "dtype": dtype, "quantize": quantize, "output": str(folder / name)}
            nestforge.build(parse_config(config, source="contenders"), progress=show_bars)
    given = folder / "given.onnx"
    if not given.exists():
        config = parse_config(
            {
                **common,
                "dtype": "fp32",
                "output": str(folder / "plain"),
                "passes": {"split_radix": False, "unfold_radix": False},
            },
            source="contenders",
        )
        nestforge.build(config, overwrite=True, progress=show_bars)
        model = read_onnx(folder / "plain" / "model.onnx")
        fold_batch_norm(model)
        given.write_bytes(serialize(model))
    preprocess = make_reference_preprocess(size)
    paths = choose_balanced(list_images(photos), CALIBRATION_IMAGES, seed=0)
    samples = [load_image(path, preprocess)[None] for path in paths]
    for file, quantize in (
        ("nncf.onnx", quantize_with_nncf),
        ("nncf.xml", quantize_with_nncf_openvino),
        ("ort.onnx", quantize_with_onnxruntime),
    ):
        if not (folder / file).exists():
            quantize(given, samples, folder / file)


def generate_photos(folder: Path) -> Path:
    """Write smooth random images, for where there are no photographs."""
    rng = np.random.default_rng(0)
    for index in range(CALIBRATION_IMAGES):
        path = folder / f"class{index}" / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480)).save(path)
    return folder


def serve(connection: Connection, name: str, task: Task) -> None:
    """Run in a contender's process: open settings and run rounds as told; answer with images a second or a reason."""
    os.environ["TORCHINDUCTOR_FREEZING"] = "1"  # the documented switch for inference
    runs: dict[Settings3, Run] = {}
    size = get_variant(task.network).image_size
    while (key := connection.recv()) is not None:
        try:
            if key not in runs:
                runs.clear()  # a setting at a time: memory
                batch, streams, threads = key
                settings = Settings(batch=batch, height=size, width=size, streams=streams, threads=threads)
                runs[key] = Run(CONTENDERS[name].open(task, settings))
                runs[key].spend(SECONDS, record=False)
            runs[key].spend(SECONDS, record=True)
            connection.send(runs[key].throughputs[-1])
        except Exception as error:  # whatever a contender raises is its result
            connection.send(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")


def race(names: list[str], task: Task, settings: Settings3, rounds: int) -> dict[str, list[float] | str]:
    """Run the contenders in turns; return images a second by round, or the reason why there are none."""
    context = multiprocessing.get_context("spawn")
    processes = {}
    for name in names:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, name, task), daemon=True)
        process.start()
        theirs.close()
        processes[name] = (process, ours)
    results: dict[str, list[float] | str] = {name: [] for name in names}
    batch, streams, threads = settings
    with show_bars(f"{task.network}: batch {batch}, streams {streams}, threads {threads}", rounds + 1) as advance:
        for turn in range(rounds + 1):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                found = results[name]
                if isinstance(found, str):
                    continue
                connection = processes[name][1]
                try:
                    connection.send(settings)
                    answer = connection.recv()
                except (EOFError, OSError):
                    answer = "its process died"
                if isinstance(answer, str):
                    results[name] = answer
                elif turn:
                    found.append(answer)
            advance(1)
    for process, connection in processes.values():
        try:
            connection.send(None)
        except OSError:
            process.kill()
        process.join(20)
        if process.is_alive():
            process.kill()
    return results


def measure(network: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure a network: every setting, batch sizes, layer types, peaks."""
    cores = count_available_cores()
    main = network == "resnest50"
    task = Task(network, folder)
    names = [name for name, contender in CONTENDERS.items() if main or contender.large]
    before = measure_peaks(cores)
    if not has_bf16():
        names = [name for name in names if "bf16" not in name]
    many = 8 if main else 2
    table: list[Settings3] = [(1, 1, cores), (many, 1, cores), *([(1, 1, 1)] if main and cores > 1 else [])]
    results: dict[str, Any] = {}
    for settings in table:  # compiling for another number of threads takes minutes and tells little
        taking_part = [name for name in names if settings[2] == cores or not name.startswith("torch")]
        results[str(settings)] = race(taking_part, task, settings, rounds)
    streamed = [name for name in names if name.startswith(STREAMED)]
    if cores > 1:
        results[str((2, cores, cores))] = race(streamed, task, (2, cores, cores), rounds)
    batches: dict[str, Any] = {}
    kernels: dict[str, Any] = {}
    size = get_variant(network).image_size
    if main:
        several = [name for name in names if name.startswith(("nestforge", "by hand", "ONNX Runtime static"))]
        for batch in BATCHES:
            batches[str(batch)] = race(several, task, (batch, 1, cores), max(3, rounds // 3))
        for name in streamed:
            settings = Settings(batch=8, height=size, width=size, threads=cores, profile=True)
            kernels[name] = time_kernels(CONTENDERS[name].open(task, settings))
    after = measure_peaks(cores)
    peaks = {  # whatever else ran on the machine meanwhile only lowers a peak
        key: max((one, after[key]), key=lambda peak: peak.macs_per_second if peak else 0.0)
        for key, one in before.items()
    }
    floats = {
        name: sum(
            kernel.layer_type == "Convolution" and kernel.precision not in ("u8", "i8")
            for kernel in CONTENDERS[name].open(task, Settings(height=size, width=size, threads=cores)).list_kernels()
        )
        for name in streamed
    }
    return {
        "macs": open_artifact(folder / "int8").manifest.kernel_macs,
        "size": size,
        "rounds": rounds,
        "cores": cores,
        "dtypes": {name: contender.dtype for name, contender in CONTENDERS.items()},
        "images_a_second": results,
        "images_a_second_by_batch": batches,
        "kernels": kernels,
        "float_convolutions": floats,
        "peaks": peaks,
        "passes": open_artifact(folder / "int8").manifest.passes,
    }


def measure_peaks(cores: int) -> dict[str, Peak | None]:
    """Return the peak of every dtype on one core and on all."""
    return {
        f"{dtype}, {threads}": measure_peak(dtype, threads)
        for dtype in ("fp32", "int8", "bf16")
        for threads in sorted({1, cores})
    }


def read_version(package: str) -> str:
    """Return an installed package's version, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Build, race, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs to calibrate on")
    parser.add_argument("--networks", nargs="+", default=["resnest50"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", type=Path, help="keep the built models here, and find them here")
    parser.add_argument("--build-only", action="store_true", help="build the models and stop")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.models or Path(temporary)
        photos = args.photos or generate_photos(Path(temporary) / "photos")
        for network in args.networks:
            build_models(network, photos, folder / network)
            if args.build_only:
                continue
            result = measure(network, folder / network, args.rounds)
            write_json(
                {
                    "command": f"python benchmarks/contenders.py --photos FOLDER --networks {network} "
                    f"--rounds {args.rounds}",
                    "machine": read_machine(),
                    "python": platform.python_version(),
                    "versions": {package: read_version(package) for package in PACKAGES},
                    "network": network,
                    **result,
                },
                str(args.output / f"contenders-{network}.json"),
            )


if __name__ == "__main__":
    run_command(main, name="contenders")
