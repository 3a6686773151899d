"""Tables of docs/accuracy.md, from what accuracy.py measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.documents import make_table, replace_blocks

Row = dict[str, Any]


def write_tables(results: Path, document: Path) -> None:
    """Replace the tables in the document; those of another machine's file are marked with the file's name."""
    blocks = {}
    for network, groups in json.loads(results.read_text())["networks"].items():
        name = network if results.stem == "accuracy" else f"{network}, {results.stem}"
        blocks[f"{name}: float32 and peers"] = make_peer_table(groups)
        blocks[f"{name}: changes"] = make_change_table(groups)
        blocks[f"{name}: modes"] = make_mode_table(groups)
    replace_blocks(document, blocks)


def make_peer_table(groups: dict[str, list[Row]]) -> str:
    """Return a Markdown table: float32, the peers, and our default."""
    rows = [(row["contender"], row) for name in ("float32", "bf16") for row in groups.get(name, [])]
    rows += [
        (f"ours, {row['changed']}", row)
        for row in groups.get("ours, one change at a time", [])
        if "default" in row["changed"]
    ]
    for name, found in groups.items():
        if name not in ("float32", "bf16") and not name.startswith("ours"):
            rows += [(f"{name}, exact sums" if row["exact"] else name, row) for row in found]
    columns = ["contender", "top-1", "top-5", "difference pp [95%]", "McNemar p", "answers changed", "s", "GB"]
    return make_table(columns, [[name, *_format(row)] for name, row in rows])


def make_change_table(groups: dict[str, list[Row]]) -> str:
    """Return a Markdown table: our default with one thing changed."""
    rows = [(row["changed"], row) for row in groups.get("ours, one change at a time", [])]
    columns = ["changed", "top-1", "top-5", "difference pp [95%]", "McNemar p", "answers changed", "s", "GB"]
    return make_table(columns, [[name, *_format(row)] for name, row in rows])


def make_mode_table(groups: dict[str, list[Row]]) -> str:
    """Return a Markdown table: every mode, with the range over seeds."""
    cells: dict[tuple[str, bool, int], list[Row]] = {}
    for name, rows in groups.items():
        if name.startswith("ours "):
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
    return make_table([*columns, "answers changed", "top-5", "s", "GB"], lines)


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
