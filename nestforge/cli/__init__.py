"""The command line: one command is one public function, its result a table or JSON."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import nestforge
from nestforge.cli import building, measuring
from nestforge.commandline import run_command

COMMANDS = (
    building.models,
    building.export,
    building.build,
    measuring.predict,
    measuring.evaluate,
    building.sensitivity,
    measuring.bench,
    measuring.loadgen,
    measuring.report,
    building.inspect,
)

app = typer.Typer(
    name="nestforge",
    help="From an image classifier's checkpoint to a measured int8 artifact for this machine's CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command()(command)


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"nestforge {nestforge.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a `NestForgeError` is one line on stderr and exit code 2."""
    # OpenVINO imports its model converters where it can; no command needs them, and they take a tenth of a start.
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    run_command(app, name="nestforge")
