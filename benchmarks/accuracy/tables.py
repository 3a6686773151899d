"""Tables of the document on accuracy, from what `quantizers` and `max_drop` measured.

    python -m benchmarks.accuracy.tables [--results benchmarks/results] [--document docs/accuracy.md]

Those of another machine's files (accuracy-avx2.json, max_drop-avx2.json) have marks with the file's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.quantizers import CHANGES
from benchmarks.common.documents import make_table, replace_blocks
from benchmarks.common.report import RESULTS, ROOT, format_interval, make_parser, read_report
from nestforge.commandline import run_command

DOCUMENT = ROOT / "docs" / "accuracy.md"
Row = dict[str, Any]
RATES = ("top-1", "top-5", "difference pp [95%]", "McNemar p", "changed predictions", "s", "GB")


def make_blocks(results: Path) -> dict[str, str]:
    """Return every table by the name of its mark."""
    blocks = {}
    for path in sorted(results.glob("accuracy*.json")):
        for network, groups in read_report(path)["networks"].items():
            name = network if path.stem == "accuracy" else f"{network}, {path.stem}"
            blocks[f"{name}: float32 and peers"] = make_peer_table(groups)
            blocks[f"{name}: changes"] = make_change_table(groups)
            blocks[f"{name}: modes"] = make_mode_table(groups)
    for path in sorted(results.glob("max_drop*.json")):
        blocks[path.stem] = make_max_drop_table(read_report(path)["networks"])
    return blocks


def make_peer_table(groups: dict[str, list[Row]]) -> str:
    """Return a Markdown table: float32, the peers, and nestforge's default."""
    rows = [(row["contender"], row) for name in ("float32", "bf16") for row in groups.get(name, [])]
    rows += [(f"nestforge, {row['changed']}", row) for row in groups.get(CHANGES, []) if "default" in row["changed"]]
    for name, found in groups.items():
        if name not in ("float32", "bf16") and not name.startswith("nestforge"):
            rows += [(f"{name}, exact sums" if row["exact"] else name, row) for row in found]
    return make_table(["contender", *RATES], [[name, *_format(row)] for name, row in rows])


def make_change_table(groups: dict[str, list[Row]]) -> str:
    """Return a Markdown table: nestforge's default with one thing changed."""
    rows = [(row["changed"], row) for row in groups.get(CHANGES, [])]
    return make_table(["changed", *RATES], [[name, *_format(row)] for name, row in rows])


def make_mode_table(groups: dict[str, list[Row]]) -> str:
    """Return a Markdown table: every mode, with the range over seeds."""
    cells: dict[tuple[str, bool, int], list[Row]] = {}
    for name, rows in groups.items():
        if name.startswith("nestforge "):
            for row in rows:
                cells.setdefault((row["mode"], row["per_channel"], row["calibration"]), []).append(row)
    lines = []
    for (mode, per_channel, count), rows in sorted(cells.items(), key=lambda cell: (not cell[0][1], cell[0])):
        differences = [100 * row["paired"]["difference"] for row in rows]
        intervals = [(100 * row["paired"]["low"], 100 * row["paired"]["high"]) for row in rows]
        widest = min(low for low, _ in intervals), max(high for _, high in intervals)
        changed = [row["changed_predictions"] for row in rows]
        lines.append(
            [
                mode,
                "per channel" if per_channel else "per tensor",
                str(count),
                str(len(rows)),
                " ".join(f"{value:+.2f}" for value in differences),
                f"[{widest[0]:+.2f}, {widest[1]:+.2f}]",
                f"{min(row['paired']['mcnemar_p'] for row in rows):.2g}",
                f"{min(changed)} to {max(changed)}" if len(changed) > 1 else str(changed[0]),
                f"{np.mean([row['top5']['rate'] for row in rows]):.2%}",
                f"{np.mean([row['seconds'] for row in rows]):.0f}",
                f"{max(row['peak_rss_bytes'] for row in rows) / 1e9:.2f}",
            ]
        )
    columns = ["mode", "weights", "images", "seeds", "difference pp, each seed", "widest 95%", "least p"]
    return make_table([*columns, "changed predictions", "top-5", "s", "GB"], lines)


def make_max_drop_table(networks: dict[str, Any]) -> str:
    """Return a Markdown table: each network, `max_drop` and half."""
    lines = []
    for name, entry in networks.items():
        for side, rows in enumerate(entry["halves"]):
            for row in rows:
                cells = [row["refused"], *[""] * 6] if "refused" in row else _format_max_drop(row)
                lines.append([name, f"{row['max_drop_pp']:g}", str(side), *cells])
    columns = ["build", "max_drop pp", "half", "layers kept in float", "validation: drop, proven below"]
    columns += ["test: drop [95%]", "changed predictions", "test, without max_drop", "changed predictions"]
    return make_table([*columns, "speed kept [95%]"], lines)


def _format_max_drop(row: Row) -> list[str]:
    chosen, speed = row["chosen"], row.get("speed")
    cells = [str(len(chosen["kept_in_float"])), f"{100 * chosen['drop']:+.2f}, {100 * chosen['drop_high']:.2f}"]
    for name in ("controlled", "plain"):
        found = row[name]
        drop, low, high = (0.0 - 100 * found[key] for key in ("difference", "high", "low"))
        cells += [f"{drop:+.2f} [{low:+.2f}, {high:+.2f}]", str(found["changed_predictions"])]
    return [*cells, format_interval((speed["ratio"], speed["low"], speed["high"])) if speed else "the same file"]


def _format(row: Row) -> list[str]:
    paired = row["paired"]
    interval = f"{100 * paired['difference']:+.2f} [{100 * paired['low']:+.2f}, {100 * paired['high']:+.2f}]"
    return [
        f"{row['top1']['rate']:.2%}",
        f"{row['top5']['rate']:.2%}",
        interval,
        f"{paired['mcnemar_p']:.2g}",
        str(row["changed_predictions"]),
        f"{row['seconds']:.0f}" if row["seconds"] else "",
        f"{row['peak_rss_bytes'] / 1e9:.2f}" if row["seconds"] else "",
    ]


def main() -> None:
    """Replace the tables in the document."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON files")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    args = parser.parse_args()
    replace_blocks(args.document, make_blocks(args.results))


if __name__ == "__main__":
    run_command(main, name="tables")
