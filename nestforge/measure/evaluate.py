"""Top-1 and top-5 on labelled images from any source: counts with intervals, and two artifacts paired by image."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.artifact.overlap import refuse_calibration_images
from nestforge.data.imagefolder import match_folders
from nestforge.data.labels import Label
from nestforge.data.loader import UnreadableImage
from nestforge.data.parts import FolderPart, MissingImage
from nestforge.data.sources import Source, fingerprint_source, list_local_files, locate_image, open_source
from nestforge.errors import ConfigError, DataError
from nestforge.files import StrPath, hash_json
from nestforge.journal import Journal, keep_journal
from nestforge.measure.paired import ClassAccuracy, PairedEvaluation, count_classes, pair_predictions
from nestforge.measure.predictions import TOP, PredictionTable, PredictionTableBuilder
from nestforge.measure.statistics import Rate, compute_rate
from nestforge.progress import Progress, no_progress
from nestforge.scale.predict import describe_rows
from nestforge.scale.rows import Row
from nestforge.scale.run import Placement, Runner, open_runner
from nestforge.scale.samples import Request, TruthFinder
from nestforge.scale.tally import Tally

CHUNK_SECONDS = 1.0  # of work that a kill may cost


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Counts over `images` readable images; `classes` are those that have some, in the order of the labels.

    `unreadable` images are in no count; `unreadable_images` lists the first of them. `parts` are the pieces in which
    the dataset was read. `repeated` rows came again from a worker that took over a lost one's part, and were dropped.
    `seconds` run from opening the model to the last image.
    """

    artifact: Path
    dataset: str
    kind: str
    parts: int
    images: int
    unreadable: int
    unreadable_images: tuple[UnreadableImage, ...]
    top1: Rate
    top5: Rate
    classes: tuple[ClassAccuracy, ...] = field(repr=False)
    vs: PairedEvaluation | None
    output: Path | None
    placement: Placement = field(compare=False)
    repeated: int
    seconds: float = field(compare=False)


def evaluate(
    artifact: StrPath,
    dataset: StrPath,
    *,
    vs: StrPath | None = None,
    limit: int | None = None,
    ray: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    output: StrPath | None = None,
    allow_overlap: bool = False,
    verify: bool = True,
    progress: Progress = no_progress,
) -> Evaluation:
    """Count how often the true class is first, and among the first five.

    `dataset` is a folder with one subfolder per class, called by the wnid or the name in the artifact's labels; or a
    list of images (``path,label``); or tar shards or Parquet; here or at a URL. `limit` takes that many images of a
    folder or list, evenly over the classes and always the same ones. Unreadable images are left out of every count.
    `allow_overlap` takes images whose content an int8 artifact was calibrated on; `verify` as in `open_artifact`.

    `ray` is the address of a Ray cluster, or ``local`` for one of this machine's cores, with `workers` (default: as
    many as fit the cluster) of `threads` (default 1; without Ray all cores). `output` is a Parquet file with a row for
    every image.

    In this process, without `output`, an interrupted evaluation of files on this machine continues where it stopped
    when it is run again.

    Raises:
        DataError: missing or empty dataset, a class no label is called, a damaged shard, not one readable image, or
            calibration images among them (shards at a URL are checked as they are read).
        ConfigError: the two artifacts have different labels, or an option is out of range.
        ArtifactError: as `open_artifact`.
        NestForgeError: a package is missing, no cluster answers, or the output cannot be written.
    """
    [evaluation] = evaluate_all(
        [artifact],
        dataset,
        vs=vs,
        limit=limit,
        ray=ray,
        workers=workers,
        threads=threads,
        output=output,
        allow_overlap=allow_overlap,
        verify=verify,
        progress=progress,
    )
    return evaluation


def evaluate_all(
    artifacts: Sequence[StrPath],
    dataset: StrPath,
    *,
    vs: StrPath | None = None,
    limit: int | None = None,
    ray: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    output: StrPath | None = None,
    allow_overlap: bool = False,
    verify: bool = True,
    progress: Progress = no_progress,
) -> list[Evaluation]:
    """Do as `evaluate` for each artifact; each, and `vs`, classifies the images once. `output` is the first one's."""
    opened = {Path(path): open_artifact(path, verify=verify) for path in [*artifacts, *([] if vs is None else [vs])]}
    first, *others = opened.values()
    for other in others:
        if other.labels != first.labels:
            raise ConfigError(
                f"{first.folder} and {other.folder} have different labels; compare artifacts of the same classes"
            )
    with progress(f"listing {dataset}", None):
        source = open_source(dataset, limit=limit)
    check_classes(source, first.labels)
    if not allow_overlap:
        files = list_local_files(source)
        for artifact in opened.values():
            refuse_calibration_images(artifact.manifest, files)

    rows_path = None if output is None else Path(output)
    collected: dict[Path, _Collected] = {}
    with ExitStack() as finished:
        runner = finished.enter_context(
            open_runner(ray, workers=workers, threads=threads, verify=verify, progress=progress)
        )
        for number, (path, artifact) in enumerate(opened.items()):
            collected[path] = _collect(
                artifact,
                source,
                runner,
                allow_overlap=allow_overlap,
                output=rows_path if number == 0 else None,
                keep_images=len(opened) > 1,
                journal=_open_journal(artifact, source, ray, rows_path, finished),
                progress=progress,
            )
        theirs = collected[Path(vs)] if vs is not None else None
        results = []
        for number, path in enumerate(map(Path, artifacts)):
            ours = collected[path]
            table, tally = ours.table, ours.tally
            top1, top5 = (int(hits.sum()) for hits in table.find_hits())
            results.append(
                Evaluation(
                    artifact=opened[path].folder,
                    dataset=source.url,
                    kind=source.kind,
                    parts=len(source.parts),
                    images=len(table),
                    unreadable=tally.unreadable,
                    unreadable_images=tally.listed,
                    top1=compute_rate(top1, len(table)),
                    top5=compute_rate(top5, len(table)),
                    vs=pair_predictions(Path(str(vs)), table, theirs.table, first.labels) if theirs else None,
                    classes=count_classes(table, theirs.table if theirs else None, first.labels),
                    output=rows_path if number == 0 else None,
                    placement=runner.describe(opened[path]),
                    repeated=tally.repeated,
                    seconds=ours.seconds,
                )
            )
    return results


