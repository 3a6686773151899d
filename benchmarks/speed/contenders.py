"""ResNeSt on this machine's CPU: every engine and quantizer one would pick, side by side.

    pip install -e '.[torch,bench]'
    python -m benchmarks.speed.contenders [--photos FOLDER] [--networks resnest50 ...] [--rounds N] [--models FOLDER]

One process per contender, interleaved in short rounds, the same images, the same threads. Weights are seeded: speed
does not depend on them. Calibrated on 8 photographs, or on generated images where none are given: ranges hardly move
the speed. A contender that cannot run here is listed with the reason. PyTorch's int8 is its PT2E flow (torchao, x86
inductor). "hand-tuned" is a quantizer's ONNX file executed by OpenVINO, which no documentation suggests.

Results are written to the folder given by --output, a file per network; `benchmarks.speed.tables` makes tables and
plots of them.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.extras import require
from benchmarks.common.images import LazySamples, generate_photos
from benchmarks.common.models import build_seeded, write_float32
from benchmarks.common.peers import quantize_with_nncf, quantize_with_nncf_openvino, quantize_with_onnxruntime
from benchmarks.common.processes import RemoteRun, interleave_processes
from benchmarks.common.report import RESULTS, describe_command, make_parser, write_report
from nestforge.artifact.artifact import open_artifact
from nestforge.commandline import run_command
from nestforge.compile.explain import time_kernels
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.preprocess import make_reference_preprocess
from nestforge.engines import get_engine
from nestforge.engines.base import Dtype, Session, Settings
from nestforge.engines.machine import count_available_cores
from nestforge.measure.interleave import Run
from nestforge.measure.peak import Peak, measure_peak
from nestforge.networks.zoo import get_variant

MAIN_NETWORK = "resnest50"  # the one that every contender runs, with every batch
CALIBRATION_IMAGES = 8
SECONDS = 0.3  # per round; at least one request
BATCHES = (1, 2, 4, 8, 16)
PACKAGES = ("torch", "torchao", "openvino", "onnxruntime", "nncf", "onnx", "numpy", "nestforge")
Setting = tuple[int, int, int]  # batch, streams, threads
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
    dtype: Dtype
    large: bool = False


def has_bf16() -> bool:
    """Tell whether OpenVINO computes in bf16 here, as it does by itself where it can."""
    return get_engine("openvino").supports("bf16")


def on_engine(engine: str, file: str, dtype: Dtype = "int8", *, large: bool = False) -> Contender:
    """Return a model file on one of the engines; what an int8 file leaves in float runs as the engine would choose."""

    def open_session(task: Task, settings: Settings) -> Session:
        chosen = dtype
        if dtype == "int8" and engine == "openvino":
            chosen = "bf16" if has_bf16() else "fp32"
        return get_engine(engine).open(task.folder / file, dataclasses.replace(settings, dtype=chosen))

    return Contender(open_session, dtype, large)


def on_nestforge(folder: str, dtype: Dtype, *, large: bool = False) -> Contender:
    """Return an artifact, opened as `predict` and `bench` open it."""

    def open_session(task: Task, settings: Settings) -> Session:
        opened = open_artifact(task.folder / folder)
        return opened.open_session(settings, profile=settings.profile)

    return Contender(open_session, dtype, large)


def open_torch(*, compiled: bool, **options: bool) -> Open:
    """Return an opener of the torch module."""

    def open_session(task: Task, settings: Settings) -> Session:
        os.environ["TORCHINDUCTOR_FREEZING"] = "1"  # the documented switch for inference, read at the import
        from benchmarks.common.torch_session import TorchSession

        return TorchSession(task.network, settings, compiled=compiled, **options)

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
    "hand-tuned: NNCF's ONNX, int8": on_engine("openvino", "nncf.onnx", large=True),
    "hand-tuned: ORT's QDQ, int8": on_engine("openvino", "ort.onnx", large=True),
    "nestforge, fp32": on_nestforge("fp32", "fp32", large=True),
    "nestforge, bf16": on_nestforge("bf16", "bf16"),
    "nestforge, int8": on_nestforge("int8", "int8", large=True),
    "nestforge, int8, float_dtype bf16": on_nestforge("int8-bf16", "int8", large=True),
}
STREAMED = ("OpenVINO", "hand-tuned", "nestforge")  # those whose engine runs requests side by side


def build_models(network: str, photos: Path, folder: Path) -> None:
    """Build every model file that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("fp32", "int8", *(["bf16", "int8-bf16"] if has_bf16() else [])):
        dtype, *rest = name.split("-")
        quantize = {"float_dtype": rest[0]} if rest else {}
        build_seeded(network, folder / name, photos=photos, count=CALIBRATION_IMAGES, dtype=dtype, quantize=quantize)
    given = write_float32(network, folder / "given.onnx")
    paths = choose_balanced(list_images(photos), CALIBRATION_IMAGES, seed=0)
    samples = LazySamples(paths, make_reference_preprocess(get_variant(network).image_size))
    for file, quantizer in (
        ("nncf.onnx", quantize_with_nncf),
        ("nncf.xml", quantize_with_nncf_openvino),
        ("ort.onnx", quantize_with_onnxruntime),
    ):
        if not (folder / file).exists():
            quantizer(given, samples, folder / file)


