"""An artifact under MLPerf's own load generator: its verdict and figures beside the project's."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nestforge.artifact.artifact import open_artifact
from nestforge.artifact.overlap import refuse_calibration_images
from nestforge.checks import check_range, suggest_nearest
from nestforge.data.imagefolder import list_images, match_classes
from nestforge.data.loader import UnreadableImage
from nestforge.engines.base import Parallelism
from nestforge.errors import ConfigError, DataError, EngineError, NestForgeError
from nestforge.files import StrPath
from nestforge.inference.topk import find_hits
from nestforge.measure.interleave import Latency
from nestforge.measure.statistics import Rate, compute_rate
from nestforge.progress import Progress, no_progress

MODES = ("performance", "accuracy")
DETAIL_LOG, ACCURACY_LOG = "mlperf_log_detail.txt", "mlperf_log_accuracy.json"
LOG_PREFIX = ":::MLLOG "


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One of LoadGen's scenarios; `throughput` is its log's key for images a second, `batch` our default."""

    batch: int
    queries: int
    throughput: str


# Fewer queries than these defaults and LoadGen cannot vouch for the percentile of the scenario (early stopping).
SCENARIOS = {
    "Offline": Scenario(batch=8, queries=1, throughput="result_samples_per_second"),
    "SingleStream": Scenario(batch=1, queries=64, throughput="result_qps_without_loadgen_overhead"),
    "Server": Scenario(batch=1, queries=662, throughput="result_completed_samples_per_sec"),
}


@dataclass(frozen=True, kw_only=True)
class LoadGenResult:
    """What LoadGen measured, or in accuracy mode what it logged, counted.

    `valid` and `reason` are LoadGen's own verdict on a performance test. `samples` are images answered, of `images`
    different ones. Latencies are from LoadGen's query to its answer; Offline, one query of everything, has none.
    `target_qps` and `latency_bound_ms` are what was asked for.
    """

    artifact: Path
    dataset: Path
    scenario: str
    mode: str
    parallelism: Parallelism
    images: int
    unreadable: tuple[UnreadableImage, ...]
    samples: int
    seconds: float
    target_qps: float | None
    latency_bound_ms: float | None
    valid: bool | None
    reason: str | None
    throughput_ips: float | None
    latency_ms: Latency | None
    top1: Rate | None
    top5: Rate | None
    loadgen_version: str
    logs: Path | None


def loadgen(
    artifact: StrPath,
    dataset: StrPath,
    *,
    scenario: str = "Offline",
    mode: str = "performance",
    batch: int | None = None,
    streams: int = 1,
    threads: int | None = None,
    seconds: float = 10.0,
    queries: int | None = None,
    target_qps: float | None = None,
    latency_ms: float | None = None,
    logs: StrPath | None = None,
    allow_overlap: bool = False,
    progress: Progress = no_progress,
) -> LoadGenResult:
    """Run MLPerf LoadGen against an artifact with preprocessed images of a labelled folder.

    A test lasts at least `seconds` and `queries`. `target_qps` is what Server sends and Offline expects, by default
    chosen from a short trial; `latency_ms` bounds Server's 99th percentile. `logs`, a new or empty folder, keeps
    LoadGen's own files. `batch`, `streams` and `threads` are as in `bench`; Offline's batch is 8.
    `allow_overlap` counts predictions for calibration images too.

    Raises:
        ConfigError: an option out of range.
        DataError: as `evaluate`.
        NestForgeError: LoadGen is not installed, or `logs` cannot be used.
        ArtifactError, EngineError: the artifact cannot be opened so, or fails.
    """
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise NestForgeError("LoadGen is not installed; run pip install 'nestforge[loadgen]'")
    for name, value, known in (("scenario", scenario, tuple(SCENARIOS)), ("mode", mode, MODES)):
        if value not in known:
            raise ConfigError(f"no {name} {value!r}{suggest_nearest(value, known)} (there are: {', '.join(known)})")
    opened = open_artifact(artifact)
    parallelism = Parallelism.make(
        batch=opened.choose_batch(SCENARIOS[scenario].batch) if batch is None else batch,
        streams=streams,
        threads=threads,
    )
    queries = SCENARIOS[scenario].queries if queries is None else queries
    for name, number, low, high in (
        ("queries", queries, 1, 1 << 30),
        ("seconds", seconds, 0.1, 86_400),
        ("target-qps", target_qps, 1e-3, 1e9),
        ("latency-ms", latency_ms, 1e-3, 1e9),
    ):
        if number is not None:
            check_range(name, number, low, high)
    folder = list_images(Path(dataset))
    truth = match_classes(folder, opened.labels) if mode == "accuracy" else []
    if mode == "accuracy" and not allow_overlap:
        refuse_calibration_images(opened.manifest, folder.paths)
    keep = None if logs is None else Path(logs)
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise NestForgeError(f"--logs {keep} is not an empty folder; choose another")
    with tempfile.TemporaryDirectory(prefix="nestforge-loadgen-") as temporary:
        place = Path(temporary)
        job = {
            "artifact": str(opened.folder.absolute()),
            "images": [str(path.absolute()) for path in folder.paths],
            "scenario": scenario,
            "accuracy": mode == "accuracy",
            "parallelism": asdict(parallelism),
            "seconds": seconds,
            "queries": queries,
            "target_qps": target_qps,
            "latency_ms": latency_ms,
            "logs": temporary,
        }
        with progress(f"LoadGen: {scenario}, {mode}", None):
            outcome = _run_apart(job)
        detail = read_detail_log(place / DETAIL_LOG)
        unreadable = {int(index): reason for index, reason in outcome["unreadable"].items()}
        counts = count_answers(place / ACCURACY_LOG, truth, unreadable) if mode == "accuracy" else None
        if keep is not None:
            shutil.copytree(place, keep, dirs_exist_ok=True)
    performance = counts is None
    return LoadGenResult(
        artifact=opened.folder,
        dataset=folder.root,
        scenario=scenario,
        mode=mode,
        parallelism=parallelism,
        images=outcome["images"],
        unreadable=tuple(
            UnreadableImage(image=str(folder.paths[index]), reason=reason) for index, reason in unreadable.items()
        ),
        samples=outcome["samples"],
        seconds=outcome["seconds"],
        target_qps=outcome["target_qps"],
        latency_bound_ms=outcome["latency_ms"],
        valid=detail["result_validity"] == "VALID" if performance else None,
        reason=(detail.get("result_invalid_reason", "").strip() or None) if performance else None,
        throughput_ips=detail[SCENARIOS[scenario].throughput] if performance else None,
        latency_ms=read_latency(detail) if performance and scenario != "Offline" else None,
        top1=counts[0] if counts else None,
        top5=counts[1] if counts else None,
        loadgen_version=detail["loadgen_version"],
        logs=keep,
    )


