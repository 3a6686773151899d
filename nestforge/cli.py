"""The command line: one command is one public function, its result a table or JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import nestforge
from nestforge.errors import NestForgeError, run_command
from nestforge.progress import show_bars

if TYPE_CHECKING:
    from rich.console import Console


app = typer.Typer(
    name="nestforge",
    help="From an image classifier's checkpoint to a measured int8 artifact for this machine's CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RESUMABLE = {"evaluate"}  # what is done so far is kept, and not done again by the same command

ArtifactArgument = Annotated[Path, typer.Argument(help="Folder that 'nestforge build' made.", show_default=False)]


def check_json_target(target: str | None) -> str | None:
    """Refuse a --json file that could not be written, before any work is done."""
    if target is not None and target != "-":
        path = Path(target)
        if not target or path.is_dir() or not path.parent.is_dir():
            raise NestForgeError(f"--json {target!r}: name a file in a folder that exists, or - for stdout")
    return target


def check_file_target(target: Path | None) -> Path | None:
    """Refuse an output file that could not be written, before any work is done."""
    if target is not None and (target.is_dir() or not target.parent.is_dir()):
        raise NestForgeError(f"cannot write {target}: name a file in a folder that exists")
    return target


JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=check_json_target,
        help="Write the result as JSON; - for stdout, and nothing else there.",
    ),
]

OverlapOption = Annotated[
    bool, typer.Option("--allow-overlap", help="Evaluate on calibration images too, which flatters.")
]
LimitOption = Annotated[
    int | None, typer.Option(help="Take this many images, evenly over the classes and always the same.")
]


NoVerifyOption = Annotated[
    bool, typer.Option("--no-verify", help="Use an artifact whose files were changed, after a warning.")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Spread the work over a Ray cluster: HOST:PORT, auto, or local for one of this machine's cores.",
    ),
]
WorkersOption = Annotated[int | None, typer.Option(help="With --ray: processes; default: as many as fit the cluster.")]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Threads of a worker; default: 1, without --ray all cores.", show_default=False)
]
RowsOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE.parquet", help="Write a row for every image; replaced if it exists."),
]


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"nestforge {nestforge.__version__}")
        raise typer.Exit


@app.command()
def models(json: JsonOption = None) -> None:
    """List every variant: size, parameters, MACs, published top-1, weight hash."""
    from nestforge.tables.networks import show_models

    _deliver(nestforge.models(), show_models, json)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A name that 'nestforge models' lists.", show_default=False)],
    weights: Annotated[Path | None, typer.Option(help="Checkpoint; default: the authors', downloaded once.")] = None,
    size: Annotated[
        int | None, typer.Option(help="Square input size to count and check; default: the variant's.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="ONNX file, replaced if it exists; default: MODEL.onnx.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Reproducible random weights instead of a checkpoint.")] = None,
    json: JsonOption = None,
) -> None:
    """Export a checkpoint to ONNX and prove it equal to the torch module."""
    from nestforge.tables.networks import show_export

    result = nestforge.export(model, weights=weights, size=size, output=output, seed=seed, progress=show_bars)
    _deliver(result, show_export, json)


@app.command()
def build(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="Build file; see configs/.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value; may be repeated.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that exists.")] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Measure what each rewriting bought, and where time goes; slow."),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Build an artifact (fp32, bf16 or int8) from one YAML file."""
    from nestforge.config import read_config
    from nestforge.explain.rewrites import check_explainable
    from nestforge.tables.builds import show_build, show_config

    resolved = read_config(config, overrides or ())
    if explain:
        check_explainable(resolved)
    show_config(resolved, _stderr())
    result = nestforge.build(resolved, overwrite=overwrite, progress=show_bars)
    if explain:
        result = replace(result, explanation=nestforge.explain_build(result.artifact, progress=show_bars))
    _deliver(result, show_build, json)


