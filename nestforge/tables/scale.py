"""Results of LoadGen as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from nestforge.tables.layout import format_latency, format_parallelism, format_rate, make_pairs_table, show_unreadable

if TYPE_CHECKING:
    from nestforge.measure.loadgen import LoadGenResult


def show_loadgen(result: LoadGenResult, console: Console) -> None:
    rows = [
        ("artifact", str(result.artifact)),
        ("test", f"{result.scenario}, {result.mode}, LoadGen {result.loadgen_version}"),
        (
            "settings",
            format_parallelism(result.parallelism)
            + (f", target {result.target_qps:.1f} images/s" if result.target_qps else "")
            + (f", p99 within {result.latency_bound_ms:.1f} ms" if result.latency_bound_ms else ""),
        ),
        ("completed", f"{result.samples:,} samples of {result.images:,} images in {result.seconds:.1f} s"),
    ]
    if result.throughput_ips:
        rows.append(("throughput", f"{result.throughput_ips:.1f} images/s"))
        if result.latency_ms:
            rows.append(("latency", format_latency(result.latency_ms)))
        rows.append(("verdict", "VALID" if result.valid else f"INVALID: {result.reason or 'see the logs'}"))
    if result.top1 and result.top5:
        rows += [
            ("top-1 [95%]", f"{format_rate(result.top1)}, {result.top1.correct:,} correct"),
            ("top-5 [95%]", f"{format_rate(result.top5)}, {result.top5.correct:,} correct"),
        ]
    if result.logs:
        rows.append(("logs", str(result.logs)))
    console.print(make_pairs_table("LoadGen", rows))
    show_unreadable(len(result.unreadable), result.unreadable, console)
