"""The figures of the report: each is a plot, a caption, and the commands that reproduce it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nestforge.accuracy.sensitivity import Sensitivity
from nestforge.measure.evaluate import Evaluation
from nestforge.measure.scaling import Speed
from nestforge.pages.sensitivity import LAYERS, draw_gain, draw_noise
from nestforge.pages.svg import Bar, Interval, Line, Sample, draw_bars, draw_histogram, draw_intervals, draw_lines


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot with its caption; `anchor` is its id in the page."""

    anchor: str
    svg: str
    caption: str
    commands: tuple[str, ...]


def draw_accuracy(
    evaluations: Sequence[Evaluation], names: Sequence[str], reference: int, options: Sequence[str]
) -> list[Figure]:
    """Draw top-1 with Wilson's intervals, and each artifact's paired difference against the reference."""
    others = [index for index in range(len(names)) if index != reference]
    versus = evaluations[reference].artifact
    commands = tuple(write_evaluate(evaluations[index], versus, options) for index in others)
    rates = [
        Interval(label=name, value=100 * rate.rate, low=100 * rate.low, high=100 * rate.high, colour=index)
        for index, (name, rate) in enumerate(zip(names, (result.top1 for result in evaluations), strict=True))
    ]
    figures = [
        Figure(
            anchor="figure-top1",
            svg=draw_intervals("Top-1 accuracy", rates, axis="top-1 (%)"),
            caption=f"Share of {evaluations[0].images:,} images whose true class is predicted first, with Wilson's 95% "
            "interval."
            + (
                " All artifacts saw the same images: compare them by the paired difference, not by these intervals."
                if others
                else ""
            ),
            commands=commands or (write_evaluate(evaluations[0], None, options),),
        )
    ]
    differences = [
        Interval(label=names[index], value=100 * vs.difference, low=100 * vs.low, high=100 * vs.high, colour=index)
        for index in others
        if (vs := evaluations[index].vs)
    ]
    if differences:
        figures.append(
            Figure(
                anchor="figure-difference",
                svg=draw_intervals(
                    f"Top-1 minus that of {names[reference]}", differences, axis="difference (pp)", reference=0.0
                ),
                caption=f"Paired difference in top-1 against {names[reference]} on the same images, with Agresti and "
                "Min's 95% interval. An interval that contains zero shows no difference.",
                commands=commands,
            )
        )
    return figures


def draw_sensitivity(found: Sensitivity, index: int, colour: int) -> list[Figure]:
    """Draw the noise of each layer quantized alone, and the gain of keeping it in float; the largest first."""
    commands = (shlex.join(["nestforge", "sensitivity", found.artifact_or_config, "--images", str(found.images)]),)
    shown = min(LAYERS, len(found.layers))
    total = f"of {len(found.layers)} layers, on {found.images:,} calibration images."
    total += "" if found.complete else " The run was interrupted: layers are missing."
    return [
        Figure(
            anchor=f"figure-noise-{index}",
            svg=draw_noise(found, count=LAYERS, colour=colour),
            caption=f"What quantizing one layer alone does to the logits: the {shown} noisiest {total}",
            commands=commands,
        ),
        Figure(
            anchor=f"figure-gain-{index}",
            svg=draw_gain(found, count=LAYERS, colour=colour),
            caption=f"How much closer the logits come to float32 when one layer alone stays in float: the {shown} with "
            f"the largest gain {total}",
            commands=commands,
        ),
    ]


