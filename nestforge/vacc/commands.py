"""The command lines of the vendor's tools. Each command calls one public function and prints its result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nestforge.checks import check_range
from nestforge.commandline import make_printable, run_command
from nestforge.errors import ConfigError, ModelError
from nestforge.progress import show_bars

if TYPE_CHECKING:
    from nestforge.data.loader import UnreadableImage
    from nestforge.measure.statistics import Rate
    from nestforge.vacc.vamp import VampBench, VampSettings

_SETTINGS = {"help_option_names": ["-h", "--help"]}


def _make_app(help_text: str) -> typer.Typer:
    return typer.Typer(help=help_text, add_completion=False, pretty_exceptions_enable=False, context_settings=_SETTINGS)


exporter = _make_app("Export an official ResNeSt checkpoint to ONNX.")
converter = _make_app("Turn images into npz files, and list them.")
compiler = _make_app("Build an artifact from a build file of the vendor.")
runner = _make_app("Measure an artifact, or run it over a list of npz images.")
evaluator = _make_app("Compute top-1 and top-5 accuracy from the results of vamp.")


@exporter.command()
def export_official(
    model_name: Annotated[
        str, typer.Option("--model_name", help="A model that 'nestforge models' lists.")
    ] = "resnest50",
    size: Annotated[
        int | None, typer.Option("--size", help="Side of the square input in pixels, for MACs and checks.")
    ] = None,
    save_dir: Annotated[Path, typer.Option("--save_dir", help="Folder for MODEL_NAME.onnx.")] = Path(),
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint; default: the authors', downloaded once.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Use reproducible random weights instead.")] = None,
) -> None:
    """Export an official ResNeSt checkpoint to ONNX; print parameters, MACs and the vendor guide's flops(G)."""
    from nestforge.compile.export import export
    from nestforge.networks.zoo import get_variant

    get_variant(model_name)
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot create {save_dir}: {error.strerror}; choose another --save_dir") from error
    result = export(
        model_name,
        weights=weights,
        size=size,
        output=save_dir / f"{model_name}.onnx",
        seed=seed,
        progress=show_bars,
    )
    assert result.macs is not None  # a variant has both
    assert result.vendor_gflops is not None
    print(f"{result.path}: {result.model} at {result.size}x{result.size}, weights from {result.source}")
    print(f"MACs(G): {result.macs / 1e9:.3f}  (convolutions and linear layers alone: {result.kernel_macs / 1e9:.3f})")
    print(f"flops(G): {result.vendor_gflops:.3f}  (vendor guide: MACs x 2 / 0.9e9)")
    print(f"params(M): {result.params / 1e6:.3f}")
    for note in result.notes:
        print(f"note: {note}")
    print(
        f"convert ok! largest relative difference to torch in float64: {result.max_relative_difference:.1e} "
        f"(torch's own float32: {result.max_torch_float32_difference:.1e})"
    )


@converter.command()
def convert(
    dataset_path: Annotated[Path, typer.Option("--dataset_path", help="Folder with one subfolder per class.")],
    target_path: Annotated[Path, typer.Option("--target_path", help="Folder for the files CLASS/NAME.npz.")],
    text_path: Annotated[Path, typer.Option("--text_path", help="File for the list of npz files.")] = Path("npz.txt"),
    workers: Annotated[int | None, typer.Option("--workers", help="Threads; default: all available cores.")] = None,
) -> None:
    """Turn images into npz files, and list them. Exit code 1 if some images could not be read."""
    from nestforge.vacc.npz import convert_images

    if workers is not None:
        check_range("--workers", workers, 1, 1024)
    result = convert_images(dataset_path, target_path, text_path, workers=workers, progress=show_bars)
    print(f"{result.written} npz written, {result.skipped} there already; {result.datalist} lists {result.listed}")
    _exit_on_unreadable("images", result.unreadable)


@compiler.callback()
def start() -> None:
    """Build an artifact from a build file of the vendor."""


@compiler.command("compile")
@compiler.command("build")
def build_vacc(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The vendor's build file.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing artifact.")] = False,
) -> None:
    """Build the artifact WORKSPACE/MODEL-DTYPE-MODE-C_H_W-vacc/MODEL."""
    from nestforge.builder import build
    from nestforge.engines import get_engine
    from nestforge.tables.builds import show_build
    from nestforge.vacc.vamc import check_assumed_preprocess, plan_build, read_vamc

    plan = plan_build(read_vamc(file), has_bf16=get_engine("openvino").supports("bf16"))
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    check_assumed_preprocess(plan)
    result = build(plan.config, overwrite=overwrite, progress=show_bars)
    _show(result, show_build)


