"""Time and peak memory of an int8 build of ResNeSt-50 against the number of calibration images; and start-up times.

    pip install -e '.[bench]'
    python benchmarks/memory.py --images FOLDER [-o benchmarks/results/memory.json]

Beside ours: NNCF on the OpenVINO model, as documented, and ONNX Runtime's static quantizer with its percentile
calibrator. Where the folder holds fewer images they are taken several times. Every figure is a fresh process, which
may take at most 10 GB; beyond that it ends, and that is its result. Start-up: median of ten.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common.peers import quantize_with_nncf_openvino, quantize_with_onnxruntime
from nestforge.compile.build import read_peak_rss_bytes
from nestforge.compile.onnxfile import serialize
from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.data.imagefolder import list_images
from nestforge.data.preprocess import Preprocess, load_image, make_reference_preprocess
from nestforge.engines.machine import read_machine
from nestforge.files import write_json
from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from nestforge.progress import show_bars
from nestforge.tables.layout import make_grid

LIMIT_BYTES = 10 << 30
PEERS = ("NNCF as documented", "ORT percentile")


def build_peer(peer: str, images: Path, count: int, folder: Path) -> dict[str, float | str]:
    """Quantize with a peer in a fresh process; return seconds and peak memory, or why there are none."""
    command = [sys.executable, __file__, "--peer", peer, "--count", str(count), "--images", str(images)]
    done = subprocess.run([*command, "-o", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        memory = done.returncode < 0 or "MemoryError" in done.stderr or "bad_alloc" in done.stderr
        return {"failed": "more than 10 GB" if memory else (lines[-1] if lines else f"exit code {done.returncode}")}
    report: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return report


def run_peer(peer: str, images: Path, count: int, folder: Path) -> None:
    """Quantize here, under the limit, and print the report."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    given = folder / "given.onnx"
    preprocess = make_reference_preprocess(224)
    samples = LazySamples(list_images(images).paths[:count], preprocess)
    begin = time.perf_counter()
    if peer == PEERS[0]:
        quantize_with_nncf_openvino(given, samples, folder / "peer.xml")
    else:
        quantize_with_onnxruntime(given, samples, folder / "peer.onnx", method="Percentile")
    print(json.dumps({"seconds": time.perf_counter() - begin, "peak_rss_bytes": read_peak_rss_bytes()}))


class LazySamples:
    """Preprocessed images (1, 3, H, W), one at a time: what a peer keeps is its own."""

    def __init__(self, paths: list[Path], preprocess: Preprocess) -> None:
        self._paths = paths
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        for path in self._paths:
            yield load_image(path, self._preprocess)[None]


def build_once(images: Path, count: int, folder: Path) -> dict[str, float]:
    """Build in a fresh process; return its own report."""
    config = {
        "model": {"name": "resnest50", "seed": 0},
        "calibration": {"data": str(images), "count": count},
        "output": str(folder / str(count)),
    }
    (folder / "c.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-c", "from nestforge.cli import main; main()", "build", str(folder / "c.yaml")]
    done = subprocess.run([*command, "--json", "-"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    return {"peak_rss_bytes": report["peak_rss_bytes"], "seconds": report["seconds"]}


def make_enough(images: Path, folder: Path, count: int) -> Path:
    """Return a folder of links to the images, as many times over as `count` needs."""
    paths = list_images(images).paths
    for index in range(count):
        path = paths[index % len(paths)]
        link = folder / path.parent.name / f"{index // len(paths)}_{path.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return folder


def time_start(code: str, *arguments: str) -> float:
    """Return the median seconds of ten fresh processes."""
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)
        times.append(time.perf_counter() - begin)
    return median(times)


def format_report(report: dict[str, float]) -> list[str]:
    """Write memory and time."""
    return [f"{report['peak_rss_bytes'] / 1e9:.2f}", f"{report['seconds']:.1f}"]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 300, 1000], help="calibration images")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/memory.json"))
    args = parser.parse_args()
    if args.peer:
        run_peer(args.peer, args.images, args.count, args.output)
        return
    builds: dict[str, dict[int, Any]] = {name: {} for name in ("nestforge", *PEERS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = make_enough(args.images, folder / "images", max(args.counts))
        variant = get_variant("resnest50")
        model = build_graph(variant, make_seeded_weights(variant, 0))
        fold_batch_norm(model)
        (folder / "given.onnx").write_bytes(serialize(model))
        with show_bars("building", len(args.counts) * len(builds)) as advance:
            for count in args.counts:
                builds["nestforge"][count] = build_once(images, count, folder)
                advance(1)
                for peer in PEERS:
                    builds[peer][count] = build_peer(peer, images, count, folder)
                    advance(1)
    starts = {
        "python -c pass": time_start("pass"),
        "import nestforge": time_start("import nestforge"),
        "nestforge --help": time_start("from nestforge.cli import main; main()", "--help"),
    }
    rows = [
        (name, str(count), *([report["failed"], ""] if "failed" in report else format_report(report)))
        for name, counts in builds.items()
        for count, report in counts.items()
    ]
    console = Console(width=120)
    console.print(make_grid("int8 build of resnest50, 224x224", ("who", "images", "peak GB", "seconds"), rows))
    console.print(make_grid("start-up", ("command", "ms"), [(n, f"{t * 1e3:.0f}") for n, t in starts.items()]))
    write_json(
        {
            "command": f"python benchmarks/memory.py --images FOLDER --counts {' '.join(map(str, args.counts))}",
            "machine": read_machine(),
            "builds": builds,
            "start_seconds": starts,
        },
        str(args.output),
    )


if __name__ == "__main__":
    main()
