"""Shared by commands: options, checks of output paths, and how a result is shown or written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nestforge.errors import NestForgeError

if TYPE_CHECKING:
    from rich.console import Console

ArtifactArgument = Annotated[Path, typer.Argument(help="Folder that 'nestforge build' made.", show_default=False)]


def check_json_target(target: str | None) -> str | None:
    """Refuse a --json file that could not be written, before any work is done."""
    if target is not None and target != "-":
        path = Path(target)
        if not target or path.is_dir() or not path.parent.is_dir():
            raise NestForgeError(f"--json {target!r}: name a file in a folder that exists, or - for stdout")
    return target


def check_file_target(target: Path | None) -> Path | None:
    """Refuse an output file that could not be written, before any work is done."""
    if target is not None and (target.is_dir() or not target.parent.is_dir()):
        raise NestForgeError(f"cannot write {target}: name a file in a folder that exists")
    return target


JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=check_json_target,
        help="Write the result as JSON; - writes only JSON to stdout.",
    ),
]

OverlapOption = Annotated[
    bool, typer.Option("--allow-overlap", help="Evaluate on calibration images too, which is optimistic.")
]
LimitOption = Annotated[
    int | None, typer.Option(help="Take this many images, evenly over the classes and always the same.")
]


NoVerifyOption = Annotated[
    bool, typer.Option("--no-verify", help="Use an artifact whose files were changed, with a warning.")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Use a Ray cluster: HOST:PORT, auto, or local for one on this machine.",
    ),
]
WorkersOption = Annotated[int | None, typer.Option(help="With --ray: processes; default: as many as fit the cluster.")]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Threads per worker; default: 1, or all cores without --ray.", show_default=False)
]
RowsOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE.parquet", help="Write a row for every image; replaced if it exists."),
]


def refuse_options(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """Refuse options that were given although they would do nothing; `reason` says why."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise NestForgeError(f"{reason}; leave out {options}")


def emit(result: Any, show: Callable[[Any, Console], None], json: str | None) -> None:
    from rich.console import Console

    if json is not None:
        from nestforge.files import write_json

        write_json(result, json)
    if json != "-":
        console = Console(width=None if sys.stdout.isatty() else 140)
        show(result, console)


def make_stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)
