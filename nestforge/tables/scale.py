"""What was done beyond one list of images, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from nestforge.tables.layout import format_latency, format_rate, make_pairs_table

if TYPE_CHECKING:
    from nestforge.measure.loadgen import LoadGenResult
    from nestforge.scale.run import SourceResult

SHOWN = 20


def show_source_result(result: SourceResult, console: Console) -> None:
    where = f"{result.workers} workers of {result.threads} threads on Ray at {result.ray}"
    rows = [
        ("artifact", str(result.artifact)),
        ("source", f"{result.dataset} ({result.kind}, {result.parts:,} parts)"),
        ("run by", where if result.ray else f"this process, {result.threads} threads"),
        ("images", f"{result.images:,} classified, {result.unreadable:,} unreadable and in no count"),
        ("took", f"{result.seconds:.1f} s, {result.images / result.seconds:.1f} images/s"),
    ]
    if result.top1 and result.top5:
        rows.insert(4, ("top-1 [95%]", f"{format_rate(result.top1)}, {result.top1.correct:,} correct"))
        rows.insert(5, ("top-5 [95%]", f"{format_rate(result.top5)}, {result.top5.correct:,} correct"))
    if result.repeated:
        rows.append(("repeated", f"{result.repeated:,} rows came twice and were counted once"))
    if result.output:
        rows.append(("rows", str(result.output)))
    console.print(make_pairs_table("evaluated" if result.top1 else "classified", rows))
    for reason in result.reasons[:SHOWN]:
        console.print(f"  [yellow]{escape(reason)}[/]", highlight=False)


def show_loadgen(result: LoadGenResult, console: Console) -> None:
    rows = [
        ("artifact", str(result.artifact)),
        ("test", f"{result.scenario}, {result.mode}, LoadGen {result.loadgen_version}"),
        (
            "settings",
            f"batch {result.batch}, streams {result.streams}, threads {result.threads}"
            + (f", target {result.target_qps:.1f} images/s" if result.target_qps else "")
            + (f", p99 within {result.latency_bound_ms:.1f} ms" if result.latency_bound_ms else ""),
        ),
        ("answered", f"{result.samples:,} samples of {result.images:,} images in {result.seconds:.1f} s"),
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
    if result.unreadable:
        console.print(f"[yellow]{len(result.unreadable)} unreadable, in no count:[/]")
        for reason in result.unreadable[:SHOWN]:
            console.print(f"  {escape(reason)}", highlight=False)
