"""int8 of trained networks against their float32 on the same labelled images: nestforge in every mode, and the peers.

    pip install -e '.[bench,torch]'
    python -m benchmarks.accuracy.quantizers --network resnest14 --config BUILD.yaml --dataset LABELLED_FOLDER
    python -m benchmarks.accuracy.quantizers --network lite0 --config LITE0.yaml --dataset PHOTOS --halves
    python -m benchmarks.accuracy.tables                 # writes the tables of the documents

BUILD.yaml is an int8 build file; `benchmarks.accuracy.lite0` exports the network of LITE0.yaml. Every group of rows (a
peer, or nestforge with one calibration set in every mode) runs in a process of its own; finished groups are kept in the
output, so that an interrupted run continues. Every contender is executed by OpenVINO and compared with float32 image by
image. With `--halves` there is one data set only: the first image of each class calibrates what is evaluated on the
second, and the other way round.

"exact" rows execute the same file without int8 kernels, each QuantizeLinear and DequantizeLinear as the ONNX standard
defines it: sums that saturate nowhere.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from benchmarks.accuracy.reference import Fold, Reference, make_folds
from benchmarks.common.extras import require
from benchmarks.common.peers import Quantizer, quantize_with_nncf, quantize_with_onnxruntime
from benchmarks.common.processes import call_alone
from benchmarks.common.report import add_output, describe_environment, make_parser, read_report
from nestforge.commandline import run_command
from nestforge.compile.build import read_peak_rss_bytes
from nestforge.compile.calibrate import CalibrationMode
from nestforge.compile.onnxfile import serialize
from nestforge.compile.plan import Prepared, QuantizationPlan, prepare
from nestforge.compile.source import load_source
from nestforge.config import PassSection, read_config
from nestforge.engines import get_engine
from nestforge.engines.base import Dtype
from nestforge.files import write_json
from nestforge.measure.statistics import compare_paired, compute_rate
from nestforge.progress import no_progress

MODES: tuple[CalibrationMode, ...] = ("percentile", "max", "kl_divergence", "mse")
COUNTS = (50, 300, 2000)
HALVES_COUNTS = (50, 150)
SEEDS = (0, 1, 2)
DEFAULT_COUNT = 300  # of the peers, and of what changes one thing at a time
CHANGES = "nestforge, one change at a time"
PACKAGES = ("openvino", "onnxruntime", "nncf", "onnx", "numpy")
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
Row = dict[str, Any]
Outcome = tuple[Row, Reference, npt.NDArray[np.int64]]  # the last are the best five classes (N, 5)


def list_groups(*, halves: bool) -> list[str]:
    """Return the names of everything to run, the quick and telling first."""
    counts = HALVES_COUNTS if halves else COUNTS
    modes = [f"nestforge {count} {seed}" for seed in SEEDS for count in counts]
    bf16 = ["bf16"] if get_engine("openvino").supports("bf16") else []
    return ["float32", *bf16, CHANGES, *PEERS, *modes]


def measure_group(name: str, config: Path, dataset: Path, halves: bool) -> list[Row]:
    """Build and evaluate one group."""
    with tempfile.TemporaryDirectory() as folder:
        folds = make_folds(read_config(config), dataset, halves=halves, folder=Path(folder))
        return summarize([outcome for fold in folds for outcome in run_group(name, fold)])


def summarize(outcomes: list[Outcome]) -> list[Row]:
    """Return a row for each contender; what several folds say of the same one is counted together."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(json.dumps({**outcome[0], "seconds": 0}), []).append(outcome)
    rows = []
    for group in groups.values():
        truth = np.concatenate([np.array(reference.fold.truth) for _, reference, _ in group])
        expected = np.concatenate([reference.expected for _, reference, _ in group])
        found = np.concatenate([predictions for _, _, predictions in group])
        hits, expected_hits = found == truth[:, None], expected == truth[:, None]
        rows.append(
            {
                **group[0][0],
                "seconds": sum(row["seconds"] for row, _, _ in group) / len(group),
                "peak_rss_bytes": read_peak_rss_bytes(),
                "images": len(truth),
                "top1": compute_rate(int(hits[:, 0].sum()), len(truth)),
                "top5": compute_rate(int(hits.any(1).sum()), len(truth)),
                "paired": compare_paired(hits[:, 0], expected_hits[:, 0]),
                "changed_predictions": int((found[:, 0] != expected[:, 0]).sum()),
            }
        )
    return rows


def run_group(name: str, fold: Fold) -> Iterator[Outcome]:
    """Build and run every contender of a group on one fold."""
    if name in ("float32", "bf16"):
        source = load_source(fold.config, no_progress)
        reference = Reference(fold, source)
        predictions = reference.expected
        if name == "bf16":
            predictions = reference.predict(serialize(source.model), dtype="bf16")
        yield {"contender": name, "seconds": 0.0}, reference, predictions
    elif name in PEERS:
        yield from _run_peer(name, fold)
    elif name == CHANGES:
        yield from _run_changes(fold)
    else:
        count, seed = map(int, name.split()[1:])
        yield from _run_modes(fold, count, seed)


