"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from nestforge.compile.build import BuildResult
    from nestforge.compile.export import ExportResult
    from nestforge.config import BuildConfig
    from nestforge.measure.benchmark import Bench, Latency
    from nestforge.measure.evaluate import Evaluation
    from nestforge.measure.predict import Prediction
    from nestforge.measure.statistics import Rate
    from nestforge.networks.catalog import ModelRow


def format_rate(rate: Rate) -> str:
    """Write a rate in percent with its interval."""
    return f"{rate.rate:.2%} [{rate.low:.2%}, {rate.high:.2%}]"


def format_latency(latency: Latency) -> str:
    """Write the usual percentiles."""
    return f"p50 {latency.p50:.2f}, p90 {latency.p90:.2f}, p99 {latency.p99:.2f}, mean {latency.mean:.2f} ms"


def make_pairs_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Make a table of names and values."""
    table = Table(
        title=escape(title), title_justify="left", show_header=False, box=None, pad_edge=False, min_width=len(title)
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    return table


def make_grid(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table with a header; all columns but the first are aligned to the right."""
    table = Table(
        title=escape(title), title_justify="left", header_style="bold", box=None, pad_edge=False, min_width=len(title)
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def show_models(rows: Sequence[ModelRow], console: Console) -> None:
    columns = ("model", "size", "params (M)", "MACs (G)", "kernels (G)", "doc flops(G)", "top-1 (%)", "sha256")
    lines = [
        (
            row.name,
            str(row.size),
            f"{row.params / 1e6:.3f}",
            f"{row.macs / 1e9:.3f}",
            f"{row.kernel_macs / 1e9:.3f}",
            f"{row.document_gflops:.3f}",
            "-" if row.top1 is None else f"{row.top1:.2f}",
            row.sha256_prefix or "-",
        )
        for row in rows
    ]
    console.print(make_grid("", columns, lines))
    console.print(
        "MACs as published tables count them (thop: batch norm and average pools included); kernels: convolutions\n"
        "and linear layers alone; doc flops(G): the seed document's, MACs x 2 / 0.9e9. Its 79.762 for resnest200\n"
        "looks like a transposed digit: the formula that gives its other rows to the last digit gives 79.672.\n"
        "Top-1 as published:",
        highlight=False,
    )
    for source in dict.fromkeys(row.top1_source for row in rows if row.top1_source):
        names = [row.name for row in rows if row.top1_source == source]
        console.print(f"  {names[0]}{' ...' if len(names) > 1 else ''}: {source}", highlight=False)


def show_export(result: ExportResult, console: Console) -> None:
    rows = [
        ("file", str(result.path)),
        ("weights", result.source),
        ("input", f"(B, 3, H, W) float32, counted at {result.size}x{result.size}; {result.classes} classes"),
        ("parameters", f"{result.params:,}"),
        ("MACs", f"{result.macs / 1e9:.3f} G (kernels alone {result.kernel_macs / 1e9:.3f} G)"),
        ("doc flops(G)", f"{result.document_gflops:.3f}"),
        ("largest difference", f"{result.max_relative_difference:.1e} relative to torch, {len(result.checks)} checks"),
        ("sha256", result.sha256),
    ]
    console.print(make_pairs_table(f"exported {result.model} in {result.seconds:.1f} s", rows))


def show_build(result: BuildResult, console: Console) -> None:
    parity = result.parity
    rows = [
        ("artifact", str(result.artifact)),
        ("engine, dtype", f"{result.engine}, {result.dtype}"),
        ("files", ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in result.files.items())),
        (
            "parity",
            f"cosine {parity.cosine:.6f}, max abs {parity.max_abs:.4g}, top-1 agreement "
            f"{parity.top1_agreement:.1%} on {parity.images} {parity.data} images",
        ),
        ("kernels", format_kernels(result.kernels)),
        ("took", f"{result.seconds:.1f} s, at most {result.peak_rss_bytes / 1e9:.2f} GB resident"),
    ]
    console.print(make_pairs_table("built", rows))
    for warning in result.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def format_kernels(kernels: Mapping[str, Mapping[str, int]]) -> str:
    """Write the counts of weighted layers by execution precision."""
    weighted = {name: counts for name, counts in kernels.items() if name in ("Convolution", "FullyConnected", "MatMul")}
    parts = [
        f"{name} {count} x {precision}" for name, counts in weighted.items() for precision, count in counts.items()
    ]
    return ", ".join(parts) or "the engine does not say"


def show_predictions(predictions: Sequence[Prediction], console: Console) -> None:
    for prediction in predictions:
        console.print(f"[bold]{escape(str(prediction.image))}[/]", highlight=False)
        if prediction.error:
            console.print(f"  [red]{escape(prediction.error)}[/]", highlight=False)
        for row in prediction.top:
            console.print(f"  {row.probability:7.2%}  {escape(row.label)} ({row.index})", highlight=False)


