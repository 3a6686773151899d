"""Workers over Ray against one process, and LoadGen against `nestforge bench`.

    pip install -e '.[scale,loadgen]'
    python benchmarks/scale.py ARTIFACT DATASET [--rounds 3] [--only ray|loadgen|cost] [-o FILE]

- ray: `evaluate_source` in this process with 1 and 2 threads, and on a local Ray cluster with 1 and 2 workers of 1
  thread. One cluster serves all rounds, rounds are interleaved and their order turned. An image's cost is the time
  from the first part handed out to the last row counted. Ray's runs also open the artifact in every worker, which a
  large data set does not notice: that is measured by a run over a tenth of the images and taken out (`marginal`).
- loadgen: SingleStream against `bench` with batch 1, Offline against `bench` with batch 8; in turns.
- cost: seconds an image of reading, decoding with the geometry, normalising and the network, on one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

import nestforge
from nestforge.artifact.artifact import open_artifact
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.parts import EncodedImage
from nestforge.data.preprocess import decode_image, normalize_images, read_image
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.files import write_json
from nestforge.measure.loadgen import loadgen
from nestforge.scale import cluster
from nestforge.scale.rows import ROWS, write_results
from nestforge.scale.run import SourceResult, evaluate_source
from nestforge.scale.tally import Tally


def measure_ray(artifact: Path, dataset: Path, rounds: int) -> dict[str, Any]:
    """Time one process and 1 and 2 workers over all images, and over a tenth of them."""
    with tempfile.TemporaryDirectory() as folder, cluster.connect("local", cpus=2):
        tenth = Path(folder) / "tenth"
        images = list_images(dataset)
        for path in choose_balanced(images, len(images.paths) // 10, seed=0):
            (tenth / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tenth / path.parent.name)
        contenders: dict[str, Callable[[Path], SourceResult]] = {
            "one process, 1 thread": lambda data: evaluate_source(artifact, data, threads=1),
            "one process, 2 threads": lambda data: evaluate_source(artifact, data, threads=2),
            "ray, 1 worker": lambda data: evaluate_source(artifact, data, ray="local", workers=1, threads=1),
            "ray, 2 workers": lambda data: evaluate_source(artifact, data, ray="local", workers=2, threads=1),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        counts = set()
        for turn in range(rounds):
            for name in contenders if turn % 2 == 0 else reversed(contenders):
                small, large = contenders[name](tenth), contenders[name](dataset)
                assert large.top1 is not None
                counts.add((large.images, large.unreadable, large.top1.correct, large.repeated))
                seconds[name].append((small.seconds, large.seconds))
        few, many = small.images, large.images
    assert len(counts) == 1, counts
    return {"images": many, "counts": next(iter(counts)), "rounds": rounds, **summarize_ray(seconds, few, many)}


def summarize_ray(seconds: dict[str, list[tuple[float, float]]], few: int, many: int) -> dict[str, Any]:
    """Return milliseconds an image of every run, and the ratios of their medians."""
    times_ms = {
        name: {
            "total": [1e3 * large / many for _, large in pairs],
            "marginal": [1e3 * (large - small) / (many - few) for small, large in pairs],
        }
        for name, pairs in seconds.items()
    }
    ratios = {}
    for kind in ("total", "marginal"):
        base, base2, one, two = (statistics.median(row[kind]) for row in times_ms.values())
        ratios[kind] = {
            "overhead_1_worker": one / base - 1,
            "overhead_2_workers": two / base2 - 1,
            "speedup_2_workers": one / two,
        }
    return {"ms_per_image": times_ms, "ratios": ratios}


def measure_loadgen(artifact: Path, dataset: Path, rounds: int) -> dict[str, Any]:
    """Measure throughput by LoadGen and by `bench` in turns, on the same settings."""
    found: dict[str, Any] = {}
    for scenario, batch in (("SingleStream", 1), ("Offline", 8)):
        theirs, ours = [], []
        for turn in range(rounds):
            for which in ("theirs", "ours") if turn % 2 == 0 else ("ours", "theirs"):
                if which == "theirs":
                    theirs.append(loadgen(artifact, dataset, scenario=scenario, batch=batch, seconds=5))
                else:
                    ours.append(nestforge.bench(artifact, batch=batch, seconds=5))
        found[scenario] = {
            "batch": batch,
            "loadgen_ips": [run.throughput_ips for run in theirs],
            "bench_ips": [run.throughput_ips for run in ours],
            "ratio": statistics.median(run.throughput_ips or 0 for run in theirs)
            / statistics.median(run.throughput_ips for run in ours),
            "loadgen_p50_ms": [run.latency_ms.p50 for run in theirs if run.latency_ms],
            "loadgen_p90_ms": [run.latency_ms.p90 for run in theirs if run.latency_ms],
            "bench_p50_ms": [run.latency_ms.p50 for run in ours],
            "bench_p90_ms": [run.latency_ms.p90 for run in ours],
            "valid": [run.valid for run in theirs],
        }
    return found


def measure_cost(artifact: Path, dataset: Path, count: int = 64) -> dict[str, Any]:
    """Return the median milliseconds of every step for one image on one core, and its bytes."""
    opened = open_artifact(artifact)
    preprocess = opened.manifest.preprocess
    session = opened.open_session(batch=opened.choose_batch(8), threads=1)
    paths = choose_balanced(list_images(dataset), count, seed=0)
    steps: dict[str, list[float]] = {name: [] for name in ("read", "decode", "geometry", "normalize", "network")}
    for path in paths:
        begin = time.perf_counter()
        data = path.read_bytes()
        read = time.perf_counter()
        decode_image(EncodedImage(path.name, data))
        decoded = time.perf_counter()
        image = read_image(EncodedImage(path.name, data), preprocess)
        shaped = time.perf_counter()
        images = normalize_images(image[None], preprocess)
        normalized = time.perf_counter()
        times = (read - begin, decoded - read, (shaped - decoded) - (decoded - read), normalized - shaped)
        for name, value in zip(steps, times, strict=False):
            steps[name].append(value)
    batch = np.repeat(images, session.settings.batch, axis=0)
    for _ in range(12):
        begin = time.perf_counter()
        session.run(batch)
        steps["network"].append((time.perf_counter() - begin) / session.settings.batch)
    return {
        "ms_per_image": {name: 1e3 * statistics.median(values) for name, values in steps.items()},
        "mean_file_bytes": statistics.mean(path.stat().st_size for path in paths),
        "pixels_bytes": image.nbytes,
        "images": count,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "driver_us_per_row": measure_driver(),
    }


def measure_driver(parts: int = 100, rows: int = 256) -> float:
    """Return the microseconds that counting and writing a row take in the process that collects them."""
    row = {"truth": 1, "classes": [1, 2, 3, 4, 5], "probabilities": [0.5, 0.2, 0.1, 0.05, 0.01], "error": None}
    tables = [
        pa.Table.from_pylist(
            [
                row | {"part": part, "position": i, "of": rows, "key": f"{part:05d}.tar/{i:08d}.jpg"}
                for i in range(rows)
            ],
            schema=ROWS,
        )
        for part in range(parts)
    ]
    tally = Tally(parts)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with write_results(Path(folder) / "rows.parquet", {}) as write:
            for table in tables:
                write(tally.add(table))
        return 1e6 * (time.perf_counter() - begin) / (parts * rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("ray", "loadgen", "cost"))
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/scale.json"))
    arguments = parser.parse_args()
    manifest = open_artifact(arguments.artifact).manifest
    name = f"{manifest.name} {manifest.config.dtype} {manifest.height}x{manifest.width}"
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    entry = results.setdefault(name, {})
    entry["machine"] = read_machine()
    entry["cores"] = count_available_cores()
    entry["versions"] = {package: version(package) for package in ("nestforge", "ray", "mlcommons-loadgen", "openvino")}
    for kind, measure in (
        ("cost", lambda: measure_cost(arguments.artifact, arguments.dataset)),
        ("ray", lambda: measure_ray(arguments.artifact, arguments.dataset, arguments.rounds)),
        ("loadgen", lambda: measure_loadgen(arguments.artifact, arguments.dataset, arguments.rounds)),
    ):
        if arguments.only in (None, kind):
            entry[kind] = measure()
            write_json(results, str(arguments.output))
            Console().print(kind, entry[kind])


if __name__ == "__main__":
    main()
