"""Workers over Ray against one process, and LoadGen against `nestforge bench`.

    pip install -e '.[scale,loadgen]'
    python -m benchmarks.speed.scale ARTIFACT DATASET [--rounds 3] [--only ray|loadgen|cost] [-o FILE]

- ray: `evaluate` in this process with 1 and 2 threads, and on a local Ray cluster with 1 and 2 workers of 1 thread.
  One cluster serves all rounds, which are interleaved. An image's cost is the time from the first part handed out to
  the last row counted. Ray's runs also open the artifact in every worker, which a large data set does not notice: that
  is measured by a run over a tenth of the images and taken out (`marginal`).
- loadgen: SingleStream against `bench` with batch 1, Offline against `bench` with batch 8; interleaved.
- cost: milliseconds per image of reading, decoding, geometry, normalising and the network, on one core.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import nestforge
from benchmarks.common.extras import require
from benchmarks.common.report import add_output, describe_environment, make_parser, read_report
from benchmarks.common.stages import Stage, time_stages
from nestforge.artifact.artifact import open_artifact
from nestforge.commandline import run_command
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.images import EncodedImage
from nestforge.data.preprocess import decode_image, normalize_images, read_image
from nestforge.engines.base import Parallelism
from nestforge.engines.machine import count_available_cores
from nestforge.errors import NestForgeError
from nestforge.files import write_json
from nestforge.measure.interleave import TimedCall, run_interleaved
from nestforge.measure.loadgen import loadgen
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.progress import show_bars

WAYS: dict[str, dict[str, Any]] = {
    "one process, 1 thread": {"threads": 1},
    "one process, 2 threads": {"threads": 2},
    "ray, 1 worker": {"threads": 1, "ray": "local", "workers": 1},
    "ray, 2 workers": {"threads": 1, "ray": "local", "workers": 2},
}
RATIOS = {  # of times: how much longer workers take than threads, and how many times as fast two of them are
    "one_worker_by_one_thread": ("ray, 1 worker", "one process, 1 thread"),
    "two_workers_by_two_threads": ("ray, 2 workers", "one process, 2 threads"),
    "one_worker_by_two_workers": ("ray, 1 worker", "ray, 2 workers"),
}
SCENARIOS = {"SingleStream": 1, "Offline": 8}  # the batch of each
BENCH_SECONDS = 5.0


def interleave(runs: Sequence[TimedCall[Any]], rounds: int, description: str) -> None:
    """Call each once per round, without a warm-up: every call opens what it measures, and warms it up."""
    run_interleaved(runs, seconds=0.0, rounds=rounds, warm_up_seconds=None, description=description, progress=show_bars)


def measure_ray(artifact: Path, dataset: Path, rounds: int) -> dict[str, Any]:
    """Time one process and 1 and 2 workers over all images, and over a tenth of them.

    Raises:
        NestForgeError: two of them counted differently.
    """
    from nestforge.scale import cluster

    with tempfile.TemporaryDirectory() as folder, cluster.connect("local", cpus=2):
        tenth = copy_tenth(dataset, Path(folder) / "tenth")

        def evaluate_both(way: dict[str, Any]) -> tuple[Any, Any]:
            return nestforge.evaluate(artifact, tenth, **way), nestforge.evaluate(artifact, dataset, **way)

        runs = {name: TimedCall(partial(evaluate_both, way)) for name, way in WAYS.items()}
        interleave(list(runs.values()), rounds, "evaluating")
    counts = {
        (large.images, large.unreadable, large.top1.correct, large.repeated)
        for run in runs.values()
        for _, large in run.results
    }
    if len(counts) != 1:
        raise NestForgeError(f"the runs do not agree on (images, unreadable, top-1, repeated): {sorted(counts)}")
    seconds = {name: [(small.seconds, large.seconds) for small, large in run.results] for name, run in runs.items()}
    small, large = next(iter(runs.values())).results[0]
    summary = summarize_ray(seconds, small.images, large.images)
    return {"images": large.images, "counts": counts.pop(), "rounds": rounds, **summary}


def copy_tenth(dataset: Path, folder: Path) -> Path:
    """Copy a tenth of a data set, evenly over its classes."""
    images = list_images(dataset)
    for path in choose_balanced(images, len(images.paths) // 10, seed=0):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    return folder


def summarize_ray(seconds: dict[str, list[tuple[float, float]]], few: int, many: int) -> dict[str, Any]:
    """Return milliseconds per image of every run, and ratios of them with their intervals."""
    times_ms = {
        name: {
            "total": [1e3 * large / many for _, large in pairs],
            "marginal": [1e3 * (large - small) / (many - few) for small, large in pairs],
        }
        for name, pairs in seconds.items()
    }
    ratios = {
        kind: {
            title: compute_ratio_interval(times_ms[one][kind], times_ms[other][kind])
            for title, (one, other) in RATIOS.items()
        }
        for kind in ("total", "marginal")
    }
    return {"ms_per_image": times_ms, "ratios": ratios}


def measure_loadgen(artifact: Path, dataset: Path, rounds: int) -> dict[str, Any]:
    """Measure throughput by LoadGen and by `bench` interleaved, on the same settings."""
    found: dict[str, Any] = {}
    for scenario, batch in SCENARIOS.items():
        theirs = TimedCall(partial(loadgen, artifact, dataset, scenario=scenario, batch=batch, seconds=BENCH_SECONDS))
        ours = TimedCall(partial(nestforge.bench, artifact, batch=batch, seconds=BENCH_SECONDS))
        interleave([theirs, ours], rounds, scenario)
        loadgen_ips = [run.throughput_ips for run in theirs.results if run.throughput_ips is not None]
        bench_ips = [run.throughput_ips for run in ours.results]
        complete = len(loadgen_ips) == len(bench_ips)
        found[scenario] = {
            "batch": batch,
            "loadgen_ips": loadgen_ips,
            "bench_ips": bench_ips,
            "ratio": compute_ratio_interval(loadgen_ips, bench_ips) if complete else None,
            "loadgen_p50_ms": [run.latency_ms.p50 for run in theirs.results if run.latency_ms],
            "loadgen_p90_ms": [run.latency_ms.p90 for run in theirs.results if run.latency_ms],
            "bench_p50_ms": [run.latency_ms.p50 for run in ours.results],
            "bench_p90_ms": [run.latency_ms.p90 for run in ours.results],
            "valid": [run.valid for run in theirs.results],
        }
    return found


def measure_cost(artifact: Path, dataset: Path, count: int = 64, rounds: int = 5) -> dict[str, Any]:
    """Return the median milliseconds per image of every step on one core, and its bytes."""
    opened = open_artifact(artifact)
    preprocess = opened.manifest.preprocess
    session = opened.open_session(Parallelism(batch=opened.choose_batch(8)))
    paths = choose_balanced(list_images(dataset), count, seed=0)
    encoded = [EncodedImage(path.name, path.read_bytes()) for path in paths]
    pixels = [read_image(image, preprocess) for image in encoded]
    batch = normalize_images(np.repeat(pixels[0][None], session.settings.batch, axis=0), preprocess)
    stages: dict[str, Stage] = {
        "read": (Path.read_bytes, paths),
        "decode": (decode_image, encoded),
        "decode and geometry": (partial(read_image, preprocess=preprocess), encoded),
        "normalize": (lambda image: normalize_images(image[None], preprocess), pixels),
        "network": (session.run, [batch]),
    }
    times_ms = {name: values[0] for name, values in time_stages(stages, threads=(1,), rounds=rounds).items()}
    times_ms["geometry"] = times_ms.pop("decode and geometry") - times_ms["decode"]
    times_ms["network"] /= session.settings.batch
    return {
        "ms_per_image": times_ms,
        "mean_file_bytes": statistics.mean(path.stat().st_size for path in paths),
        "pixels_bytes": pixels[0].nbytes,
        "images": len(paths),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "driver_us_per_row": measure_driver(),
    }


def measure_driver(parts: int = 100, rows: int = 256) -> float:
    """Return the microseconds that counting and writing a row take in the process that collects them."""
    from nestforge.scale.arrow import rows_from_table, table_from_rows, write_results
    from nestforge.scale.rows import Row
    from nestforge.scale.tally import Tally

    tables = [
        table_from_rows(
            [
                Row(
                    part=part,
                    position=position,
                    key=f"{part:05d}.tar/{position:08d}.jpg",
                    truth=1,
                    classes=(1, 2, 3, 4, 5),
                    probabilities=(0.5, 0.2, 0.1, 0.05, 0.01),
                )
                for position in range(rows)
            ],
            of=rows,
        )
        for part in range(parts)
    ]
    tally = Tally(parts)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with write_results(Path(folder) / "rows.parquet", {}) as write:
            for table in tables:
                for row in rows_from_table(table):
                    if tally.add(row):
                        write(row)
        return 1e6 * (time.perf_counter() - begin) / (parts * rows)


def main() -> None:
    """Measure, print, and write after each part."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("dataset", type=Path, help="labelled folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("ray", "loadgen", "cost"))
    add_output(parser, "scale.json")
    args = parser.parse_args()
    require("pyarrow", "ray", "mlperf_loadgen")
    manifest = open_artifact(args.artifact).manifest
    results = read_report(args.output)
    entry = results.setdefault(f"{manifest.name} {manifest.config.dtype} {manifest.height}x{manifest.width}", {})
    entry |= describe_environment(("nestforge", "ray", "mlcommons-loadgen", "openvino"))
    entry["cores"] = count_available_cores()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "cost": partial(measure_cost, args.artifact, args.dataset),
        "ray": partial(measure_ray, args.artifact, args.dataset, args.rounds),
        "loadgen": partial(measure_loadgen, args.artifact, args.dataset, args.rounds),
    }
    for kind, measure in parts.items():
        if args.only in (None, kind):
            entry[kind] = measure()
            write_json(results, str(args.output))
            Console().print(kind, entry[kind])


if __name__ == "__main__":
    run_command(main, name="scale")