def read_detail_log(path: Path) -> dict[str, Any]:
    """Return the values in LoadGen's detail log by key, the last of each.

    Raises:
        NestForgeError: LoadGen wrote no such log.
    """
    values: dict[str, Any] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(LOG_PREFIX):
                entry = json.loads(line.removeprefix(LOG_PREFIX))
                values[entry["key"]] = entry["value"]
    except (OSError, ValueError, KeyError) as error:
        raise NestForgeError(f"LoadGen's log {path.name} cannot be read ({error})") from error
    return values


def read_latency(detail: dict[str, Any]) -> Latency:
    """Return LoadGen's latencies in milliseconds."""
    p50, p90, p99 = (detail[f"result_{rank}.00_percentile_latency_ns"] / 1e6 for rank in (50, 90, 99))
    return Latency(mean=detail["result_mean_latency_ns"] / 1e6, p50=p50, p90=p90, p99=p99)


def count_answers(path: Path, truth: list[int], unreadable: dict[int, str]) -> tuple[Rate, Rate]:
    """Count top-1 and top-5 in LoadGen's accuracy log, every image once.

    Raises:
        DataError: an image is missing from the log or is there twice, or none was readable.
    """
    answers: dict[int, np.ndarray[Any, np.dtype[np.int32]]] = {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        answers[row["qsl_idx"]] = np.frombuffer(bytes.fromhex(row["data"]), np.int32)
    if len(rows) != len(truth) or answers.keys() != set(range(len(truth))):
        raise DataError(f"LoadGen logged {len(rows)} answers to {len(answers)} of {len(truth)} images")
    read = [index for index in answers if index not in unreadable]
    if not read:
        raise DataError(f"not one of {len(truth)} images could be read; the first: {unreadable[0]}")
    top1, top5 = find_hits(np.stack([answers[index] for index in read]), np.array([truth[index] for index in read]))
    return compute_rate(int(top1.sum()), len(read)), compute_rate(int(top5.sum()), len(read))


def _run_apart(job: dict[str, Any]) -> dict[str, Any]:
    """Run the test in a process of its own and return its outcome; it dies with us."""
    place = Path(job["logs"])
    path = place / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "nestforge.measure.loadgen_sut", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    try:
        _, stderr = process.communicate()
    finally:
        process.kill()
        process.wait()
    path.unlink()
    outcome = place / "outcome.json"
    if process.returncode != 0 or not outcome.is_file():
        lines = stderr.strip().splitlines() or [f"it ended with {process.returncode}"]
        raise EngineError(f"the test under LoadGen failed: {lines[-1]}")
    result: dict[str, Any] = json.loads(outcome.read_text(encoding="utf-8"))
    return result
