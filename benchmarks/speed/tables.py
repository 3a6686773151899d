"""Tables and plots of the document on performance, from what `contenders`, `passes` and `memory` measured.

    python -m benchmarks.speed.tables [--results benchmarks/results] [--document docs/performance.md] [--plots FOLDER]

Each table stands between the marks of its network or subject; what is printed says which were replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.documents import make_table, replace_blocks
from benchmarks.common.report import RESULTS, ROOT, format_interval, format_ratio, make_parser, read_report
from nestforge.commandline import run_command
from nestforge.pages.svg import Bar, Line, draw_bars, draw_lines, write_svg

DOCUMENT, PLOTS = ROOT / "docs" / "performance.md", ROOT / "docs" / "plots"
NESTFORGE = "nestforge, int8"
REFERENCES = {  # what every contender is compared with, and the column that says so
    NESTFORGE: "nestforge, times as fast",
    "nestforge, int8, float_dtype bf16": "nestforge with float_dtype bf16",
}
WIDTH = 720
KINDS = {
    "Convolution": "convolutions",
    "Subgraph": "elementwise",
    "Eltwise": "elementwise",
    "Split": "channel split",
    "Reduce": "means",
    "Pooling": "pools",
    "Reorder": "reorders",
    "FullyConnected": "classifier",
}


def format_time(rates: list[float] | str | None) -> str:
    """Write milliseconds per image: median and quartiles."""
    if rates is None:
        return ""
    if isinstance(rates, str):
        return "failed"
    low, median, high = np.percentile([1e3 / rate for rate in rates], [25, 50, 75])
    return f"{median:.1f} ({low:.1f} to {high:.1f})"


def name_setting(key: str) -> str:
    """Write (batch, streams, threads) for a table's head."""
    batch, streams, threads = (int(part) for part in key.strip("()").split(","))
    return f"batch {batch}, " + (f"{streams} streams" if streams > 1 else f"{threads} thread{'s' * (threads > 1)}")


def find_best(result: dict[str, Any], name: str) -> tuple[str, list[float]] | None:
    """Return the setting with the highest median of images per second on all cores, and its rounds."""
    cores = f", {result['cores']})"
    found = [
        (key, rows[name])
        for key, rows in result["images_per_second"].items()
        if key.endswith(cores) and isinstance(rows.get(name), list)
    ]
    return max(found, key=lambda row: float(np.median(row[1])), default=None)


def compute_share(result: dict[str, Any], name: str, rates: list[float]) -> float | None:
    """Return the share of the peak of the contender's dtype on all cores.

    A loop on all cores that was disturbed would be optimistic for everybody: as many times one core's peak count where
    they are more.
    """
    peak = find_peak(result, result["dtypes"][name])
    return None if peak is None else float(np.median(rates)) * float(result["macs"]) / peak


def find_peak(result: dict[str, Any], dtype: str) -> float | None:
    """Return the peak on all cores in multiply-accumulates a second, or as many times one core's where that is more."""
    cores = result["cores"]
    peaks = [result["peaks"].get(f"{dtype}, {threads}") for threads in (1, cores)]
    return None if None in peaks else float(max(cores * peaks[0]["macs_per_second"], peaks[1]["macs_per_second"]))


def make_contenders_table(result: dict[str, Any]) -> str:
    """Return every contender in every setting, the ratio to nestforge, the share of peak, and convolutions in float."""
    settings = list(result["images_per_second"])
    names = list(dict.fromkeys(name for rows in result["images_per_second"].values() for name in rows))
    references = {name: title for name, title in REFERENCES.items() if name in names}
    rows = []
    for name in names:
        cells = [format_time(result["images_per_second"][key].get(name)) for key in settings]
        best = find_best(result, name)
        ratios, share = [""] * len(references), ""
        if best is not None:
            rates = result["images_per_second"][best[0]]
            ratios = ["1" if name == one else format_ratio(rates[one], best[1]) for one in references]
            found = compute_share(result, name, best[1])
            share = "" if found is None else f"{found:.0%}"
        floats = result["float_convolutions"].get(name)
        whole = result["dtypes"][name] != "int8" or floats is None
        rows.append((name, *cells, *ratios, share, "" if whole else str(floats)))
    columns = ("contender", *map(name_setting, settings), *references.values(), "of peak", "float convolutions")
    return make_table(columns, rows)


def make_hand_tuned_table(result: dict[str, Any]) -> str:
    """Return how many times as fast nestforge is as the hand-tuned combinations, in every setting."""
    names = [name for name in result["dtypes"] if name.startswith("hand-tuned")]
    rows = [
        (one, name_setting(key), *(format_ratio(rates[one], rates[name]) for name in names))
        for one in REFERENCES
        for key, rates in result["images_per_second"].items()
        if one in rates
    ]
    return make_table(("nestforge", "setting", *names), rows)


def list_failures(result: dict[str, Any]) -> list[str]:
    """Return a line for every contender that could not run."""
    failed = {
        name: reason
        for rows in result["images_per_second"].values()
        for name, reason in rows.items()
        if isinstance(reason, str)
    }
    return [f"- {name}: {reason}" for name, reason in failed.items()]


