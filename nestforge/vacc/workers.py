"""Worker processes of vamp. They end with their parent, and if one dies, that is an error and not a hang."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext

from nestforge.commandline import print_warnings
from nestforge.errors import EngineError

CONTEXT: SpawnContext = multiprocessing.get_context("spawn")


@contextmanager
def open_pool(
    count: int, prepare: Callable[..., None] | None = None, *arguments: object
) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of `count` processes, each of which first calls `prepare` with `arguments`.

    Raises:
        EngineError: a process died: killed by the system for its memory, killed by a user, or crashed in the engine.
    """
    try:
        with ProcessPoolExecutor(
            count, mp_context=CONTEXT, initializer=_start_worker, initargs=(prepare, arguments)
        ) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise EngineError(
            "a worker process died, perhaps killed for its memory; what was written is kept: run it again to continue, "
            "with fewer processes (-p) if memory is short"
        ) from error


def _start_worker(prepare: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    print_warnings("vamp")
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """Exit at once if the parent was killed, because nobody waits for this process any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
