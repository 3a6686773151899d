"""A cache of compiled models on disk, so that only the first process that opens an artifact waits for the compiler.

The name of a file is a hash of everything its content depends on. The file begins with the sha256 of the rest, so a
model that was cut short or changed is compiled again. Nothing here raises: without a usable folder there is no cache,
and one warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from nestforge.engines.machine import read_machine
from nestforge.errors import NestForgeError
from nestforge.files import atomic_write, cache_folder, warn_of_no_cache

ENV_VAR = "NESTFORGE_COMPILED"  # "0": neither read nor written
MAX_TOTAL_BYTES = 2 << 30
_DIGEST_BYTES = 32


def name_compiled(**depends_on: object) -> Path | None:
    """Return the cache path of the compiled model for these values and this CPU, or None if the cache is off."""
    if os.environ.get(ENV_VAR) == "0":
        return None
    folder = cache_folder()
    if folder is None:
        return None
    machine = read_machine()
    text = json.dumps({**depends_on, "cpu": machine.cpu, "flags": machine.flags}, sort_keys=True, default=str)
    return folder / "compiled" / f"{hashlib.sha256(text.encode()).hexdigest()}.blob"


def read_compiled(path: Path) -> bytes | None:
    """Return the compiled model, or None if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            digest, compiled = file.read(_DIGEST_BYTES), file.read()
        if hashlib.sha256(compiled).digest() != digest:
            return None
        os.utime(path)  # files that were unused longest are removed first
    except OSError:
        return None
    return compiled


def write_compiled(path: Path, compiled: bytes) -> None:
    """Cache a compiled model. Above `MAX_TOTAL_BYTES` in all, remove those that were unused longest."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            partial.write_bytes(hashlib.sha256(compiled).digest() + compiled)
    except OSError as error:
        warn_of_no_cache(error)
        return
    except NestForgeError as error:
        warn_of_no_cache(error.__cause__ if isinstance(error.__cause__, OSError) else error)
        return
    with contextlib.suppress(OSError):
        _remove_oldest(path.parent)


def _remove_oldest(folder: Path) -> None:
    files = [(path.stat(), path) for path in folder.glob("*.blob")]
    total = sum(stat.st_size for stat, _ in files)
    for stat, path in sorted(files, key=lambda row: row[0].st_mtime):
        if total <= MAX_TOTAL_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= stat.st_size