def make_kernel_table(result: dict[str, Any]) -> str:
    """Return the share of each kind of layer in a contender's own time, for those that OpenVINO executes."""
    kinds = [*dict.fromkeys(KINDS.values()), "other"]
    rows = []
    for name, kernels in result["kernels"].items():
        times = dict.fromkeys(kinds, 0.0)
        for kernel in kernels:
            times[KINDS.get(kernel["layer_type"], "other")] += kernel["time_ms"]
        total = sum(times.values())
        rows.append((name, *(f"{times[kind] / total:.1%}" for kind in kinds)))
    return make_table(("contender", *kinds), rows)


def make_memory_table(report: dict[str, Any]) -> str:
    """Return peak memory and time of a build by images, nestforge beside the peers."""
    builds = report["builds"]
    counts = list(next(iter(builds.values())))
    rows = []
    for name, found in builds.items():
        cells = [
            found[count].get("failed")
            or f"{found[count]['peak_rss_bytes'] / 1e9:.2f} GB, {found[count]['seconds']:.0f} s"
            for count in counts
        ]
        rows.append((name, *cells))
    return make_table(("built by", *(f"{count} images" for count in counts)), rows)


def make_passes_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the speedup of each graph optimization pass."""
    lines = [
        (
            row["name"],
            row["graph"],
            row["commit"],
            f"{row['engine']}, {row['dtype']}, batch {row['batch']}",
            str(row["matches"]),
            f"{row['without_ms']:.2f}",
            f"{row['with_ms']:.2f}",
            format_interval((row["ratio"], row["low"], row["high"])),
        )
        for row in rows
    ]
    columns = ("pass", "graph", "commit", "run as", "matches", "ms without", "ms with", "speedup [95%]")
    return make_table(columns, lines)


def draw_plots(result: dict[str, Any], folder: Path) -> None:
    """Write the three plots of a network."""
    folder.mkdir(parents=True, exist_ok=True)
    first = result["images_per_second_by_batch"]["1"]
    lines = [
        Line(
            name=name,
            points=tuple(
                (float(batch), *(float(value) for value in np.percentile(rows[name], [50, 25, 75])))
                for batch, rows in result["images_per_second_by_batch"].items()
                if isinstance(rows[name], list)
            ),
        )
        for name in first
    ]
    svg = draw_lines(
        "throughput against batch",
        lines,
        x_axis="images in a request",
        y_axis="images per second",
        doubling=True,
        width=WIDTH,
    )
    write_svg(svg, folder / "throughput.svg")
    bars = []
    for name in result["dtypes"]:
        best = find_best(result, name)
        share = compute_share(result, name, best[1]) if best else None
        if share is not None:
            bars.append(Bar(label=name, value=100 * share, colour=0 if name.startswith("nestforge") else 1))
    svg = draw_bars(
        "share of the machine's peak for the dtype", bars, axis="% of register-only multiply-accumulates", width=WIDTH
    )
    write_svg(svg, folder / "peak.svg")
    kernels = sorted(result["kernels"][NESTFORGE], key=lambda kernel: -kernel["time_ms"])[:12]
    bars = [
        Bar(label=f"{row['layer_type']} {row['precision']} x {row['count']}", value=row["time_ms"]) for row in kernels
    ]
    write_svg(
        draw_bars("time by layer type, nestforge in int8, batch 8", bars, axis="ms per image", width=WIDTH),
        folder / "layers.svg",
    )


def describe_result(result: dict[str, Any]) -> str:
    """Write what a network's table holds for: command, machine, versions, peaks."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    peaks = {dtype: find_peak(result, dtype) for dtype in ("fp32", "bf16", "int8")}
    reached = ", ".join(f"{dtype} {peak / 1e9:,.0f}" for dtype, peak in peaks.items() if peak)
    head = f"`{result['command']}`; {machine['cpu']}, {' '.join(machine['flags'])}; {versions}."
    return f"{head} Peaks: {reached} GMAC/s."


def make_blocks(results: Path) -> dict[str, str]:
    """Return every table by the name of its mark."""
    blocks: dict[str, str] = {}
    for path in sorted(results.glob("contenders-*.json")):
        result = read_report(path)
        failures = "\n".join(list_failures(result))
        parts = [describe_result(result), make_contenders_table(result), *([failures] if failures else [])]
        blocks[result["network"]] = "\n\n".join(parts)
        if result["kernels"]:
            blocks["layers"] = make_kernel_table(result)
            blocks["hand-tuned"] = make_hand_tuned_table(result)
    if memory := read_report(results / "memory.json"):
        blocks["memory"] = f"`{memory['command']}`:\n\n{make_memory_table(memory)}"
    if passes := read_report(results / "passes.json"):
        blocks["passes"] = make_passes_table(passes["rows"])
    return blocks


def main() -> None:
    """Replace the tables in the document, and the plots."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON files")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--plots", type=Path, default=PLOTS, help="folder for the plots")
    args = parser.parse_args()
    for path in sorted(args.results.glob("contenders-*.json")):
        if (result := read_report(path))["kernels"]:
            draw_plots(result, args.plots)
    replace_blocks(args.document, make_blocks(args.results))


if __name__ == "__main__":
    run_command(main, name="tables")
