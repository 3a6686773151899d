"""Does a build within a bound keep it on images it has never seen, and what does that cost in speed?

    python benchmarks/bounded.py run --name NAME --config BUILD.yaml --dataset LABELLED_FOLDER --max-drop 0.3 0.5
    python benchmarks/bounded.py tables                  # writes the table of docs/accuracy.md

BUILD.yaml is an int8 build file without a bound. Every other image of each class of the data set validates the build,
the rest test it; then the other way round. The artifact is compared with float32 on the test half image by image, and
raced against the int8 artifact without a bound. `--calibrate-on-validation` is for where all labelled images there are
come from one folder: the validation half calibrates too, the test half stays unseen. Results are added to the output.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import nestforge
from benchmarks.common.documents import make_table, replace_blocks
from benchmarks.common.splits import link_halves
from nestforge.artifact.artifact import open_artifact
from nestforge.commandline import run_command
from nestforge.config import BuildConfig, parse_config, read_config
from nestforge.data.imagefolder import list_images
from nestforge.engines.machine import read_machine
from nestforge.errors import DataError
from nestforge.files import write_json
from nestforge.progress import show_bars

ROOT = Path(__file__).parents[2]
RACE_SECONDS = 30.0


def change(config: BuildConfig, output: Path, **sections: Any) -> BuildConfig:
    """Return the build file with other sections."""
    return parse_config(config.model_dump(mode="json") | sections | {"output": str(output)}, source="bounded")


def try_half(config: BuildConfig, validation: Path, test: Path, bounds: list[float], folder: Path) -> list[Any]:
    """Build float32, int8 and int8 within each bound; return what became of each bound."""
    quantize = config.quantize.model_dump(mode="json")
    float32, plain = folder / "fp32", folder / "int8"
    nestforge.build(change(config, float32, dtype="fp32"), progress=show_bars)
    nestforge.build(change(config, plain), progress=show_bars)
    rows = []
    for max_drop in bounds:
        output = folder / f"bounded{max_drop:g}"
        section = quantize | {"max_drop": max_drop, "validation": {"data": str(validation)}}
        row: dict[str, Any] = {"max_drop_pp": max_drop}
        rows.append(row)
        try:
            nestforge.build(change(config, output, quantize=section), progress=show_bars)
        except DataError as error:
            row["refused"] = str(error)
            continue
        bound = open_artifact(output).manifest.accuracy_control
        row["frontier"] = bound.frontier
        row["chosen"] = next(point for point in bound.frontier if point.kept_in_float == bound.kept_in_float)
        row["validation_images"] = bound.images
        for name, artifact in (("plain", plain), ("bounded", output)):
            result = nestforge.evaluate(artifact, test, vs=float32, progress=show_bars)
            paired = {key: getattr(result.vs, key) for key in ("difference", "low", "high", "changed_predictions")}
            row[name] = {"images": result.images, **paired}
        if bound.kept_in_float:
            race = nestforge.bench(output, vs=plain, seconds=RACE_SECONDS, progress=show_bars)
            row["speed"] = {"ratio": race.vs.ratio, "low": race.vs.low, "high": race.vs.high}
    return rows


def run(args: argparse.Namespace) -> None:
    """Build, test and race on both halves."""
    config = read_config(args.config)
    results = json.loads(args.output.read_text()) if args.output.is_file() else {"networks": {}}
    halves = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        link_halves(list_images(args.dataset), folder)
        for side in (0, 1):
            validation, test = folder / f"half{side}", folder / f"half{1 - side}"
            chosen = config
            if args.calibrate_on_validation:
                calibration = config.calibration.model_dump(mode="json")
                calibration |= {"data": str(validation), "allow_overlap": True}
                chosen = change(config, Path(config.output), calibration=calibration)
            halves.append(try_half(chosen, validation, test, args.max_drop, folder / f"built{side}"))
    bounds = " ".join(f"{value:g}" for value in args.max_drop)
    flag = " --calibrate-on-validation" if args.calibrate_on_validation else ""
    results["networks"][args.name] = {
        "command": f"python benchmarks/bounded.py run --name '{args.name}' --config BUILD.yaml --dataset FOLDER "
        f"--max-drop {bounds}{flag}",
        "quantize": config.quantize,
        "halves": halves,
    }
    write_json(results | {"machine": read_machine()}, str(args.output))


def make_bound_table(networks: dict[str, Any]) -> str:
    """Return a Markdown table: each network, bound and half."""
    lines = []
    for name, entry in networks.items():
        for side, rows in enumerate(entry["halves"]):
            for row in rows:
                head = [name, f"{row['max_drop_pp']:g}", str(side)]
                lines.append([*head, *([row["refused"]] + [""] * 6 if "refused" in row else format_row(row))])
    columns = ["build", "bound pp", "half", "layers spared", "validation: drop, proven below", "test: drop [95%]"]
    return make_table([*columns, "changed", "test, without the bound", "changed", "speed kept [95%]"], lines)


def format_row(row: dict[str, Any]) -> list[str]:
    """Write what became of one bound on one half."""
    chosen, speed = row["chosen"], row.get("speed")
    cells = [str(len(chosen["kept_in_float"])), f"{100 * chosen['drop']:+.2f}, {100 * chosen['drop_high']:.2f}"]
    for name in ("bounded", "plain"):
        found = row[name]
        drop, low, high = (0.0 - 100 * found[key] for key in ("difference", "high", "low"))
        cells += [f"{drop:+.2f} [{low:+.2f}, {high:+.2f}]", str(found["changed_predictions"])]
    kept = f"{speed['ratio']:.3f} [{speed['low']:.3f}, {speed['high']:.3f}]" if speed else "the same file"
    return [*cells, kept]


def write_tables(args: argparse.Namespace) -> None:
    """Replace the table in the document; that of another machine's file is marked with the file's name."""
    networks = json.loads(args.output.read_text())["networks"]
    replace_blocks(args.document, {args.output.stem: make_bound_table(networks)})


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help=run.__doc__)
    command.add_argument("--name", required=True, help="what its rows are called")
    command.add_argument("--config", type=Path, required=True, help="int8 build file without a bound")
    command.add_argument("--dataset", type=Path, required=True, help="labelled folder")
    command.add_argument("--max-drop", type=float, nargs="+", required=True, metavar="PP", help="bounds to build for")
    command.add_argument("--calibrate-on-validation", action="store_true", help="see above")
    command.set_defaults(function=run)
    command = commands.add_parser("tables", help=write_tables.__doc__)
    command.add_argument("--document", type=Path, default=ROOT / "docs" / "accuracy.md")
    command.set_defaults(function=write_tables)
    for command in commands.choices.values():
        command.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "bounded.json")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    run_command(main, name="bounded")
