"""Results appear whole or not at all: everything is written aside and then renamed."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nestforge.errors import ArtifactError, NestForgeError

StrPath = str | Path  # what public functions take
LONGEST_NAME = 200  # bytes of the 255 that a name may have; temporary names add to it


def read_small_file(path: Path, *, limit_bytes: int) -> bytes:
    """Return the content of a regular file; of one over `limit_bytes` only one byte more than that.

    Raises:
        OSError: it cannot be read, or is a folder, a pipe or a device, which might never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as file:
        return file.read(limit_bytes + 1)


def read_text(
    path: Path, *, limit_bytes: int, kind: str, remedy: str, error: type[NestForgeError], encoding: str = "utf-8"
) -> str:
    """Read one text file of bounded size; `kind` says in errors what it should be, `remedy` what to do.

    Raises:
        NestForgeError: the given `error`: missing, not a regular file, too large, or not text.
    """
    try:
        content = read_small_file(path, limit_bytes=limit_bytes)
        if len(content) > limit_bytes:
            raise error(f"{kind} {path} is over {limit_bytes >> 10:,} KiB; {remedy}")
        return content.decode(encoding)
    except OSError as failure:
        raise error(f"cannot read {kind} {path}: {failure.strerror}; {remedy}") from failure
    except UnicodeDecodeError as failure:
        raise error(f"{path} is not UTF-8 text; {remedy}") from failure


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving without an error it takes the place of `path`.

    Raises:
        NestForgeError: the folder is missing or not writable, or the disk is full.
    """
    if not path.parent.is_dir():
        raise NestForgeError(f"no folder {path.parent}; create it or choose another output")
    name = path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else hashlib.sha256(os.fsencode(path)).hexdigest()
    partial = path.with_name(f".{name}.{os.getpid()}.partial")
    try:
        with _explain_os_errors(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic_write` left in `folder` when a process was killed; files of living ones stay.

    Raises:
        OSError: the folder cannot be read or changed.
    """
    for path in folder.glob(".*.partial"):
        if path.is_file() and _was_killed(path.name.removesuffix(".partial").rpartition(".")[2]):
            path.unlink(missing_ok=True)


def _was_killed(writer: str) -> bool:
    """Tell whether the process with this number, as in a temporary name, has ended."""
    return writer.isdecimal() and not _is_alive(int(writer))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def atomic_write_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on leaving without an error it takes the place of `path`.

    Raises:
        ArtifactError: `path` exists and `overwrite` is off, or it is not an artifact.
        NestForgeError: the parent is not writable, or the disk is full.
    """
    check_output_folder(path, overwrite=overwrite)
    with _explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.{os.getpid()}."
        partial = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=path.parent))
    try:
        with _explain_os_errors(path):
            yield partial
            partial.chmod(0o755)
            _move_into_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_into_place(partial: Path, path: Path) -> None:
    """Rename; what was there before is removed only afterwards, and comes back if anything interrupts."""
    old = partial.with_suffix(".old")
    try:
        if path.exists():
            path.rename(old)
        partial.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def _clear_killed(path: Path) -> None:
    """Remove what a killed `atomic_write_folder` left beside `path`, and put back what it had moved."""
    for left in path.parent.iterdir():
        writer, _, rest = left.name.removeprefix(f".{path.name}.").partition(".")
        if not left.name.startswith(f".{path.name}.") or not _was_killed(writer):
            continue
        if rest.endswith(".old") and not path.exists():
            left.rename(path)
        elif rest.endswith((".old", ".partial")) and left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def check_output_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists; with `overwrite`, still refuse to remove what is not an artifact.

    What a killed process left beside it is removed before, and what it had moved away is put back.

    Raises:
        ArtifactError: see above.
        NestForgeError: the parent is not writable.
    """
    if path.parent.is_dir():
        with _explain_os_errors(path):
            _clear_killed(path)
    if not path.exists():
        return
    if not overwrite:
        raise ArtifactError(f"output {path} exists; give --overwrite to replace it, or choose another folder")
    if not path.is_dir() or (any(path.iterdir()) and not (path / "manifest.json").is_file()):
        raise ArtifactError(f"output {path} is not an artifact; it is not overwritten: choose another folder")


@contextmanager
def _explain_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NestForgeError(f"the disk is full while writing {path}; free some space and try again") from error
        raise NestForgeError(f"cannot write {path}: {error.strerror or error}") from error


def cache_folder() -> Path | None:
    """Return the folder for what can be fetched or made again: ``$NESTFORGE_CACHE`` or ``~/.cache/nestforge``.

    Where this process has neither variable nor home, as in a container with a user of no name, there is none, and one
    warning says so. The folder need not exist, and perhaps cannot be written.
    """
    if folder := os.environ.get("NESTFORGE_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nestforge"
    except RuntimeError:
        _warn_once("there is no home folder for a cache")
        return None


def warn_of_no_cache(error: Exception) -> None:
    """Say once that nothing can be kept in the cache folder, and why; the work goes on without."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    _warn_once(f"cannot keep anything in {cache_folder()} ({reason})")


@functools.cache
def _warn_once(what: str) -> None:
    warnings.warn(
        f"{what}: models are compiled again each time, and work that is interrupted starts again; "
        "set NESTFORGE_CACHE to a folder that can be written",
        stacklevel=1,
    )


def hash_file(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_file(path: StrPath) -> list[int]:
    """Return what changes whenever a file is replaced or written: size, mtime_ns, ctime_ns and inode; -1 where gone."""
    try:
        status = os.stat(path)  # noqa: PTH116 (called for every image of a dataset)
    except OSError:
        return [-1, -1, -1, -1]
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def hash_json(value: Any) -> str:
    """Return the sha256 of JSON values, as hex digits; equal values have equal hashes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(value: Any, target: str) -> None:
    """Write a result (dataclasses, models, paths) as JSON to a file, or to stdout for ``-``."""
    from pydantic_core import to_jsonable_python

    text = json.dumps(to_jsonable_python(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    with atomic_write(Path(target)) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # a name that is not UTF-8: \\udcXX
