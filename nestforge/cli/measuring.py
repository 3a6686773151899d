"""Commands that run artifacts: predictions, accuracy, speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import nestforge
from nestforge.cli.options import (
    ArtifactArgument,
    JsonOption,
    LimitOption,
    NoVerifyOption,
    OverlapOption,
    RayOption,
    RowsOption,
    ThreadsOption,
    WorkersOption,
    check_file_target,
    emit,
    refuse_options,
)
from nestforge.errors import NestForgeError
from nestforge.progress import show_bars


def predict(
    artifact: ArtifactArgument,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, tar shards or Parquet; paths or URLs.",
            show_default=False,
        ),
    ],
    top: Annotated[int, typer.Option(help="Classes to show for each image.")] = 5,
    no_verify: NoVerifyOption = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    output: RowsOption = None,
    json: JsonOption = None,
) -> None:
    """Classify images: the best classes with names and probabilities. Exit code 1 if some could not be read."""
    from nestforge.tables.measurements import show_predictions

    result = nestforge.predict(
        artifact,
        images,
        top=top,
        output=output,
        ray=ray,
        workers=workers,
        threads=threads,
        verify=not no_verify,
        progress=show_bars,
    )
    emit(result, show_predictions, json)
    if result.unreadable:
        raise typer.Exit(1)


def evaluate(
    artifact: ArtifactArgument,
    dataset: Annotated[
        str,
        typer.Argument(
            help="Folder with one subfolder of images per class; or tar shards or Parquet, a path or URL.",
            show_default=False,
        ),
    ],
    vs: Annotated[Path | None, typer.Option(help="Another artifact, compared image by image.")] = None,
    limit: LimitOption = None,
    allow_overlap: OverlapOption = False,
    changes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv", callback=check_file_target, help="With --vs: every image whose prediction changed."
        ),
    ] = None,
    no_verify: NoVerifyOption = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    output: RowsOption = None,
    json: JsonOption = None,
) -> None:
    """Measure top-1 and top-5 on labelled images, by class too, with intervals and paired statistics."""
    from nestforge.measure.paired import write_changes
    from nestforge.tables.measurements import show_evaluation

    if changes is not None and vs is None:
        raise NestForgeError("--changes lists predictions that differ from another artifact's; name it with --vs")
    result = nestforge.evaluate(
        artifact,
        dataset,
        vs=vs,
        limit=limit,
        ray=ray,
        workers=workers,
        threads=threads,
        output=output,
        allow_overlap=allow_overlap,
        verify=not no_verify,
        progress=show_bars,
    )
    if changes is not None and result.vs is not None:
        write_changes(result.vs.changed, changes)
    emit(result, show_evaluation, json)


def bench(
    context: typer.Context,
    artifact: ArtifactArgument,
    batch: Annotated[int, typer.Option(help="Images per request.")] = 1,
    streams: Annotated[int, typer.Option(help="Requests at the same time.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads for all streams; default: all available cores.")] = None,
    seconds: Annotated[float, typer.Option(help="Measured time for each artifact.")] = 5.0,
    vs: Annotated[Path | None, typer.Option(help="Another artifact, measured interleaved with the first.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the best batch, streams and threads, and store them in the artifact.")
    ] = False,
    budget: Annotated[float, typer.Option(metavar="SECONDS", help="With --tune: time to spend.")] = 60.0,
    no_verify: NoVerifyOption = False,
    json: JsonOption = None,
) -> None:
    """Measure throughput, latency and the share of the machine's peak."""
    from nestforge.tables.measurements import show_bench, show_tuning

    if tune:
        reason = "--tune chooses batch, streams and threads of one artifact within --budget"
        refuse_options(context, ("batch", "streams", "threads", "seconds", "vs", "no_verify"), reason)
        emit(nestforge.tune(artifact, budget_seconds=budget, progress=show_bars), show_tuning, json)
        return
    refuse_options(context, ("budget",), "--budget is the time that --tune may spend")
    result = nestforge.bench(
        artifact,
        batch=batch,
        streams=streams,
        threads=threads,
        seconds=seconds,
        vs=vs,
        verify=not no_verify,
        progress=show_bars,
    )
    emit(result, show_bench, json)


def loadgen(
    artifact: ArtifactArgument,
    dataset: Annotated[Path, typer.Argument(help="Folder with one subfolder of images per class.", show_default=False)],
    scenario: Annotated[str, typer.Option(help="Offline, SingleStream or Server.")] = "Offline",
    mode: Annotated[str, typer.Option(help="performance, or accuracy: every image once.")] = "performance",
    batch: Annotated[int | None, typer.Option(help="Images per request; default: 8 for Offline, else 1.")] = None,
    streams: Annotated[int, typer.Option(help="Requests at the same time.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads for all streams; default: all available cores.")] = None,
    seconds: Annotated[float, typer.Option(help="Minimum duration; official results take 600.")] = 10.0,
    queries: Annotated[
        int | None, typer.Option(help="Minimum number of queries; default: as many as LoadGen needs for a verdict.")
    ] = None,
    target_qps: Annotated[
        float | None,
        typer.Option(help="Queries per second that Server sends and Offline expects; default: from a trial."),
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Server's limit for the 99th percentile; default: from a trial.")
    ] = None,
    logs: Annotated[Path | None, typer.Option(help="New folder for LoadGen's own logs.")] = None,
    allow_overlap: OverlapOption = False,
    json: JsonOption = None,
) -> None:
    """Measure under MLPerf's LoadGen, or count what it logs in accuracy mode."""
    from nestforge.tables.scale import show_loadgen

    result = nestforge.loadgen(
        artifact,
        dataset,
        scenario=scenario,
        mode=mode,
        batch=batch,
        streams=streams,
        threads=threads,
        seconds=seconds,
        queries=queries,
        target_qps=target_qps,
        latency_ms=latency_ms,
        logs=logs,
        allow_overlap=allow_overlap,
        progress=show_bars,
    )
    emit(result, show_loadgen, json)


def report(
    artifacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTIFACT", help="Folders that 'nestforge build' made.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.html", help="The page, replaced if it exists.")
    ] = Path("report.html"),
    dataset: Annotated[
        Path | None, typer.Option(help="Labelled images: adds accuracy and the changed predictions.")
    ] = None,
    limit: LimitOption = None,
    allow_overlap: OverlapOption = False,
    sensitivity: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.json", help="What 'nestforge sensitivity --json' wrote; may be repeated."),
    ] = None,
    bench: Annotated[bool, typer.Option("--bench/--no-bench", help="Measure speed.")] = True,
    seconds: Annotated[float, typer.Option(help="Measured time for each artifact and batch.")] = 2.0,
    max_batch: Annotated[int, typer.Option(help="Measure at batches 1, 2, 4, ... up to this.")] = 8,
    threads: Annotated[int | None, typer.Option(help="Threads to measure with; default: all available cores.")] = None,
    json: JsonOption = None,
) -> None:
    """Write one HTML page on artifacts side by side: accuracy, changed predictions, speed, manifests."""
    from nestforge.pages.report import show_report

    result = nestforge.report(
        artifacts,
        output=output,
        dataset=dataset,
        limit=limit,
        allow_overlap=allow_overlap,
        sensitivity=sensitivity or (),
        bench=bench,
        seconds=seconds,
        max_batch=max_batch,
        threads=threads,
        progress=show_bars,
    )
    emit(result, show_report, json)
