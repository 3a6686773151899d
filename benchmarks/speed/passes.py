"""What each rewriting buys, on every way a network comes in.

    pip install -e '.[torch]'
    python benchmarks/rewrites.py --photos FOLDER [--foreign BUILD.yaml] [-o benchmarks/results/rewrites.json]

ResNeSt-50 as `nestforge` writes it, and as PyTorch exports the module with a fifth dimension for the radix (as timm
writes it too); for pads the network of a build file. Each is built with a rewriting on and off; both run in turns
(`nestforge build --explain` does the same for any build file). The commit is that of the working tree. With
`--rewriting`, rows of others stay in the output as they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

import nestforge
from nestforge.artifact.artifact import open_artifact
from nestforge.commandline import run_command
from nestforge.config import parse_config, read_config
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.files import write_json
from nestforge.measure.benchmark import Run, run_interleaved
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from nestforge.progress import show_bars
from nestforge.tables.layout import make_grid

ROUNDS, SECONDS = 25, 10.0
ON_AND_OFF = {"unfold_radix": {"split_radix": False}, "split_radix": {"unfold_radix": True}, "fold_pads": {}}
CASES = [
    ("split_radix", "ours", "openvino", "int8"),
    ("split_radix", "ours", "openvino", "fp32"),
    ("unfold_radix", "exported", "openvino", "int8"),
    ("unfold_radix", "exported", "openvino", "fp32"),
    ("fold_pads", "foreign", "openvino", "int8"),
    ("fold_pads", "foreign", "openvino", "fp32"),
]


def export_module(path: Path) -> Path:
    """Export the torch module."""
    import torch

    from nestforge.engines.torch import load_module

    variant = get_variant("resnest50")
    module = load_module(variant, make_seeded_weights(variant, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"input_names": ["input"], "opset_version": 17, "dynamic_axes": {"input": {0: "batch"}}}
        torch.onnx.export(module, (torch.randn(1, 3, 224, 224),), path, dynamo=False, **options)
    return path


def describe(graph: str, photos: Path, folder: Path, foreign: Path | None) -> dict[str, Any]:
    """Return the build file of a case's graph."""
    if graph == "foreign":
        assert foreign is not None
        return read_config(foreign).model_dump(mode="json")
    return {
        "model": {"name": "resnest50", "seed": 0} if graph == "ours" else {"onnx": str(folder / "exported.onnx")},
        "calibration": {"data": str(photos), "count": 8},
        "preprocess": {"ops": [{"op": "ecenter_crop", "size": 224}]},
    }


def compare(
    name: str, graph: str, engine: str, dtype: str, config: dict[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """Build with and without, and measure both in turns at batch 1 and 8."""
    base = {**config, "dtype": dtype, "engine": engine}
    built = []
    for on in (True, False):
        output = folder / f"{name}-{graph}-{engine}-{dtype}-{on}"
        changed = {**base, "passes": {**ON_AND_OFF[name], name: on}, "output": str(output)}
        nestforge.build(parse_config(changed, source="passes"), progress=show_bars)
        built.append(open_artifact(output))
    rows = []
    for batch in (1, 8):
        ours, theirs = (Run(artifact.open_session(batch=batch)) for artifact in built)
        run_interleaved(
            [ours, theirs],
            seconds=SECONDS,
            rounds=ROUNDS,
            description=f"{name}, {graph}, {engine}, {dtype}, batch {batch}",
            progress=show_bars,
        )
        ratio, low, high = compute_ratio_interval(ours.throughputs, theirs.throughputs)
        with_ms, without_ms = (run.summarize_latency().p50 / batch for run in (ours, theirs))
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs to calibrate on")
    parser.add_argument("--foreign", type=Path, help="build file of a network with pads of its own, for fold_pads")
    parser.add_argument("--rewriting", nargs="+", choices=ON_AND_OFF, default=list(ON_AND_OFF), help="default: all")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/rewrites.json"))
    args = parser.parse_args()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    known = json.loads(args.output.read_text())["rows"] if args.output.is_file() else []
    rows: list[dict[str, Any]] = [row for row in known if row["name"] not in args.rewriting]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "unfold_radix" in args.rewriting:
            export_module(folder / "exported.onnx")
        for case in CASES:
            if case[0] not in args.rewriting or (case[1] == "foreign" and args.foreign is None):
                continue
            config = describe(case[1], args.photos, folder, args.foreign)
            rows += [{**row, "commit": commit} for row in compare(*case, config, folder)]
    lines = [
        (
            f"{row['name']}, {row['graph']}, {row['engine']}, {row['dtype']}, batch {row['batch']}",
            f"{row['without_ms']:.2f}",
            f"{row['with_ms']:.2f}",
            f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
        )
        for row in rows
    ]
    Console(width=120).print(make_grid("", ("rewriting", "ms without", "ms with", "times as fast"), lines))
    write_json(
        {
            "command": "python benchmarks/rewrites.py --photos FOLDER --foreign LITE0.yaml",
            "machine": read_machine(),
            "cores": count_available_cores(),
            "rows": rows,
        },
        str(args.output),
    )


if __name__ == "__main__":
    run_command(main, name="passes")
