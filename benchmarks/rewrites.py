"""What each rewriting buys on ResNeSt-50, on every way the network comes in.

    pip install -e '.[torch]'
    python benchmarks/rewrites.py --photos FOLDER [-o benchmarks/results/rewrites.json]

The network as `nestforge` writes it, and as PyTorch exports the module with a fifth dimension for the radix (as timm
writes it too). Each is built with a rewriting on and off; both run in turns (`nestforge build --explain` does the same
for any build file). The commit is that of the working tree.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

import nestforge
from nestforge.compile.artifact import open_artifact
from nestforge.config import parse_config
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.errors import run_command
from nestforge.files import write_json
from nestforge.measure.benchmark import Run, run_in_turns
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from nestforge.progress import show_bars
from nestforge.tables.layout import make_grid

ROUNDS, SECONDS = 25, 10.0
ON_AND_OFF = {"unfold_radix": {"split_radix": False}, "split_radix": {"unfold_radix": True}}
CASES = [
    ("split_radix", "ours", "openvino", "int8"),
    ("split_radix", "ours", "openvino", "fp32"),
    ("unfold_radix", "exported", "openvino", "int8"),
    ("unfold_radix", "exported", "openvino", "fp32"),
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


def compare(name: str, graph: str, engine: str, dtype: str, photos: Path, folder: Path) -> list[dict[str, Any]]:
    """Build with and without, and measure both in turns at batch 1 and 8."""
    model = {"name": "resnest50", "seed": 0} if graph == "ours" else {"onnx": str(folder / "exported.onnx")}
    base = {
        "model": model,
        "dtype": dtype,
        "engine": engine,
        "calibration": {"data": str(photos), "count": 8},
        "preprocess": {"ops": [{"op": "ecenter_crop", "size": 224}]},
    }
    built = []
    for on in (True, False):
        output = folder / f"{name}-{graph}-{engine}-{dtype}-{on}"
        config = {**base, "rewrites": {**ON_AND_OFF[name], name: on}, "output": str(output)}
        nestforge.build(parse_config(config, source="rewrites"), progress=show_bars)
        built.append(open_artifact(output))
    rows = []
    for batch in (1, 8):
        ours, theirs = (Run(artifact.open_session(batch=batch)) for artifact in built)
        run_in_turns(
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
                "graph": graph,
                "engine": engine,
                "dtype": dtype,
                "batch": batch,
                "places": built[0].manifest.rewrites[name],
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
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/rewrites.json"))
    args = parser.parse_args()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_module(folder / "exported.onnx")
        for case in CASES:
            rows += [{**row, "commit": commit} for row in compare(*case, args.photos, folder)]
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
            "command": "python benchmarks/rewrites.py --photos FOLDER",
            "machine": read_machine(),
            "cores": count_available_cores(),
            "rows": rows,
        },
        str(args.output),
    )


if __name__ == "__main__":
    run_command(main, name="rewrites")
