"""The speedup of each graph optimization pass, for every way a network comes in.

    pip install -e '.[torch]'
    python -m benchmarks.speed.passes --photos FOLDER [--foreign BUILD.yaml] [-o benchmarks/results/passes.json]

ResNeSt-50 as `nestforge` writes it, and as PyTorch exports the module with a fifth dimension for the radix (as timm
writes it too); for pads the network of a build file. Each is built with a pass on and off, and both are interleaved
(`nestforge build --explain` does the same for any build file). The commit is that of the working tree. With `--pass`,
rows of others stay in the output as they are.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import nestforge
from benchmarks.common.extras import require
from benchmarks.common.report import (
    add_output,
    describe_command,
    format_interval,
    make_parser,
    read_report,
    show_table,
    write_report,
)
from benchmarks.common.torch_export import export_module
from nestforge.artifact.artifact import open_artifact
from nestforge.commandline import run_command
from nestforge.config import read_config
from nestforge.engines.base import Parallelism
from nestforge.engines.machine import count_available_cores
from nestforge.measure.interleave import Run, run_interleaved
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from nestforge.progress import show_bars

ROUNDS, SECONDS = 25, 10.0
ON_AND_OFF = {"unfold_radix": {"split_radix": False}, "split_radix": {"unfold_radix": True}, "fold_pads": {}}
CASES = [
    ("split_radix", "nestforge", "openvino", "int8"),
    ("split_radix", "nestforge", "openvino", "fp32"),
    ("unfold_radix", "exported", "openvino", "int8"),
    ("unfold_radix", "exported", "openvino", "fp32"),
    ("fold_pads", "foreign", "openvino", "int8"),
    ("fold_pads", "foreign", "openvino", "fp32"),
]


def export_resnest(path: Path) -> Path:
    """Export the torch module of ResNeSt-50."""
    from nestforge.engines.torch import load_module

    variant = get_variant("resnest50")
    return export_module(load_module(variant, make_seeded_weights(variant, 0)), path, size=224)


def describe(graph: str, photos: Path, folder: Path, foreign: Path | None) -> dict[str, Any]:
    """Return the build file of a case's graph."""
    if graph == "foreign":
        assert foreign is not None
        return read_config(foreign).model_dump(mode="json")
    return {
        "model": {"name": "resnest50", "seed": 0} if graph == "nestforge" else {"onnx": str(folder / "exported.onnx")},
        "calibration": {"data": str(photos), "count": 8},
        "preprocess": {"ops": [{"op": "ecenter_crop", "size": 224}]},
    }


def compare(
    name: str, graph: str, engine: str, dtype: str, config: dict[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """Build with and without the pass, and measure both interleaved at batch 1 and 8."""
    base = {**config, "dtype": dtype, "engine": engine}
    built = []
    for on in (True, False):
        output = folder / f"{name}-{graph}-{engine}-{dtype}-{on}"
        changed = {**base, "passes": {**ON_AND_OFF[name], name: on}, "output": str(output)}
        nestforge.build(changed, progress=show_bars)
        built.append(open_artifact(output))
    rows = []
    for batch in (1, 8):
        with_pass, without_pass = (Run(artifact.open_session(Parallelism.make(batch=batch))) for artifact in built)
        run_interleaved(
            [with_pass, without_pass],
            seconds=SECONDS,
            rounds=ROUNDS,
            description=f"{name}, {graph}, {engine}, {dtype}, batch {batch}",
            progress=show_bars,
        )
        ratio, low, high = compute_ratio_interval(with_pass.throughputs, without_pass.throughputs)
        with_ms, without_ms = (run.summarize_latency().p50 / batch for run in (with_pass, without_pass))
        rows.append(
            {
                "name": name,
                "graph": Path(config["model"]["onnx"]).stem if graph == "foreign" else graph,
                "engine": engine,
                "dtype": dtype,
                "batch": batch,
                "matches": built[0].manifest.passes[name],
                "with_ms": with_ms,
                "without_ms": without_ms,
                "ratio": ratio,
                "low": low,
                "high": high,
            }
        )
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs to calibrate on")
    parser.add_argument("--foreign", type=Path, help="build file of a network with pads of its own, for fold_pads")
    parser.add_argument(
        "--pass", dest="passes", nargs="+", choices=ON_AND_OFF, default=list(ON_AND_OFF), help="default: all"
    )
    add_output(parser, "passes.json")
    args = parser.parse_args()
    if "unfold_radix" in args.passes:
        require("torch")
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    rows = [row for row in read_report(args.output).get("rows", []) if row["name"] not in args.passes]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "unfold_radix" in args.passes:
            export_resnest(folder / "exported.onnx")
        for case in CASES:
            if case[0] not in args.passes or (case[1] == "foreign" and args.foreign is None):
                continue
            config = describe(case[1], args.photos, folder, args.foreign)
            rows += [{**row, "commit": commit} for row in compare(*case, config, folder)]
    lines = [
        (
            f"{row['name']}, {row['graph']}, {row['engine']}, {row['dtype']}, batch {row['batch']}",
            f"{row['without_ms']:.2f}",
            f"{row['with_ms']:.2f}",
            format_interval((row["ratio"], row["low"], row["high"])),
        )
        for row in rows
    ]
    show_table("", ("pass", "ms without", "ms with", "speedup [95%]"), lines)
    write_report(
        args.output,
        command=describe_command(
            __file__,
            photos="FOLDER",
            foreign="BUILD.yaml" if args.foreign else None,
            **{"pass": None if len(args.passes) == len(ON_AND_OFF) else args.passes},
        ),
        packages=("openvino", "onnx", "torch", "nestforge"),
        cores=count_available_cores(),
        rows=rows,
    )


if __name__ == "__main__":
    run_command(main, name="passes")
