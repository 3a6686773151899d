"""Builds and artifacts as tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from rich.console import Console

from nestforge.tables.accuracy import show_accuracy_control
from nestforge.tables.layout import escape, format_macs, make_grid, make_pairs_table

if TYPE_CHECKING:
    from nestforge.artifact.manifest import Explanation, Manifest
    from nestforge.compile.build import BuildResult
    from nestforge.config import BuildConfig


def show_config(config: BuildConfig, console: Console) -> None:
    """Print the effective settings of a build."""
    import yaml

    text = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False, default_flow_style=None)
    lines = "\n".join(map(escape, text.splitlines()))
    console.print(f"[bold]settings[/]\n{lines}", highlight=False, soft_wrap=True)


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
        ("graph passes", format_passes(result.passes)),
        ("kernels", format_kernels(result.kernels, result.weighted_types)),
        ("took", f"{result.seconds:.1f} s, at most {result.peak_rss_bytes / 1e9:.2f} GB resident"),
    ]
    console.print(make_pairs_table("built", rows))
    if result.accuracy_control:
        show_accuracy_control(result.accuracy_control, console)
    if result.explanation:
        show_explanation(result.explanation, console)
    for warning in result.warnings:
        if warning in parity.problems:
            console.print(f"[bold red]warning: {escape(warning)}[/]")
        else:
            console.print(f"[yellow]warning:[/] {escape(warning)}")


def show_explanation(result: Explanation, console: Console) -> None:
    rows = [
        (
            gain.name,
            "applied" if gain.applied else "left out",
            str(gain.matches),
            f"{gain.latency_ms:.2f}",
            f"{gain.other_latency_ms:.2f}",
            f"{gain.ratio:.3f} [{gain.low:.3f}, {gain.high:.3f}]",
        )
        for gain in result.passes
    ]
    columns = ("pass", "here", "matches", "ms as built", "ms switched", "throughput x [95%]")
    if rows:
        console.print(make_grid("optional graph passes, one image at a time", columns, rows))
    total = sum(kernel.time_ms for kernel in result.kernels)
    lines = [
        (
            kernel.layer_type,
            kernel.precision,
            str(kernel.count),
            f"{kernel.time_ms:.3f}",
            f"{kernel.time_ms / total:.1%}",
        )
        for kernel in result.kernels
    ]
    title = "time by layer type, as the engine reports it"
    header = ("layers", "runs in", "count", "ms per image", "share")
    console.print(make_grid(title, header, lines or [("not reported by the engine", "", "", "", "")]))


def format_passes(passes: Mapping[str, int]) -> str:
    """Write the number of matches of each pass."""
    return ", ".join(f"{name} {count}" for name, count in passes.items()) or "none"


def format_kernels(kernels: Mapping[str, Mapping[str, int]], weighted_types: Collection[str]) -> str:
    """Write the counts of weighted layers by execution precision."""
    parts = [
        f"{name} {count} x {precision}"
        for name, counts in kernels.items()
        for precision, count in counts.items()
        if name in weighted_types
    ]
    return ", ".join(parts) or "not reported by the engine"


def show_manifest(manifest: Manifest, console: Console) -> None:
    console.print(make_pairs_table("artifact", list_manifest_rows(manifest)))


def describe_input(manifest: Manifest) -> str:
    """Write what the source model takes; the artifact itself takes NCHW float32 in three channels."""
    interface, batch = manifest.interface, manifest.fixed_batch
    kind = "grey images" if interface.input_channels == 1 else "images"
    size = "any batch" if batch is None else f"batches of {batch} alone"
    widened = f"; {', '.join(interface.widened)} became float32" if interface.widened else ""
    return f"{kind}, {interface.input_layout} {interface.input_dtype}, {size}{widened}"


def describe_output(manifest: Manifest) -> str:
    """Write which output of the source model classifies, and what the artifact's scores are."""
    interface = manifest.interface
    names = {
        "logits": "logits",
        "probabilities": "probabilities that add up to 1",
        "log_probabilities": "logarithms of probabilities",
        "sigmoid": "a probability for each class by itself",
    }
    unused = f"; not used: {', '.join(interface.unused_outputs)}" if interface.unused_outputs else ""
    shape = ", ".join(map(str, interface.output_shape))
    return f"{interface.output} ({shape}), scores are {names[manifest.scores]}{unused}"


def list_manifest_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the content of a manifest as names and values; a name may come several times."""
    config, parity, quantization = manifest.config, manifest.parity, manifest.quantization
    rows = [
        (
            "model",
            f"{manifest.name}, {manifest.classes} classes, {manifest.height}x{manifest.width}, "
            f"{format_macs(manifest.kernel_macs)}",
        ),
        ("source takes", describe_input(manifest)),
        ("source gives", describe_output(manifest)),
        ("engine, dtype", f"{config.engine}, {config.dtype}"),
        ("preprocessing", manifest.preprocess.describe()),
        ("sha256", manifest.preprocess_sha256),
        (
            "parity",
            f"cosine {parity.cosine:.6f}, max abs {parity.max_abs:.4g}, top-1 agreement "
            f"{parity.top1_agreement:.1%} on {parity.images} {parity.data} images",
        ),
        ("graph passes", format_passes(manifest.passes)),
        ("kernels", format_kernels(manifest.kernels, manifest.weighted_types)),
    ]
    if quantization:
        section = config.quantize
        mode = f"percentile {section.percentile}" if section.mode == "percentile" else section.mode
        rows.append(
            (
                "quantized",
                f"{quantization.weighted_layers} layers, {quantization.activations} activations; {mode}; "
                f"{'per channel' if section.per_channel else 'per tensor'}; 16-bit saturation "
                f"{'avoided' if quantization.saturation_avoided else 'not possible or ignored'}",
            )
        )
    sources = [(name, record) for name, record in manifest.inputs.items()]
    rows += [("input", f"{name} {record.sha256[:16]}") for name, record in sources[:3]]
    if len(sources) > 3:
        rows.append(("", f"and {len(sources) - 3} more"))
    rows += [
        ("file", f"{name} {record.size_bytes:,} bytes {record.sha256[:16]}")
        for name, record in manifest.outputs.items()
    ]
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())))
    rows += [("warning", warning) for warning in manifest.warnings]
    return rows