@dataclass(frozen=True, kw_only=True)
class _Collected:
    table: PredictionTable
    tally: Tally
    seconds: float


def _collect(
    artifact: Artifact,
    source: Source,
    runner: Runner,
    *,
    allow_overlap: bool,
    output: Path | None,
    keep_images: bool,
    journal: Journal | None,
    progress: Progress,
) -> _Collected:
    """Classify a source; predictions are kept in the journal about every `CHUNK_SECONDS`."""
    tally = Tally(len(source.parts))
    builder = PredictionTableBuilder(keep_images=keep_images)

    def add(row: Row) -> None:
        builder.add(row, locate_image(source, row.part, row.position, row.key) if keep_images else "")

    done = set()
    for chunk in journal.records if journal else ():
        for part, position, key, truth, classes, probabilities in chunk:
            row = Row(
                part=part,
                position=position,
                key=key,
                truth=truth,
                classes=tuple(classes),
                probabilities=tuple(probabilities),
            )
            tally.add(row)
            add(row)
            done.add((part, position))
    if done:
        total = "" if source.images is None else f" of {source.images:,}"
        warnings.warn(
            f"continuing an interrupted evaluation of {artifact.folder}: {len(done):,}{total} images were done",
            stacklevel=4,
        )
    request = Request(top=TOP, labelled=True, allow_overlap=allow_overlap)
    chunk, chunk_begin = [], time.monotonic()
    with ExitStack() as stack:
        write = None
        if output is not None:
            from nestforge.scale.arrow import write_results

            write = stack.enter_context(write_results(output, describe_rows(artifact, source)))
        remaining = None if source.images is None else source.images - len(done)
        advance = stack.enter_context(progress(f"classifying with {artifact.folder.name}", remaining))
        begin = time.perf_counter()
        for row in stack.enter_context(closing(runner.run(artifact, source, request, tally, done=done))):
            advance(1)
            if write is not None:
                write(row)
            if row.error is not None:
                continue
            add(row)
            if journal is not None:
                chunk.append((row.part, row.position, row.key, row.truth, row.classes, row.probabilities))
                if time.monotonic() - chunk_begin >= CHUNK_SECONDS:
                    journal.append(chunk)
                    chunk, chunk_begin = [], time.monotonic()
        seconds = time.perf_counter() - begin
    if journal is not None and chunk and journal.is_kept:  # another artifact may follow
        journal.append(chunk)
    return _Collected(table=builder.finish(), tally=tally, seconds=seconds)


def _open_journal(
    artifact: Artifact, source: Source, ray: str | None, output: Path | None, finished: ExitStack
) -> Journal | None:
    """Open the journal of an evaluation in this process, which is kept until `finished` is left without an error."""
    if ray is not None or output is not None:
        return None
    key = fingerprint_evaluation(artifact, source)
    return None if key is None else finished.enter_context(keep_journal("evaluate", key))


def fingerprint_evaluation(artifact: Artifact, source: Source) -> dict[str, Any] | None:
    """Return everything the predictions depend on, as JSON values; None where files are at a URL."""
    files = fingerprint_source(source)
    if files is None:
        return None
    return artifact.fingerprint() | {"source_sha256": hash_json(files), "top": TOP}


def check_classes(source: Source, labels: Sequence[Label]) -> None:
    """Refuse classes the labels do not name before any work: all of a folder or list, the first of shards.

    Raises:
        DataError: such a class, or none.
    """
    if source.kind == "folder":
        files = [file for part in source.parts if isinstance(part, FolderPart) for file in part.files]
        folders, keys = [folder for folder, _, _ in files], [key for _, key, _ in files]
        match_folders(source.url, folders, labels, keys=keys, is_list=source.is_list)
        return
    truths = TruthFinder(labels)
    readable = (sample for sample in source.parts[0].read() if not isinstance(sample.image, MissingImage))
    for sample in islice(readable, 1):
        try:
            truths.find(sample.label)
        except DataError as error:
            raise DataError(f"{source.url}: {sample.key}: {error}") from error
