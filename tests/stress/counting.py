"""A command that counts what it does in a file that survives a kill: a byte for every image, or for every layer.

    python -m tests.stress.counting COUNTER nestforge evaluate ...

Images are counted as the engine runs them, or as image2npz writes them; layers of `sensitivity` as they are measured.
"""

from __future__ import annotations

import itertools
import os
import sys
from argparse import REMAINDER
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.common.report import make_parser
from nestforge.engines import ENGINES
from nestforge.engines.base import Images, Kernel, Logits, Session, Settings
from nestforge.engines.openvino import OpenVINOEngine

VARIABLE = "NESTFORGE_STRESS_COUNTER"  # the file: engines are made without arguments, in other processes too


def count(number: int) -> None:
    """Add to the file, at once."""
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b"." * number)
    os.close(file)


class CountingSession:
    """A session that counts images; see `Session`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def settings(self) -> Settings:
        return self._session.settings

    def run(self, images_nchw: Images) -> Logits:
        logits = self._session.run(images_nchw)
        count(len(images_nchw))
        return logits

    def run_all(self, images_nchw: Images) -> dict[str, npt.NDArray[np.float32]]:
        return self._session.run_all(images_nchw)

    def list_kernels(self) -> list[Kernel]:
        return self._session.list_kernels()


class CountingEngine(OpenVINOEngine):
    """OpenVINO, whose sessions count images."""

    def open(self, model: Path | bytes, settings: Settings, *, sha256: str | None = None) -> Session:
        return CountingSession(super().open(model, settings, sha256=sha256))


@contextmanager
def counting(tool: str, command: str) -> Iterator[None]:
    """Count what the command of a tool is about: images written, layers measured, or images run."""
    from nestforge.accuracy import sensitivity
    from nestforge.vacc import npz

    if tool == "image2npz":
        with patch.object(npz, "write_npz", _count_calls(npz.write_npz, lambda number: True)):
            yield
    elif command == "sensitivity":  # compares once for all layers together, then twice for each
        compared = _count_calls(sensitivity.compare_logits, lambda number: number > 1 and number % 2 == 1)
        with patch.object(sensitivity, "compare_logits", compared):
            yield
    else:
        with patch.dict(ENGINES, openvino=f"tests.stress.counting:{CountingEngine.__name__}"):
            yield


def _count_calls(function: Callable[..., Any], is_counted: Callable[[int], bool]) -> Callable[..., Any]:
    numbers = itertools.count(1)

    def counted(*arguments: Any) -> Any:
        result = function(*arguments)
        if is_counted(next(numbers)):
            count(1)
        return result

    return counted


def main() -> None:
    """Be the command line, and count."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("counter", type=Path, help="file to count in")
    parser.add_argument("tool", choices=("nestforge", "vamp", "image2npz"))
    parser.add_argument("arguments", nargs=REMAINDER, help="of the tool")
    args = parser.parse_args()
    from nestforge import cli
    from nestforge.vacc import commands

    os.environ[VARIABLE] = str(args.counter)
    sys.argv = [args.tool, *args.arguments]
    tools = {"nestforge": cli.main, "vamp": commands.vamp, "image2npz": commands.image2npz}
    with counting(args.tool, args.arguments[0]):
        tools[args.tool]()


if __name__ == "__main__":
    main()