def open_run(name: str, task: Task, settings: Settings) -> Run:
    """Open a contender, in its own process."""
    return Run(CONTENDERS[name].open(task, settings))


def compare(names: list[str], task: Task, setting: Setting, rounds: int) -> dict[str, list[float] | str]:
    """Interleave contenders; return images per second, one for each round, or the reason why there are none."""
    batch, streams, threads = setting
    size = get_variant(task.network).image_size
    settings = Settings(batch=batch, height=size, width=size, streams=streams, threads=threads)
    runs = {name: RemoteRun(open_run, name, task, settings) for name in names}
    interleave_processes(
        runs,
        seconds=SECONDS * rounds,
        rounds=rounds,
        warm_up_seconds=2 * SECONDS,
        description=f"{task.network}: batch {batch}, streams {streams}, threads {threads}",
    )
    return {name: run.failure or run.throughputs for name, run in runs.items()}


def measure(network: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure a network: every setting, batch sizes, layer types, peaks."""
    cores = count_available_cores()
    main = network == MAIN_NETWORK
    task = Task(network, folder)
    names = [name for name, contender in CONTENDERS.items() if main or contender.large]
    before = measure_peaks(cores)
    if not has_bf16():
        names = [name for name in names if "bf16" not in name]
    many = 8 if main else 2
    table: list[Setting] = [(1, 1, cores), (many, 1, cores), *([(1, 1, 1)] if main and cores > 1 else [])]
    results: dict[str, Any] = {}
    for setting in table:  # compiling for another number of threads takes minutes and tells little
        taking_part = [name for name in names if setting[2] == cores or not name.startswith("torch")]
        results[str(setting)] = compare(taking_part, task, setting, rounds)
    streamed = [name for name in names if name.startswith(STREAMED)]
    if cores > 1:
        results[str((2, cores, cores))] = compare(streamed, task, (2, cores, cores), rounds)
    batches: dict[str, Any] = {}
    kernels: dict[str, Any] = {}
    size = get_variant(network).image_size
    if main:
        several = [name for name in names if name.startswith(("nestforge", "hand-tuned", "ONNX Runtime static"))]
        for batch in BATCHES:
            batches[str(batch)] = compare(several, task, (batch, 1, cores), max(3, rounds // 3))
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
        "images_per_second": results,
        "images_per_second_by_batch": batches,
        "kernels": kernels,
        "float_convolutions": floats,
        "peaks": peaks,
        "passes": open_artifact(folder / "int8").manifest.passes,
    }


def measure_peaks(cores: int) -> dict[str, Peak | None]:
    """Return the peak of every dtype on one core and on all."""
    dtypes: tuple[Dtype, ...] = ("fp32", "int8", "bf16")
    return {f"{dtype}, {threads}": measure_peak(dtype, threads) for dtype in dtypes for threads in sorted({1, cores})}


def main() -> None:
    """Build, measure, write."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--photos", type=Path, help="folder of photographs to calibrate on")
    parser.add_argument("--networks", nargs="+", default=["resnest50"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", type=Path, help="keep the built models here, and find them here")
    parser.add_argument("--build-only", action="store_true", help="build the models and stop")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder for the results")
    args = parser.parse_args()
    require("nncf", "torch", "torchao")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.models or Path(temporary)
        photos = args.photos or generate_photos(Path(temporary) / "photos", CALIBRATION_IMAGES)
        for network in args.networks:
            build_models(network, photos, folder / network)
            if args.build_only:
                continue
            photos_given = "FOLDER" if args.photos else None
            write_report(
                args.output / f"contenders-{network}.json",
                command=describe_command(__file__, photos=photos_given, networks=network, rounds=args.rounds),
                packages=PACKAGES,
                network=network,
                **measure(network, folder / network, args.rounds),
            )


if __name__ == "__main__":
    run_command(main, name="contenders")
