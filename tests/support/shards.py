"""Tar shards, member by member."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

Member = tuple[str, bytes] | tarfile.TarInfo


def make_link(name: str, target: str, *, hard: bool = False) -> tarfile.TarInfo:
    """Return a link; a symbolic one is relative to its own folder, a hard one to the shard."""
    member = tarfile.TarInfo(name)
    member.type = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
    member.linkname = target
    return member


def make_special(name: str, kind: bytes) -> tarfile.TarInfo:
    """Return a folder, a pipe or a device."""
    member = tarfile.TarInfo(name)
    member.type = kind
    return member


def write_shard(path: Path, members: Iterable[Member], *, mode: str = "w", form: int = tarfile.PAX_FORMAT) -> Path:
    """Write members in their order: (name, content) of files, and whatever else as tarfile describes it."""
    with tarfile.open(path, mode, format=form) as tar:  # type: ignore[call-overload]
        for entry in members:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            name, content = entry
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
