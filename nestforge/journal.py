"""Long work goes on after a kill: what is finished stands in a file, a line a part, and is not done again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nestforge.files import cache_folder, hash_json, warn_of_no_cache

FOLDER = "journals"  # in the cache folder
KEPT_SECONDS = 30 * 86_400  # after which an abandoned journal is removed
_DIGITS = 16  # of the sha256 before every line


class Journal:
    """What is finished of one piece of work: `records` from before, and `append` for more.

    Without a `path` nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self.records: list[Any] = []
        self._path = path
        self._descriptor: int | None = None  # open, and locked, from the first record on
        self._works = path is not None
        self._open(create=False)

    def append(self, record: Any) -> None:
        """Keep one more finished part, a JSON value; it is on the disk when this returns.

        Where it cannot be kept the work goes on without a journal, after one warning.
        """
        if self._descriptor is None and self._works:
            self._open(create=True)
        if self._descriptor is None:
            return
        try:
            line = memoryview(_format_line(record))
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError as error:
            self._give_up(error)

    @property
    def is_kept(self) -> bool:
        """Whether there is a file with what was finished."""
        return self._descriptor is not None

    def remove(self) -> None:
        """Forget everything: the work is done."""
        if self._descriptor is not None and self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file and leave it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self, *, create: bool) -> None:
        """Open and lock the file, read what is whole, and cut off what is not."""
        if self._path is None:
            return
        try:
            if create:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            elif not os.path.exists(self._path):  # noqa: PTH110 (Path.exists raises where it may not look)
                return
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with os.fdopen(os.dup(self._descriptor), "rb") as file:
                self.records, size = _read_lines(file)
            os.ftruncate(self._descriptor, size)
            os.lseek(self._descriptor, size, os.SEEK_SET)
        except BlockingIOError:  # another process does the same work now, and keeps this journal
            self._works = False
            self.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._works = False
        self.close()
        warn_of_no_cache(error)


_unfinished: list[Path] = []  # journals of this process whose work was interrupted


def has_unfinished_work() -> bool:
    """Tell whether this process left a journal with finished parts behind, so that the same work would continue."""
    return bool(_unfinished)


@contextmanager
def keep_journal(work: str, key: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the journal of `work`; it is removed on leaving without an error, and otherwise left for the next time.

    `key` is everything that determines the result, as JSON values: only work with an equal key finds the journal.
    The file is in ``journals`` of the cache folder, and comes into being with the first record.
    """
    folder = cache_folder()
    path = folder / FOLDER / f"{work}-{hash_json(key)[:32]}.jsonl" if folder is not None else None
    if path is not None:
        _remove_abandoned(path.parent)
    journal = Journal(path)
    try:
        yield journal
        journal.remove()
    except BaseException:
        if journal.is_kept and path is not None:
            _unfinished.append(path)
        raise
    finally:
        journal.close()


def _format_line(record: Any) -> bytes:
    payload = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode()
    return hashlib.sha256(payload).hexdigest()[:_DIGITS].encode() + b" " + payload + b"\n"


def _read_lines(file: IO[bytes]) -> tuple[list[Any], int]:
    """Return the records up to the first line that is torn or damaged, and where that line begins."""
    records: list[Any] = []
    size = 0
    for line in file:
        try:
            record = json.loads(line[_DIGITS + 1 :])
            whole = _format_line(record) == line
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            break
        records.append(record)
        size += len(line)
    return records, size


def _remove_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for path in folder.glob("*.jsonl"):
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink()