def draw_speed(speeds: Sequence[Speed], names: Sequence[str], reference: int) -> list[Figure]:
    """Draw the distribution of latencies, throughput against batch, and the share of the machine's peak."""
    firsts = [speed.batches[0] for speed in speeds]
    same = len({row.batch for row in firsts}) == 1
    samples = [
        Sample(name=name if same else f"{name}, batch {row.batch}", values=row.latencies_ms)
        for name, row in zip(names, firsts, strict=True)
    ]
    lines = [
        Line(name=name, points=[(row.batch, row.throughput_ips, row.low, row.high) for row in speed.batches])
        for name, speed in zip(names, speeds, strict=True)
    ]
    requests = ", ".join(f"{len(sample.values):,} of {sample.name}" for sample in samples)
    figures = [
        Figure(
            anchor="figure-latency",
            svg=draw_histogram(
                f"Latency at batch {firsts[0].batch}" if same else "Latency", samples, axis="latency (ms)"
            ),
            caption=f"Time from passing in a batch to its logits, on {speeds[0].threads} threads ({requests}). "
            "The dashed line is the median. Only the beginning of a long tail is drawn; the table below has p99.",
            commands=_write_benches([replace(speed, batches=speed.batches[:1]) for speed in speeds], reference),
        ),
        Figure(
            anchor="figure-throughput",
            svg=draw_lines("Throughput against batch", lines, x_axis="batch", y_axis="images/s", doubling=True),
            caption="Images per second: the median over rounds, with its 95% interval.",
            commands=_write_benches(speeds, reference),
        ),
    ]
    ratios = [
        Interval(
            label=f"{name}, batch {row.batch}", value=row.ratio, low=row.ratio_low, high=row.ratio_high, colour=index
        )
        for index, (name, speed) in enumerate(zip(names, speeds, strict=True))
        for row in speed.batches
        if index != reference and row.ratio is not None and row.ratio_low is not None and row.ratio_high is not None
    ]
    if ratios:
        figures.append(
            Figure(
                anchor="figure-ratio",
                svg=draw_intervals(f"Throughput over that of {names[reference]}", ratios, axis="ratio", reference=1.0),
                caption="The median ratio over interleaved rounds, with its 95% interval. Disturbances that affect "
                "both artifacts alike cancel.",
                commands=_write_benches(speeds, reference),
            )
        )
    shares = [
        Bar(
            label=f"{name}, batch {row.batch}",
            value=100 * row.peak_share,
            colour=index,
            note=f"{row.throughput_ips:.1f} images/s of at most {row.throughput_ips / row.peak_share:.0f}",
        )
        for index, (name, speed) in enumerate(zip(names, speeds, strict=True))
        for row in speed.batches
        if row.peak_share
    ]
    if shares:
        methods = sorted({f"{speed.peak.method}" for speed in speeds if speed.peak})
        figures.append(
            Figure(
                anchor="figure-peak",
                svg=draw_bars("Share of the machine's peak", shares, axis="share of peak (%)"),
                caption="Multiply-accumulates per second of convolutions and matrix products, as a share of the peak "
                f"that this machine reached for the dtype in the same minutes ({', '.join(methods)}).",
                commands=_write_benches(speeds, reference),
            )
        )
    return figures


def write_evaluate(result: Evaluation, vs: Path | None, options: Sequence[str]) -> str:
    """Return the command that reproduces an evaluation."""
    words = ["nestforge", "evaluate", str(result.artifact), str(result.dataset)]
    return shlex.join([*words, *(["--vs", str(vs)] if vs is not None else []), *options])


def _write_benches(speeds: Sequence[Speed], reference: int) -> tuple[str, ...]:
    """Return a command, or a shell loop over batches, for each artifact; ``--vs`` measures the reference too."""
    commands = []
    reference_batches = [row.batch for row in speeds[reference].batches]
    alone = set(reference_batches)
    for index, speed in enumerate(speeds):
        if index == reference:
            continue
        batches = [row.batch for row in speed.batches]
        shared = [batch for batch in batches if batch in reference_batches]
        alone -= set(shared)
        commands += [
            _write_bench(speed, shared, speeds[reference].artifact),
            _write_bench(speed, [batch for batch in batches if batch not in reference_batches], None),
        ]
    commands.append(_write_bench(speeds[reference], sorted(alone), None))
    return tuple(filter(None, commands))


def _write_bench(speed: Speed, batches: Sequence[int], vs: Path | None) -> str:
    if not batches:
        return ""
    words = ["nestforge", "bench", str(speed.artifact), "--threads", str(speed.threads)]
    words += ["--seconds", f"{speed.seconds:g}", *(["--vs", str(vs)] if vs is not None else [])]
    command = f"{shlex.join(words)} --batch"
    if len(batches) == 1:
        return f"{command} {batches[0]}"
    return f"for batch in {' '.join(map(str, batches))}; do {command} $batch; done"
