"""The command line: one command is one public function, its result a table or JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
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

ArtifactArgument = Annotated[Path, typer.Argument(help="Folder that 'nestforge build' made.", show_default=False)]


def check_json_target(target: str | None) -> str | None:
    """Refuse a --json file that could not be written, before any work is done."""
    if target is not None and target != "-":
        path = Path(target)
        if not target or path.is_dir() or not path.parent.is_dir():
            raise NestForgeError(f"--json {target!r}: name a file in a folder that exists, or - for stdout")
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
    json: JsonOption = None,
) -> None:
    """Build an artifact (fp32, bf16 or int8) from one YAML file."""
    from nestforge.config import read_config
    from nestforge.tables.builds import show_build, show_config

    resolved = read_config(config, overrides or ())
    show_config(resolved, _stderr())
    _deliver(nestforge.build(resolved, overwrite=overwrite, progress=show_bars), show_build, json)


@app.command()
def predict(
    artifact: ArtifactArgument,
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    top: Annotated[int, typer.Option(help="Classes to show for each image.")] = 5,
    json: JsonOption = None,
) -> None:
    """Classify images: the best classes with names and probabilities. Exit code 1 if some could not be read."""
    from nestforge.tables.measurements import show_predictions

    predictions = nestforge.predict(artifact, images, top=top, progress=show_bars)
    _deliver(predictions, show_predictions, json)
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(1)


@app.command()
def evaluate(
    artifact: ArtifactArgument,
    dataset: Annotated[Path, typer.Argument(help="Folder with one subfolder of images per class.", show_default=False)],
    vs: Annotated[Path | None, typer.Option(help="Another artifact, compared image by image.")] = None,
    limit: Annotated[int | None, typer.Option(help="Take this many images, evenly over the classes.")] = None,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Evaluate on calibration images too, which flatters.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Measure top-1 and top-5 on labelled folders, with intervals and paired statistics."""
    from nestforge.tables.measurements import show_evaluation

    result = nestforge.evaluate(artifact, dataset, vs=vs, limit=limit, allow_overlap=allow_overlap, progress=show_bars)
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
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw the ranking as well.")] = None,
    json: JsonOption = None,
) -> None:
    """Rank layers by what int8 costs in each: alone, and spared. Ctrl-C keeps what is done; exit code 1 then."""
    from nestforge.files import write_file_aside
    from nestforge.tables.explain import draw_sensitivity, show_sensitivity

    if plot is not None and not plot.parent.is_dir():
        raise NestForgeError(f"--plot {plot}: name a file in a folder that exists")
    result = nestforge.sensitivity(artifact_or_config, images=images, progress=show_bars)
    _deliver(result, show_sensitivity, json)
    if plot is not None:
        with write_file_aside(plot) as partial:
            partial.write_text(draw_sensitivity(result), encoding="utf-8")
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
    json: JsonOption = None,
) -> None:
    """Measure throughput, latency and the share of the machine's peak."""
    from nestforge.tables.measurements import show_bench

    result = nestforge.bench(
        artifact, batch=batch, streams=streams, threads=threads, seconds=seconds, vs=vs, progress=show_bars
    )
    _deliver(result, show_bench, json)


@app.command()
def inspect(
    artifact: ArtifactArgument,
    vdsp_params: Annotated[
        Path | None, typer.Option("--vdsp_params", help="A vendor's vdsp_params file, compared as well.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Show how an artifact was made, after checking its files, and what differs from the published preprocessing."""
    from nestforge.tables.builds import show_manifest
    from nestforge.vendor.geometry import check_artifact

    differences = check_artifact(artifact, vdsp_params)
    _deliver(nestforge.inspect(artifact), show_manifest, json)
    for difference in differences:
        print(f"warning: {difference}", file=sys.stderr)


def main() -> None:
    """Run the command line; a `NestForgeError` is one line on stderr and exit code 2."""
    run_command(app, name="nestforge")


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
