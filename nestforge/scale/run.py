"""Counts and answers over sources of any size, in this process or on a Ray cluster, each image exactly once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nestforge import __version__
from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.artifact.overlap import refuse_calibration_images
from nestforge.data.labels import format_label
from nestforge.data.parts import FolderPart, MissingImage
from nestforge.data.sources import Source, list_local_files, open_source
from nestforge.engines.machine import count_available_cores
from nestforge.errors import ConfigError, DataError
from nestforge.files import StrPath
from nestforge.measure.statistics import Rate, compute_rate
from nestforge.progress import Progress, no_progress
from nestforge.scale.rows import Write, write_results
from nestforge.scale.tally import Tally
from nestforge.scale.worker import PartClassifier, TruthFinder

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class SourceResult:
    """What was counted in a source; `top1` and `top5` are None where classes were not asked for.

    `images` were classified, `unreadable` were not and are in no count; `reasons` are the first of theirs. `repeated`
    rows came again from a worker that took over a lost one's part, and were dropped. `seconds` run to the last
    row counted, from the first part handed out; with Ray they include starting the workers.
    """

    artifact: Path
    dataset: str
    kind: str
    parts: int
    images: int
    unreadable: int
    reasons: tuple[str, ...]
    top1: Rate | None
    top5: Rate | None
    ray: str | None
    workers: int
    threads: int
    repeated: int
    seconds: float
    output: Path | None


def evaluate_source(
    artifact: StrPath,
    dataset: StrPath,
    *,
    ray: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    output: StrPath | None = None,
    allow_overlap: bool = False,
    progress: Progress = no_progress,
) -> SourceResult:
    """Count as `evaluate` does, over a folder, tar shards or Parquet, here or at a URL.

    `ray` is the address of a Ray cluster, or ``local`` for one of this machine's cores; without it everything runs in
    this process. There are `workers` (default: as many as fit the cluster) of `threads` (default: 1; without Ray all
    cores). `output` gets a row for every image, as Parquet. `allow_overlap` takes images whose content an int8 artifact
    was calibrated on.

    Raises:
        DataError: nothing to read, a class the artifact does not know, a damaged shard, not one readable image, or
            calibration images among them (files at a URL are not compared with those).
        ConfigError: more workers than the cluster has room for.
        NestForgeError: a package is missing, no cluster answers, or the output cannot be written.
    """
    return _run(
        artifact,
        dataset,
        labelled=True,
        ray=ray,
        workers=workers,
        threads=threads,
        output=output,
        allow_overlap=allow_overlap,
        progress=progress,
    )


def predict_source(
    artifact: StrPath,
    source: StrPath,
    *,
    output: StrPath,
    ray: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> SourceResult:
    """Write the best classes of every image of a source to `output`, as Parquet; else as `evaluate_source`."""
    return _run(
        artifact,
        source,
        labelled=False,
        ray=ray,
        workers=workers,
        threads=threads,
        output=output,
        allow_overlap=True,
        progress=progress,
    )


def _run(
    artifact: StrPath,
    dataset: StrPath,
    *,
    labelled: bool,
    ray: str | None,
    workers: int | None,
    threads: int | None,
    output: StrPath | None,
    allow_overlap: bool,
    progress: Progress,
) -> SourceResult:
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and not 1 <= value <= 4096:
            raise ConfigError(f"{name} {value} is outside 1 to 4096")
    if ray is None and workers is not None:
        raise ConfigError("workers are Ray's; give --ray local or the address of a cluster")
    opened = open_artifact(artifact)
    with progress(f"listing {dataset}", None):
        source = open_source(dataset)
        if labelled:
            _check_classes(source, opened)
        if not allow_overlap:
            refuse_calibration_images(opened.manifest, list_local_files(source))
    path = Path(output) if output is not None else None
    metadata = {
        "version": __version__,
        "artifact": opened.manifest.name,
        "model_sha256": opened.manifest.outputs["model.onnx"].sha256,
        "preprocess_sha256": opened.manifest.preprocess_sha256,
        "source": str(dataset),
        "labels": [format_label(label) for label in opened.labels],
    }
    settings: dict[str, Any] = {
        "artifact": str(opened.folder.absolute()),
        "labelled": labelled,
        "allow_overlap": allow_overlap,
    }
    tally = Tally(len(source.parts))
    rows: Iterator[pa.Table]
    with write_results(path, metadata) as write:
        if ray is None:
            workers, threads = 1, threads or count_available_cores()
            classifier = PartClassifier(**settings, threads=threads)
            rows = (classifier.classify(number, part) for number, part in enumerate(source.parts))
            seconds = _count(rows, tally, write, source, progress)
        else:
            from nestforge.scale import cluster

            threads = threads or 1
            with cluster.connect(ray, cpus=cluster.count_local_cpus(workers, threads)) as cpus:
                workers = cluster.choose_workers(workers, threads, cpus)
                settings["threads"] = threads
                rows = cluster.classify_on_ray(source.parts, settings, workers=workers, threads=threads)
                with contextlib.closing(rows):  # before the connection is
                    seconds = _count(rows, tally, write, source, progress)
    return SourceResult(
        artifact=opened.folder,
        dataset=source.url,
        kind=source.kind,
        parts=len(source.parts),
        images=tally.images,
        unreadable=tally.unreadable,
        reasons=tuple(tally.reasons),
        top1=compute_rate(tally.top1, tally.images) if labelled else None,
        top5=compute_rate(tally.top5, tally.images) if labelled else None,
        ray=ray,
        workers=workers,
        threads=threads,
        repeated=tally.repeated,
        seconds=seconds,
        output=path,
    )


def _count(tables: Iterator[pa.Table], tally: Tally, write: Write, source: Source, progress: Progress) -> float:
    """Count and write all rows; return the seconds that took."""
    begin = time.perf_counter()
    with progress("classifying", source.images) as advance:
        for table in tables:
            new = tally.add(table)
            write(new)
            advance(len(new))
    tally.check_complete()
    return time.perf_counter() - begin


def _check_classes(source: Source, artifact: Artifact) -> None:
    """Refuse classes the artifact does not know before any work: all of a folder, the first of shards.

    Raises:
        DataError: such a class, or none.
    """
    truths = TruthFinder(artifact.labels)
    known = set()
    for part in source.parts if source.kind == "folder" else source.parts[:1]:
        samples = (sample for sample in part.read() if not isinstance(sample.image, MissingImage))
        for sample in samples if isinstance(part, FolderPart) else islice(samples, 1):
            if sample.label not in known:
                try:
                    truths.find(sample.label)
                except DataError as error:
                    raise DataError(f"{source.url}: {sample.key}: {error}") from error
                known.add(sample.label)