@runner.command()
def run(
    model: Annotated[Path, typer.Option("--model", "-m", help="Artifact folder (the vendor's model prefix).")],
    vdsp_params: Annotated[
        Path | None, typer.Option("--vdsp_params", help="JSON file that describes the preprocessing.")
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option("--instances", "-i", help="Parallel requests per process; default: 1, or as tuned."),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", "-p", help="Number of processes.")] = 1,
    batch: Annotated[
        int | None, typer.Option("--batch", "-b", help="Images per request; default: 1, or as tuned.")
    ] = None,
    shape: Annotated[str | None, typer.Option("--shape", "-s", metavar="[C,H,W]", help="Input shape to check.")] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="0 is the CPU, the only device.")] = "0",
    seconds: Annotated[float | None, typer.Option("--time", "-t", help="Seconds to measure; default: 5.")] = None,
    iterations: Annotated[int | None, typer.Option("--iterations", help="Batches per instance, instead of -t.")] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON; - for stdout.")
    ] = None,
    datalist: Annotated[
        Path | None, typer.Option("--datalist", help="List of npz images to run the artifact on.")
    ] = None,
    path_output: Annotated[
        Path | None, typer.Option("--path_output", help="Folder for the results of --datalist.")
    ] = None,
) -> None:
    """Measure an artifact, or run it over a list of npz images. Exit code 1 if some could not be read."""
    from nestforge.files import write_json
    from nestforge.vacc.vamp import measure_vamp, open_settings

    if device.lower() not in ("0", "[0]", "cpu"):
        raise ConfigError(f"-d {device}: the only device is 0, the CPU; leave -d out")
    if (datalist is None) != (path_output is None):
        raise ConfigError("--datalist and --path_output go together: give both, or neither to measure speed")
    if datalist is not None and vdsp_params is None:
        raise ConfigError("--datalist needs --vdsp_params: the file says how images become the network's input")
    settings = open_settings(
        model,
        vdsp_params,
        instances=instances,
        processes=processes,
        batch=batch,
        shape=None if shape is None else _parse_shape(shape),
    )
    if datalist is not None and path_output is not None:
        if seconds is not None or iterations is not None:
            raise ConfigError("-t and --iterations measure speed; leave them out with --datalist")
        _run_list(settings, datalist, path_output, json)
        return
    if seconds is not None and iterations is not None:
        raise ConfigError("give -t or --iterations, not both")
    result = measure_vamp(
        settings,
        seconds=5.0 if seconds is None else seconds,
        iterations=iterations,
    )
    _warn(result.warnings)
    if json != "-":
        _show_bench(result)
    if json is not None:
        write_json(result, json)


def _run_list(settings: VampSettings, datalist: Path, path_output: Path, json: str | None) -> None:
    from nestforge.files import write_json
    from nestforge.vacc.datalist import run_datalist

    result = run_datalist(settings, datalist, path_output, progress=show_bars)
    _warn(result.warnings)
    if json is not None:
        write_json(result, json)
    if json != "-":
        print(f"{result.written} results written to {result.output}, {result.skipped} there already")
    _exit_on_unreadable("npz files", result.unreadable)


def _parse_shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.strip().removeprefix("[").removesuffix("]").split(","))
    except ValueError as error:
        raise ConfigError(f"-s {text!r} is not a shape; write it as [3,256,256]") from error


def _show_bench(result: VampBench) -> None:
    latency = result.latency_ms
    print(f"model: {result.model} ({result.engine}, {result.dtype}, {'x'.join(map(str, result.shape))})")
    print(f"number of instances: {result.instances}, processes: {result.processes}, devices: [0]")
    print(f"batch size: {result.batch}, requests: {result.requests} in {result.seconds:.1f} s")
    print(f"throughput (fps): {result.throughput_fps:.2f}")
    print(f"latency (ms): mean {latency.mean:.2f}, p50 {latency.p50:.2f}, p90 {latency.p90:.2f}, p99 {latency.p99:.2f}")
    print(f"cpu: {result.cpu_cores:.2f} of {result.available_cores} cores, memory: {result.memory_bytes / 1e6:.0f} MB")
    if result.preprocess_ms is not None:
        print(f"vdsp preprocessing (not in the figures above): {result.preprocess_ms:.2f} ms per image on one core")


@evaluator.command()
def evaluate(
    result_path: Annotated[Path, typer.Option("--result_path", help="Result folder that vamp wrote.")],
    datalist: Annotated[Path, typer.Option("--datalist", help="List of npz images that vamp ran on.")],
    label: Annotated[Path, typer.Option("--label", help="Label file; line i names class i.")],
    result_file: Annotated[Path, typer.Option("--result_file", help="Output file with five lines per image.")] = Path(
        "result.txt"
    ),
) -> None:
    """Compute top-1 and top-5 accuracy from the results of vamp."""
    from nestforge.vacc.vamp_eval import evaluate_results

    result = evaluate_results(result_path, datalist, label, result_file=result_file, progress=show_bars)
    print(f"top1_rate: {100 * result.top1.rate:.4g} top5_rate: {100 * result.top5.rate:.4g}")
    print(f"top1准确率 (top-1 accuracy): {_format_count(result.top1, result.images)}")
    print(f"top5准确率 (top-5 accuracy): {_format_count(result.top5, result.images)}")
    print(f"{result.result_file}: five classes for each of {result.images} images")


def _format_count(rate: Rate, total: int) -> str:
    return f"{rate.correct} / {total} = {rate.rate:.2%}, 95% interval {rate.low:.2%} to {rate.high:.2%}"


def _show(result: Any, show: Callable[[Any, Any], None]) -> None:
    from rich.console import Console

    show(result, Console(width=None if sys.stdout.isatty() else 140))


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"warning: {make_printable(warning)}", file=sys.stderr)


def _exit_on_unreadable(what: str, unreadable: tuple[UnreadableImage, ...]) -> None:
    if unreadable:
        print(f"{len(unreadable)} {what} could not be read and were left out:", file=sys.stderr)
        for image in unreadable:
            print(f"  {make_printable(image.reason)}", file=sys.stderr)
        raise typer.Exit(1)


def official_export() -> None:
    """Run ``official_export.py``."""
    run_command(exporter, name="official_export")


def image2npz() -> None:
    """Run ``image2npz.py``."""
    run_command(converter, name="image2npz", resumes=True)


def vamc() -> None:
    """Run ``vamc``."""
    run_command(compiler, name="vamc")


def vamp() -> None:
    """Run ``vamp``."""
    run_command(runner, name="vamp", resumes=True)


def vamp_eval() -> None:
    """Run ``vamp_eval.py``."""
    run_command(evaluator, name="vamp_eval")