def show_evaluation(result: Evaluation, console: Console) -> None:
    columns = ("artifact", "top-1 [95%]", "top-5 [95%]", "correct")
    rows = [(str(result.artifact), format_rate(result.top1), format_rate(result.top5), str(result.top1.correct))]
    if result.vs:
        vs = result.vs
        rows.append((str(vs.artifact), format_rate(vs.top1), format_rate(vs.top5), str(vs.top1.correct)))
    console.print(make_grid(f"{result.images:,} images of {result.dataset}", columns, rows))
    if result.vs:
        console.print(
            f"paired: {100 * vs.difference:+.2f} pp [{100 * vs.low:+.2f}, {100 * vs.high:+.2f}], "
            f"lost {vs.lost}, gained {vs.gained}, McNemar exact p {vs.mcnemar_p:.2g}, "
            f"answers changed {vs.answers_changed}",
            highlight=False,
        )
    if result.unreadable:
        console.print(f"[yellow]{len(result.unreadable)} unreadable, in no count:[/]")
        for image in result.unreadable[:20]:
            console.print(f"  {escape(image.reason)}", highlight=False)


def show_bench(result: Bench, console: Console) -> None:
    machine = result.machine
    peak = result.peak
    rows = [
        ("artifact", f"{result.artifact} ({result.engine}, {result.dtype}, {result.height}x{result.width})"),
        (
            "machine",
            f"{machine.cpu}, {machine.available_cores} cores to use, {' '.join(machine.flags) or 'flags unknown'}",
        ),
        (
            "settings",
            f"batch {result.batch}, streams {result.streams}, threads {result.threads}, {result.seconds:g} s, "
            f"{result.requests} requests",
        ),
        ("throughput", f"{result.throughput_ips:.1f} images/s"),
        ("latency", format_latency(result.latency_ms)),
        (
            "share of peak",
            "-"
            if peak is None
            else f"{result.peak_share:.1%} of {peak.macs_per_second / 1e9:.0f} GMAC/s "
            f"({peak.method}, {peak.threads} threads); {result.macs / 1e9:.3f} GMAC an image",
        ),
    ]
    if result.vs:
        vs = result.vs
        rows += [
            (
                "versus",
                f"{vs.artifact} ({vs.dtype}): {vs.throughput_ips:.1f} images/s, {format_latency(vs.latency_ms)}",
            ),
            ("ratio", f"{vs.ratio:.3f} [{vs.low:.3f}, {vs.high:.3f}] over {vs.rounds} rounds in turns"),
        ]
    console.print(make_pairs_table("measured", rows))


def show_manifest(manifest: Mapping[str, Any], console: Console) -> None:
    from nestforge.data.preprocess import parse_preprocess

    config, parity, quantization = manifest["config"], manifest["parity"], manifest["quantization"]
    rows = [
        (
            "model",
            f"{manifest['name']}, {manifest['classes']} classes, {manifest['height']}x{manifest['width']}, "
            f"{manifest['kernel_macs'] / 1e9:.3f} GMAC an image",
        ),
        ("engine, dtype", f"{config['engine']}, {config['dtype']}"),
        ("preprocessing", parse_preprocess(manifest["preprocess"]).describe()),
        ("its sha256", manifest["preprocess_sha256"]),
        (
            "parity",
            f"cosine {parity['cosine']:.6f}, max abs {parity['max_abs']:.4g}, top-1 agreement "
            f"{parity['top1_agreement']:.1%} on {parity['images']} {parity['data']} images",
        ),
        ("kernels", format_kernels(manifest["kernels"])),
    ]
    if quantization:
        section = config["quantize"]
        mode = f"percentile {section['percentile']}" if section["mode"] == "percentile" else section["mode"]
        rows.append(
            (
                "quantized",
                f"{quantization['weighted_layers']} layers, {quantization['activations']} activations; {mode}; "
                f"{'per channel' if section['per_channel'] else 'per tensor'}; 16-bit saturation "
                f"{'avoided' if quantization['saturation_avoided'] else 'not an issue or ignored'}",
            )
        )
    sources = [(name, record) for name, record in manifest["inputs"].items()]
    rows += [("input", f"{name} {record['sha256'][:16]}") for name, record in sources[:3]]
    if len(sources) > 3:
        rows.append(("", f"and {len(sources) - 3} more"))
    rows += [
        ("file", f"{name} {record['size_bytes']:,} bytes {record['sha256'][:16]}")
        for name, record in manifest["outputs"].items()
    ]
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())))
    rows += [("warning", warning) for warning in manifest["warnings"]]
    console.print(make_pairs_table("artifact", rows))


def show_config(config: BuildConfig, console: Console) -> None:
    """Echo the effective settings of a build."""
    import yaml

    text = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False, default_flow_style=None)
    console.print(f"[bold]settings[/]\n{escape(text.rstrip())}", highlight=False, soft_wrap=True)
