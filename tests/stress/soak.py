"""bench, evaluate and predict in a loop in one process: memory and file descriptors must stay flat.

    python -m tests.stress.soak ARTIFACT DATASET [--minutes 20] [-o benchmarks/results/soak.json]

After every cycle: resident memory, open file descriptors, threads. The first quarter of the time is warm-up; the slopes
are those of a least-squares line through the rest, with the standard error of the memory's.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from scipy import stats

import nestforge
from benchmarks.common.report import add_output, describe_command, make_parser, show_table, write_report
from nestforge.commandline import run_command
from nestforge.data.imagefolder import list_images
from nestforge.progress import show_bars

WARM_UP = 0.25  # of the time


def read_usage() -> dict[str, float]:
    """Return what this process holds now (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rss_mb": int(status["VmRSS"].split()[0]) * 1024 / 1e6,
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": int(status["Threads"]),
    }


def soak(artifact: Path, dataset: Path, seconds: float) -> dict[str, Any]:
    """Loop for `seconds`; return the samples' slopes per hour, and whether every cycle counted the same."""
    images = list_images(dataset).paths[:16]
    begin = time.monotonic()
    samples: list[dict[str, float]] = []
    counts = set()
    with show_bars("soaking", None) as advance:
        while (elapsed := time.monotonic() - begin) < seconds or len(samples) < 6:
            nestforge.bench(artifact, batch=4, streams=2, seconds=0.2)
            result = nestforge.evaluate(artifact, dataset, limit=200)
            nestforge.predict(artifact, images)
            counts.add((result.images, result.top1.correct, result.top5.correct))
            samples.append({"seconds": time.monotonic() - begin, **read_usage()})
            advance(1)
    steady = [sample for sample in samples if sample["seconds"] >= WARM_UP * elapsed]
    hours = [sample["seconds"] / 3600 for sample in steady]
    memory = stats.linregress(hours, [sample["rss_mb"] for sample in steady])
    return {
        "minutes": elapsed / 60,
        "cycles": len(samples),
        "rss_mb_first": steady[0]["rss_mb"],
        "rss_mb_last": steady[-1]["rss_mb"],
        "rss_mb_most": max(sample["rss_mb"] for sample in samples),
        "rss_mb_per_hour": float(memory.slope),
        "rss_mb_per_hour_error": float(memory.stderr),
        "rss_kb_per_cycle": float(memory.slope) * hours[-1] / len(samples) * 1e3,
        "descriptors": sorted({sample["descriptors"] for sample in steady}),
        "threads": sorted({sample["threads"] for sample in steady}),
        "different_counts": len(counts),
    }


def main() -> None:
    """Soak, print, write."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("dataset", type=Path, help="labelled folder; 200 images of it are used")
    parser.add_argument("--minutes", type=float, default=20.0)
    add_output(parser, "soak.json")
    args = parser.parse_args()
    result = soak(args.artifact, args.dataset, 60 * args.minutes)
    rows = [(name, f"{value:,.2f}" if isinstance(value, float) else str(value)) for name, value in result.items()]
    show_table("soak", ("measured", "value"), rows)
    command = describe_command(__file__, "ARTIFACT", "DATASET", minutes=args.minutes)
    write_report(args.output, command=command, **result)


if __name__ == "__main__":
    run_command(main, name="soak")