@app.command()
def predict(
    artifact: ArtifactArgument,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files; with --output one SOURCE: a folder, tar shards or Parquet, a path or URL.",
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

    if output is None and (ray, workers, threads) == (None, None, None):
        predictions = nestforge.predict(artifact, images, top=top, verify=not no_verify, progress=show_bars)
        _deliver(predictions, show_predictions, json)
        if any(prediction.error for prediction in predictions):
            raise typer.Exit(1)
        return
    from nestforge.tables.scale import show_source_result

    if no_verify:
        raise NestForgeError("--no-verify goes with image files; --ray and --output take artifacts as they were built")
    if output is None or len(images) != 1:
        raise NestForgeError("--ray classifies one source into a file; name one folder, shard or pattern and --output")
    result = nestforge.predict_source(
        artifact, images[0], output=output, ray=ray, workers=workers, threads=threads, progress=show_bars
    )
    _deliver(result, show_source_result, json)
    if result.unreadable:
        raise typer.Exit(1)


@app.command()
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
            metavar="FILE.csv", callback=check_file_target, help="With --vs: every image whose answer changed."
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
    from nestforge.scale.sources import is_plain_folder
    from nestforge.tables.measurements import show_evaluation
    from nestforge.tables.scale import show_source_result

    if (ray, workers, threads, output) != (None, None, None, None) or not is_plain_folder(dataset):
        if (vs, limit, changes, no_verify) != (None, None, None, False):
            raise NestForgeError(
                "--vs, --limit, --changes and --no-verify take a folder, without --ray, --workers, --threads and -o"
            )
        counted = nestforge.evaluate_source(
            artifact,
            dataset,
            ray=ray,
            workers=workers,
            threads=threads,
            output=output,
            allow_overlap=allow_overlap,
            progress=show_bars,
        )
        _deliver(counted, show_source_result, json)
        return
    if changes is not None and vs is None:
        raise NestForgeError("--changes lists answers that differ from another artifact's; name it with --vs")
    result = nestforge.evaluate(
        artifact,
        dataset,
        vs=vs,
        limit=limit,
        allow_overlap=allow_overlap,
        verify=not no_verify,
        progress=show_bars,
    )
    if changes is not None and result.vs is not None:
        write_changes(result.vs.changed, changes)
    _deliver(result, show_evaluation, json)


@app.command()
def sensitivity(
    artifact_or_config: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT|CONFIG.yaml", help="An artifact's folder, or a build file.", show_default=False
        ),
    ],
    images: Annotated[int, typer.Option(help="Calibration images to compare answers on.")] = 8,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", callback=check_file_target, help="Draw the ranking as well.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Rank layers by what int8 costs in each: alone, and spared. Ctrl-C keeps what is done; exit code 1 then."""
    from nestforge.pages.sensitivity import draw_noise
    from nestforge.pages.svg import write_svg
    from nestforge.tables.explain import show_sensitivity

    result = nestforge.sensitivity(artifact_or_config, images=images, progress=show_bars)
    _deliver(result, show_sensitivity, json)
    if plot is not None:
        write_svg(draw_noise(result), plot)
    if not result.complete:
        raise typer.Exit(1)


@app.command()
def bench(
    artifact: ArtifactArgument,
    batch: Annotated[int, typer.Option(help="Images in a request.")] = 1,
    streams: Annotated[int, typer.Option(help="Requests at the same time.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads for all streams; default: the cores to use.")] = None,
    seconds: Annotated[float, typer.Option(help="Measured time for each artifact.")] = 5.0,
    vs: Annotated[Path | None, typer.Option(help="Another artifact, measured in turns.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the best batch, streams and threads; the artifact remembers them.")
    ] = False,
    budget: Annotated[float, typer.Option(metavar="SECONDS", help="With --tune: time to spend.")] = 60.0,
    no_verify: NoVerifyOption = False,
    json: JsonOption = None,
) -> None:
    """Measure throughput, latency and the share of the machine's peak."""
    from nestforge.tables.measurements import show_bench, show_tuning

    if tune:
        if (batch, streams, threads, vs, no_verify) != (1, 1, None, None, False):
            raise NestForgeError("--tune chooses batch, streams and threads of one artifact; leave the others out")
        _deliver(nestforge.tune(artifact, budget_seconds=budget, progress=show_bars), show_tuning, json)
        return
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
    _deliver(result, show_bench, json)


@app.command()
def loadgen(
    artifact: ArtifactArgument,
    dataset: Annotated[Path, typer.Argument(help="Folder with one subfolder of images per class.", show_default=False)],
    scenario: Annotated[str, typer.Option(help="Offline, SingleStream or Server.")] = "Offline",
    mode: Annotated[str, typer.Option(help="performance, or accuracy: every image once.")] = "performance",
    batch: Annotated[int | None, typer.Option(help="Images in a request; default: 8 for Offline, else 1.")] = None,
    streams: Annotated[int, typer.Option(help="Requests at the same time.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads for all streams; default: the cores to use.")] = None,
    seconds: Annotated[float, typer.Option(help="Least duration; official results take 600.")] = 10.0,
    queries: Annotated[
        int | None, typer.Option(help="Least number of queries; default: what LoadGen needs to judge.")
    ] = None,
    target_qps: Annotated[
        float | None, typer.Option(help="What Server sends, Offline expects; default: from a trial.")
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Server's bound for the 99th percentile; default: from a trial.")
    ] = None,
    logs: Annotated[Path | None, typer.Option(help="New folder that keeps LoadGen's own logs.")] = None,
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
    _deliver(result, show_loadgen, json)


@app.command()
def report(
    artifacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTIFACT", help="Folders that 'nestforge build' made.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.html", help="The page, replaced if it exists.")
    ] = Path("report.html"),
    dataset: Annotated[
        Path | None, typer.Option(help="Labelled folder: adds accuracy and the answers that changed.")
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
    threads: Annotated[int | None, typer.Option(help="Threads to measure with; default: the cores to use.")] = None,
    json: JsonOption = None,
) -> None:
    """Write one HTML page on artifacts side by side: accuracy, changed answers, speed, how they were made."""
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
    _deliver(result, show_report, json)


@app.command()
def inspect(
    artifact: ArtifactArgument,
    vdsp_params: Annotated[
        Path | None, typer.Option("--vdsp_params", help="A vendor's vdsp_params file, compared as well.")
    ] = None,
    no_verify: NoVerifyOption = False,
    json: JsonOption = None,
) -> None:
    """Show how an artifact was made, after checking its files, and what differs from the published preprocessing."""
    from nestforge.tables.builds import show_manifest
    from nestforge.vendor.geometry import check_artifact

    differences = check_artifact(artifact, vdsp_params, verify=not no_verify)
    _deliver(nestforge.inspect(artifact, verify=not no_verify), show_manifest, json)
    for difference in differences:
        print(f"warning: {difference}", file=sys.stderr)


def main() -> None:
    """Run the command line; a `NestForgeError` is one line on stderr and exit code 2."""
    # OpenVINO imports its model converters where it can; no command needs them, and they take a tenth of a start.
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    run_command(app, name="nestforge", resumes=not RESUMABLE.isdisjoint(sys.argv[1:2]))


def _deliver(result: Any, show: Callable[[Any, Console], None], json: str | None) -> None:
    from rich.console import Console

    if json is not None:
        from nestforge.files import write_json

        write_json(result, json)
    if json != "-":
        console = Console(width=None if sys.stdout.isatty() else 140)
        show(result, console)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)
