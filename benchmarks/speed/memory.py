"""Time and peak memory of an int8 build of ResNeSt-50 against the number of calibration images; and start-up times.

    pip install -e '.[bench]'
    python -m benchmarks.speed.memory PHOTOS [--counts N ...] [-o benchmarks/results/memory.json]

Beside nestforge: NNCF on the OpenVINO model, as documented, and ONNX Runtime's static quantizer with its percentile
calibrator. Where the folder holds fewer images they are taken several times. Every figure is a fresh process, which
may take at most 10 GB; beyond that it ends, and that is its result. Start-up: the median of ten, interleaved.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.extras import require
from benchmarks.common.images import LazySamples, link_repeatedly
from benchmarks.common.models import build_seeded, write_float32
from benchmarks.common.peers import Quantizer, quantize_with_nncf_openvino, quantize_with_onnxruntime
from benchmarks.common.processes import call_alone
from benchmarks.common.report import add_output, describe_command, make_parser, show_table, write_report
from nestforge.commandline import run_command
from nestforge.compile.build import read_peak_rss_bytes
from nestforge.data.imagefolder import list_images
from nestforge.data.preprocess import make_reference_preprocess
from nestforge.errors import NestForgeError
from nestforge.measure.interleave import TimedCall, run_interleaved
from nestforge.progress import show_bars

NETWORK = "resnest50"
LIMIT_BYTES = 10 << 30
START_ROUNDS = 10
STARTS = {
    "python -c pass": ("-c", "pass"),
    "import nestforge": ("-c", "import nestforge"),
    "nestforge --help": ("-m", "nestforge", "--help"),
}
Build = Callable[[Path, int, Path], object]  # of the images, how many of them, and a folder to write to


def build_with_nestforge(images: Path, count: int, folder: Path) -> None:
    """Build an artifact."""
    build_seeded(NETWORK, folder / f"nestforge-{count}", photos=images, count=count)


def build_with(quantizer: Quantizer, images: Path, count: int, folder: Path) -> None:
    """Quantize with a peer."""
    samples = LazySamples(list_images(images).paths[:count], make_reference_preprocess(224))
    quantizer(folder / "given.onnx", samples, folder / "peer.onnx")


BUILDS: dict[str, Build] = {
    "nestforge": build_with_nestforge,
    "NNCF as documented": partial(build_with, quantize_with_nncf_openvino),
    "ORT percentile": partial(build_with, partial(quantize_with_onnxruntime, method="Percentile")),
}


def measure_build(name: str, images: Path, count: int, folder: Path) -> dict[str, float]:
    """Build in this process, which may take no more than the limit; return seconds and peak memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    begin = time.perf_counter()
    BUILDS[name](images, count, folder)
    return {"seconds": time.perf_counter() - begin, "peak_rss_bytes": read_peak_rss_bytes()}


def try_build(name: str, images: Path, count: int, folder: Path) -> dict[str, Any]:
    """Build in a fresh process; return seconds and peak memory, or why there are none."""
    try:
        return call_alone(measure_build, name, images, count, folder)
    except NestForgeError as error:
        exhausted = any(sign in str(error) for sign in ("its process died", "MemoryError", "bad_alloc"))
        return {"failed": "more than 10 GB" if exhausted else str(error)}


def measure_starts() -> dict[str, float]:
    """Return the median seconds of fresh processes."""
    runs = {
        name: TimedCall(partial(subprocess.run, [sys.executable, *arguments], capture_output=True, check=True))
        for name, arguments in STARTS.items()
    }
    run_interleaved(list(runs.values()), seconds=0.0, rounds=START_ROUNDS, warm_up_seconds=0.0, progress=show_bars)
    return {name: median(run.times_ms) / 1e3 for name, run in runs.items()}


def format_report(report: dict[str, Any]) -> list[str]:
    """Write memory and time, or why there are none."""
    if "failed" in report:
        return [report["failed"], ""]
    return [f"{report['peak_rss_bytes'] / 1e9:.2f}", f"{report['seconds']:.1f}"]


def main() -> None:
    """Measure, print, write."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 300, 1000], help="calibration images")
    add_output(parser, "memory.json")
    args = parser.parse_args()
    require("nncf")
    builds: dict[str, dict[int, Any]] = {name: {} for name in BUILDS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = link_repeatedly(args.photos, folder / "images", max(args.counts))
        write_float32(NETWORK, folder / "given.onnx")
        with show_bars("building", len(args.counts) * len(builds)) as advance:
            for count in args.counts:
                for name, reports in builds.items():
                    reports[count] = try_build(name, images, count, folder)
                    advance(1)
    starts = measure_starts()
    rows = [
        (name, str(count), *format_report(report))
        for name, reports in builds.items()
        for count, report in reports.items()
    ]
    show_table(f"int8 build of {NETWORK}, 224x224", ("built by", "images", "peak GB", "seconds"), rows)
    show_table("start-up", ("command", "ms"), [(name, f"{time * 1e3:.0f}") for name, time in starts.items()])
    write_report(
        args.output,
        command=describe_command(__file__, "PHOTOS", counts=args.counts),
        packages=("nestforge", "nncf", "onnxruntime", "openvino"),
        builds=builds,
        start_seconds=starts,
    )


if __name__ == "__main__":
    run_command(main, name="memory")
