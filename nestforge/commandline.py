"""What surrounds a command: signals, warnings and errors as one line each, and exit codes."""

from __future__ import annotations

import io
import signal
import sys
import warnings
from collections.abc import Callable

from nestforge.errors import NestForgeError
from nestforge.journal import has_unfinished_work

INTERRUPTED = 130
TERMINATED = 143


def make_printable(text: str) -> str:
    """Escape what would break a line or steer a terminal: control characters, and bytes of names that are no text."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def print_warnings(name: str) -> None:
    """Print the warnings of this process as lines of `name` on stderr."""

    def warn(message: Warning | str, *_: object, **__: object) -> None:
        print(f"{name}: warning: {make_printable(str(message))}", file=sys.stderr)

    warnings.showwarning = warn
    warnings.filterwarnings("ignore", module=r"PIL\.")


def run_command(command: Callable[[], object], *, name: str, resumes: bool = False) -> None:
    """Run a command line called `name`; a `NestForgeError` is one line on stderr and exit code 2.

    A termination signal unwinds like Ctrl-C, so that nothing half-written stays. Warnings are one line too.
    `resumes` says of a command that what it has written so far is kept and not written again, without a journal.
    """
    print_warnings(name)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: whatever a file is called can be printed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        command()
    except NestForgeError as error:
        print(f"{name}: {make_printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a name too long, a folder that may not be read, ...
        where = f" {make_printable(str(error.filename))}" if error.filename else ""
        print(f"{name}: cannot use{where}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer turns Ctrl-C into this
            outcome = "run it again to continue" if resumes or has_unfinished_work() else "nothing was written"
            print(f"{name}: interrupted; {outcome}", file=sys.stderr)
        raise
