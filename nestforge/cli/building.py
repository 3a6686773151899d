"""Commands of the build side: exports, artifacts, sensitivity."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import nestforge
from nestforge.cli.options import (
    ArtifactArgument,
    JsonOption,
    NoVerifyOption,
    check_file_target,
    emit,
    make_stderr,
)
from nestforge.progress import show_bars


def models(json: JsonOption = None) -> None:
    """List every variant: size, parameters, MACs, published top-1, weight hash."""
    from nestforge.tables.networks import show_models

    emit(nestforge.models(), show_models, json)


def export(
    model: Annotated[
        str, typer.Argument(help="A name that 'nestforge models' lists, or timm:NAME.", show_default=False)
    ],
    weights: Annotated[Path | None, typer.Option(help="Checkpoint; default: the authors', downloaded once.")] = None,
    size: Annotated[
        int | None, typer.Option(help="Square input size to count and check; default: the model's own.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="ONNX file, replaced if it exists; default: MODEL.onnx.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Reproducible random weights instead of a checkpoint.")] = None,
    json: JsonOption = None,
) -> None:
    """Export a checkpoint, or any classifier of timm, to ONNX and compare it with the torch module."""
    from nestforge.tables.networks import show_export

    result = nestforge.export(model, weights=weights, size=size, output=output, seed=seed, progress=show_bars)
    emit(result, show_export, json)


def build(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="Build file; see configs/.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value; may be repeated.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that exists.")] = False,
    allow_poor_parity: Annotated[
        bool, typer.Option("--allow-poor-parity", help="Keep a build that agrees with its source by chance only.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Measure the speedup of each graph pass, and where time goes; slow."),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Build an artifact (fp32, bf16 or int8) from one YAML file."""
    from nestforge.compile.explain import check_explainable
    from nestforge.config import read_config
    from nestforge.tables.builds import show_build, show_config

    resolved = read_config(config, [*(overrides or ()), *(["allow_poor_parity=true"] if allow_poor_parity else ())])
    if explain:
        check_explainable(resolved)
    show_config(resolved, make_stderr())
    result = nestforge.build(resolved, overwrite=overwrite, progress=show_bars)
    if explain:
        result = replace(result, explanation=nestforge.explain_build(result.artifact, progress=show_bars))
    emit(result, show_build, json)
    for problem in result.parity.problems if json == "-" else ():
        print(f"warning: {problem}", file=sys.stderr)


def sensitivity(
    artifact_or_config: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT|CONFIG.yaml", help="An artifact's folder, or a build file.", show_default=False
        ),
    ],
    images: Annotated[int, typer.Option(help="Calibration images to compare predictions on.")] = 8,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", callback=check_file_target, help="Also draw the ranking.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Rank layers by the cost of int8: each quantized alone, and each kept in float. Ctrl-C keeps finished layers."""
    from nestforge.pages.sensitivity import draw_noise
    from nestforge.pages.svg import write_svg
    from nestforge.tables.accuracy import show_sensitivity

    result = nestforge.sensitivity(artifact_or_config, images=images, progress=show_bars)
    emit(result, show_sensitivity, json)
    if plot is not None:
        write_svg(draw_noise(result), plot)
    if not result.complete:
        raise typer.Exit(1)


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
    from nestforge.vacc.geometry import check_preprocess

    manifest = nestforge.inspect(artifact, verify=not no_verify)
    differences = check_preprocess(manifest, artifact, vdsp_params)
    emit(manifest, show_manifest, json)
    for difference in differences:
        print(f"warning: {difference}", file=sys.stderr)
