"""Results of sensitivity and accuracy control as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from nestforge.tables.layout import make_grid

if TYPE_CHECKING:
    from nestforge.accuracy.sensitivity import Sensitivity
    from nestforge.artifact.manifest import AccuracyControlRecord


def show_sensitivity(result: Sensitivity, console: Console) -> None:
    columns = (
        "layer, worst first",
        "kind",
        "MACs",
        "time",
        "alone dB",
        "flips",
        "float dB",
        "gain",
        "flips",
        "range",
        "clipped",
    )
    rows = [
        (
            layer.name,
            layer.kind,
            f"{layer.macs_share:.1%}",
            "-" if layer.time_share is None else f"{layer.time_share:.1%}",
            f"{layer.alone_sqnr_db:.1f}",
            str(layer.alone_flips),
            f"{layer.kept_in_float_sqnr_db:.2f}",
            f"{layer.kept_in_float_sqnr_db - result.total_sqnr_db:+.2f}",
            str(layer.kept_in_float_flips),
            f"{layer.range_low:.3g} to {layer.range_high:.3g}",
            f"{layer.clipped_share:.1e}",
        )
        for layer in result.layers
    ]
    title = (
        f"{result.artifact_or_config}: all in int8 {result.total_sqnr_db:.2f} dB, {result.total_flips} flips "
        f"on {result.images} images"
    )
    console.print(make_grid(title, columns, rows))
    console.print(
        "dB: signal-to-quantization-noise ratio of the logits; flips: changed top-1 predictions.\n"
        "alone: only this layer in int8; float: only this layer in float; gain: over all in int8.\n"
        f"took {result.seconds:.0f} s"
        + ("" if result.complete else f"; [yellow]interrupted after {len(result.layers)} layers[/]"),
        highlight=False,
    )


def show_accuracy_control(bound: AccuracyControlRecord, console: Console) -> None:
    rows = [
        (
            str(len(point.kept_in_float)),
            f"{100 * point.drop:+.2f}",
            f"{100 * point.drop_high:+.2f}",
            f"{point.lost} / {point.gained}",
            str(point.changed_predictions),
            f"{point.throughput_ips:.1f}",
            f"{point.kept_speed:.1%}",
            "chosen" if point.kept_in_float == bound.kept_in_float else "",
        )
        for point in bound.frontier
    ]
    columns = ("layers in float", "drop pp", "at most (95%)", "lost / gained", "changed", "images/s", "speed kept", "")
    title = f"drop within {bound.max_drop_pp:g} pp on {bound.images:,} images of {bound.validation}"
    console.print(make_grid(title, columns, rows))
    if bound.kept_in_float:
        console.print(f"in float: {', '.join(bound.kept_in_float)}", highlight=False, markup=False)
