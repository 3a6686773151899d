"""What every script writes: its command, its tables on the terminal, and its JSON file."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from nestforge.engines.machine import read_machine
from nestforge.files import write_json
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.tables.layout import make_grid

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def name_module(file: str) -> str:
    """Return the dotted name that ``python -m`` takes for a file of this checkout."""
    return ".".join(Path(file).resolve().relative_to(ROOT).with_suffix("").parts)


def make_parser(file: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the script `file`, whose help is its docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {name_module(file)}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_output(parser: argparse.ArgumentParser, name: str) -> None:
    """Add ``-o``, by default the file `name` in ``benchmarks/results``."""
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / name, help="JSON file for the result")


def describe_command(file: str, *words: str, **options: object) -> str:
    """Write the command that runs the script `file` so; options that are None or False are left out."""
    parts = [f"python -m {name_module(file)}", *words]
    for name, value in options.items():
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list | tuple) else [value]
        texts = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
        parts += [f"--{name.replace('_', '-')}", *(f"'{text}'" if " " in text else text for text in texts)]
    return " ".join(parts)


def read_version(package: str) -> str:
    """Return an installed package's version, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe_environment(packages: Iterable[str]) -> dict[str, Any]:
    """Return what a result holds for: the machine, Python and the versions of packages."""
    return {
        "machine": read_machine(),
        "python": platform.python_version(),
        "versions": {package: read_version(package) for package in packages},
    }


def write_report(path: Path, *, command: str, packages: Iterable[str] = (), **content: object) -> None:
    """Write a result as JSON, with the command and the environment that gave it."""
    write_json({"command": command, **describe_environment(packages), **content}, str(path))


def read_report(path: Path) -> dict[str, Any]:
    """Return an earlier result, to be added to; empty where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on the terminal."""
    Console(width=140).print(make_grid(title, columns, rows))


def format_interval(interval: Sequence[float], *, digits: int = 3) -> str:
    """Write a median and its 95% interval."""
    middle, low, high = interval
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def format_ratio(ours: Sequence[float], theirs: Sequence[float], *, digits: int = 3) -> str:
    """Write the median of ours/theirs over rounds, with its 95% interval."""
    return format_interval(compute_ratio_interval(ours, theirs), digits=digits)
