"""Variants and exports as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from nestforge.tables.layout import format_macs, make_grid, make_pairs_table

if TYPE_CHECKING:
    from nestforge.compile.export import ExportResult
    from nestforge.networks.catalog import ModelRow


def show_models(rows: Sequence[ModelRow], console: Console) -> None:
    columns = ("model", "size", "params\n(M)", "MACs\n(G)", "kernels\n(G)", "vendor\n(G)", "top-1\n(%)", "sha256")
    lines = [
        (
            row.name,
            str(row.size),
            f"{row.params / 1e6:.3f}",
            f"{row.macs / 1e9:.3f}",
            f"{row.kernel_macs / 1e9:.3f}",
            f"{row.vendor_gflops:.3f}",
            "-" if row.top1 is None else f"{row.top1:.2f}",
            row.sha256_prefix or "-",
        )
        for row in rows
    ]
    console.print(make_grid("", columns, lines))
    console.print(
        "MACs: as in published tables (thop: batch norm and average pools included).\n"
        "kernels: convolutions and linear layers alone.\n"
        "vendor: flops(G) of the vendor guide, MACs x 2 / 0.9e9. This formula gives its\n"
        "rows to the last digit, except resnest200: its 79.762 looks like transposed\n"
        "digits of 79.672.\n"
        "top-1: as published:",
        highlight=False,
    )
    for source in dict.fromkeys(row.top1_source for row in rows if row.top1_source):
        names = [row.name for row in rows if row.top1_source == source]
        console.print(f"  {names[0]}{' ...' if len(names) > 1 else ''}: {source}", highlight=False)


def show_export(result: ExportResult, console: Console) -> None:
    rows = [
        ("file", str(result.path)),
        ("weights", result.source),
        *_list_sizes(result),
        (
            "largest difference",
            f"{result.max_relative_difference:.1e} to torch in float64, {len(result.checks)} checks; "
            f"torch's own float32: {result.max_torch_float32_difference:.1e}",
        ),
        ("sha256", result.sha256),
        *(("note", note) for note in result.notes),
    ]
    if result.preprocess is not None:
        rows.append(("preprocessing", result.preprocess.describe()))
    if result.build_file is not None:
        rows.append(("build file", f"{result.build_file}: nestforge build {result.build_file}"))
    console.print(make_pairs_table(f"exported {result.model} in {result.seconds:.1f} s", rows))


def _list_sizes(result: ExportResult) -> list[tuple[str, str]]:
    height, width = (result.size, result.size) if isinstance(result.size, int) else result.size
    if result.macs is None or result.vendor_gflops is None:
        return [
            ("exporter", str(result.exporter)),
            ("input", f"(B, 3, {height}, {width}) float32; {result.classes} classes"),
            ("parameters", f"{result.params:,}"),
            ("MACs", format_macs(result.kernel_macs)),
        ]
    return [
        ("input", f"(B, 3, H, W) float32, counted at {height}x{width}; {result.classes} classes"),
        ("parameters", f"{result.params:,}"),
        ("MACs", f"{result.macs / 1e9:.3f} G (kernels alone {result.kernel_macs / 1e9:.3f} G)"),
        ("vendor flops(G)", f"{result.vendor_gflops:.3f}"),
    ]