def _run_peer(name: str, fold: Fold) -> Iterator[Outcome]:
    prepared, reference, _ = _prepare(fold, DEFAULT_COUNT, 0, dtype="fp32")
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
        yield row, reference, reference.predict(model, exact=exact)


def _run_changes(fold: Fold) -> Iterator[Outcome]:
    prepared, reference, seconds = _prepare(fold, DEFAULT_COUNT, 0, dtype="int8")
    plan = _get_plan(prepared)
    variants: list[tuple[str, QuantizationPlan, bool, Dtype]] = [
        ("the default", plan, False, "fp32"),
        ("the default, exact sums", plan, True, "fp32"),
        ("no bias correction", replace(plan, means=None), False, "fp32"),
    ]
    other = replace(plan, avoid_saturation=not plan.avoid_saturation)
    if plan.avoid_saturation:
        variants.append(("full-range weights, exact sums (the default where nothing saturates)", other, True, "fp32"))
    else:
        variants.append(("weights that saturate nowhere (the default on CPUs without VNNI)", other, False, "fp32"))
    if get_engine("openvino").supports("bf16"):
        variants.append(("what stays in float computed in bf16", plan, False, "bf16"))
    for changed, variant, exact, dtype in variants:
        row = _describe(prepared, seed=0) | {"changed": changed, "exact": exact, "seconds": seconds}
        yield row, reference, reference.predict(_quantize(prepared, variant), exact=exact, dtype=dtype)


def _run_modes(fold: Fold, count: int, seed: int) -> Iterator[Outcome]:
    prepared, reference, calibrating = _prepare(fold, count, seed, dtype="int8")
    plan = _get_plan(prepared)
    for mode in MODES:
        begin = time.perf_counter()
        ranges = {key: histogram.find_range(mode, 99.999) for key, histogram in plan.histograms.items()}
        finding = time.perf_counter() - begin
        for per_channel in (True, False):
            begin = time.perf_counter()
            model = _quantize(prepared, replace(plan, ranges=ranges, per_channel=per_channel))
            seconds = calibrating + finding + time.perf_counter() - begin
            row = _describe(prepared, seed) | {"mode": mode, "per_channel": per_channel, "seconds": seconds}
            yield row, reference, reference.predict(model)


def _describe(prepared: Prepared, seed: int) -> Row:
    return {"contender": "nestforge", "calibration": len(prepared.images), "seed": seed, "exact": False}


def _get_plan(prepared: Prepared) -> QuantizationPlan:
    assert prepared.plan is not None  # of an int8 build
    return prepared.plan


def _prepare(fold: Fold, count: int, seed: int, *, dtype: Dtype) -> tuple[Prepared, Reference, float]:
    """Return the build before anything is quantized, its reference, and the seconds that calibrating took."""
    section = fold.config.calibration
    assert section is not None  # make_folds refuses it
    changes: dict[str, object] = {
        "dtype": dtype,
        "calibration": section.model_copy(update={"count": count, "seed": seed}),
    }
    if dtype == "fp32":  # what peers get: the graph as it is exported
        changes["passes"] = PassSection(fold_pads=False, unfold_radix=False, split_radix=False)
    config = fold.config.model_copy(update=changes)
    source = load_source(config, no_progress)
    reference = Reference(fold, source)
    begin = time.perf_counter()
    prepared = prepare(config, source, no_progress)
    return prepared, reference, time.perf_counter() - begin


def _quantize(prepared: Prepared, plan: QuantizationPlan) -> bytes:
    model = ir.from_proto(ir.to_proto(prepared.source.model))
    plan.apply(model)
    return serialize(model)


def main() -> None:
    """Run every group that the output does not hold yet, each in a process of its own."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--network", required=True, help="what its rows are called")
    parser.add_argument("--config", type=Path, required=True, help="int8 build file")
    parser.add_argument("--dataset", type=Path, required=True, help="labelled folder")
    parser.add_argument("--halves", action="store_true", help="calibrate on one half, evaluate on the other")
    parser.add_argument("--limit", type=int, help="run at most this many groups")
    add_output(parser, "accuracy.json")
    args = parser.parse_args()
    results = read_report(args.output)
    results |= describe_environment(PACKAGES)
    done = results.setdefault("networks", {}).setdefault(args.network, {})
    missing = [name for name in list_groups(halves=args.halves) if name not in done][: args.limit]
    if any(name.startswith("NNCF") for name in missing):
        require("nncf")
    for name in missing:
        print(f"{args.network}: {name}", file=sys.stderr, flush=True)
        done[name] = call_alone(measure_group, name, args.config, args.dataset, args.halves)
        write_json(results, str(args.output))


if __name__ == "__main__":
    run_command(main, name="quantizers")
