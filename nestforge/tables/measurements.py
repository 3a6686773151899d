"""Predictions, accuracy and speed as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from nestforge.tables.layout import (
    escape,
    format_latency,
    format_macs,
    format_parallelism,
    format_placement,
    format_rate,
    make_grid,
    make_pairs_table,
    shorten_path,
    show_unreadable,
)

if TYPE_CHECKING:
    from nestforge.measure.benchmark import BenchmarkResult
    from nestforge.measure.evaluate import Evaluation
    from nestforge.measure.paired import ChangedPrediction
    from nestforge.measure.tune import Tuning
    from nestforge.scale.predict import Predictions

SHOWN = 10  # rows of a long list


def show_predictions(result: Predictions, console: Console) -> None:
    for prediction in result:
        console.print(f"[bold]{escape(prediction.image)}[/]", highlight=False)
        if prediction.error:
            console.print(f"  [red]{escape(prediction.error)}[/]", highlight=False)
        for row in prediction.top:
            console.print(f"  {row.probability:7.2%}  {escape(row.label)} ({row.index})", highlight=False)
    if result.output is None:
        return
    rows = [
        ("artifact", str(result.artifact)),
        ("run by", format_placement(result.placement)),
        ("images", f"{result.images:,} classified, {result.unreadable:,} unreadable"),
        ("took", f"{result.seconds:.1f} s, {result.images / result.seconds:.1f} images/s"),
        *_list_repeated(result.repeated),
        ("rows", str(result.output)),
    ]
    console.print(make_pairs_table("classified", rows))
    show_unreadable(result.unreadable, result.unreadable_images, console)


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
            f"changed predictions {vs.changed_predictions}",
            highlight=False,
        )
    if result.placement.ray is not None or result.kind != "folder" or result.output is not None:
        details = [
            ("source", f"{result.kind}, {result.parts:,} parts"),
            ("run by", format_placement(result.placement)),
            ("took", f"{result.seconds:.1f} s, {result.images / result.seconds:.1f} images/s"),
            *_list_repeated(result.repeated),
        ]
        if result.output is not None:
            details.append(("rows", str(result.output)))
        console.print(make_pairs_table("evaluated", details))
    show_classes(result, console)
    if result.vs and result.vs.changed:
        show_changed(result.vs.changed, console)
    show_unreadable(result.unreadable, result.unreadable_images, console)


def _list_repeated(repeated: int) -> list[tuple[str, str]]:
    return [("repeated", f"{repeated:,} rows came twice and were counted once")] if repeated else []


def show_classes(result: Evaluation, console: Console) -> None:
    """Show the classes that lost most or, without another artifact, those with the lowest top-1."""
    from nestforge.measure.paired import rank_classes

    columns = ["class", "images", "top-1", *(["top-1 of vs", "difference", "changed"] if result.vs else [])]
    rows = []
    for row in rank_classes(result.classes)[:SHOWN]:
        cells = [_cut_synonyms(row.label), str(row.images), f"{row.top1:.1%}"]
        if row.vs_top1 is not None and row.difference is not None:
            cells += [f"{row.vs_top1:.1%}", f"{100 * row.difference:+.1f} pp", str(row.changed)]
        rows.append(cells)
    console.print(make_grid(f"the worst {len(rows)} of {len(result.classes)} classes", columns, rows))


def show_changed(changed: Sequence[ChangedPrediction], console: Console) -> None:
    columns = ("image", "truth", "prediction (probability, margin)", "prediction of vs", "")
    rows = [
        (
            shorten_path(row.image),
            _cut_synonyms(row.truth_label),
            *(
                f"{_cut_synonyms(choice.label)} ({choice.probability:.2f}, {choice.margin:.2f})"
                for choice in (row.ours, row.theirs)
            ),
            row.kind,
        )
        for row in changed[:SHOWN]
    ]
    console.print(
        make_grid(f"{len(rows)} of {len(changed)} changed predictions, the most confident first", columns, rows)
    )
    if len(changed) > SHOWN:
        console.print("all of them: --json FILE, or --changes FILE.csv", highlight=False)


def _cut_synonyms(label: str) -> str:
    """Return ``lesser panda`` of ``lesser panda, red panda, panda``."""
    return label.split(",")[0]


def show_tuning(result: Tuning, console: Console) -> None:
    rows = []
    for row in result.measured:
        best = [name for name, one in (("latency", result.latency), ("throughput", result.throughput)) if one is row]
        used = row.parallelism
        numbers = (str(used.batch), str(used.streams), str(used.threads))
        rows.append((*numbers, f"{row.throughput_ips:.1f}", f"{row.latency_ms:.2f}", ", ".join(best)))
    title = f"{result.artifact} on {result.cores} cores, {result.budget_seconds:g} s"
    columns = ("batch", "streams", "threads", "images/s", "ms per request", "best for")
    console.print(make_grid(title, columns, rows))
    console.print("Written to the artifact; predict, evaluate and vamp use it on this machine.", highlight=False)


def show_bench(result: BenchmarkResult, console: Console) -> None:
    machine = result.machine
    peak = result.peak
    rows = [
        ("artifact", f"{result.artifact} ({result.engine}, {result.dtype}, {result.height}x{result.width})"),
        (
            "machine",
            f"{machine.cpu}, {machine.available_cores} cores available, {' '.join(machine.flags) or 'flags unknown'}",
        ),
        (
            "settings",
            f"{format_parallelism(result.parallelism)}, {result.seconds:g} s, {result.requests} requests",
        ),
        ("throughput", f"{result.throughput_ips:.1f} images/s"),
        ("latency", format_latency(result.latency_ms)),
        (
            "share of peak",
            "-"
            if peak is None or result.peak_share is None
            else f"{result.peak_share:.1%} of {peak.macs_per_second / 1e9:.0f} GMAC/s "
            f"({peak.method}, {peak.threads} threads); {format_macs(result.macs)}",
        ),
    ]
    if result.vs:
        vs = result.vs
        rows += [
            (
                "versus",
                f"{vs.artifact} ({vs.dtype}): {vs.throughput_ips:.1f} images/s, {format_latency(vs.latency_ms)}",
            ),
            ("ratio", f"{vs.ratio:.3f} [{vs.low:.3f}, {vs.high:.3f}] over {vs.rounds} interleaved rounds"),
        ]
    console.print(make_pairs_table("measured", rows))
