"""A tar shard, read from beginning to end; only links in it make its reader look elsewhere."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from nestforge.data.filenames import get_suffix, is_hidden_below, is_image_name
from nestforge.data.parts import MAX_IMAGE_BYTES, Sample, describe_too_large
from nestforge.data.storage import open_file
from nestforge.data.tarsamples import LABEL_BYTES, Content, Group
from nestforge.errors import DataError

_MAX_LINKS = 40  # from one to the next, as file systems have it
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, kw_only=True)
class TarPart:
    """One tar shard in WebDataset's layout: the files of a sample follow each other.

    Every file with an image's suffix is a sample. Its class is what ``NAME.cls`` says, an index or a name; or the key
    ``label`` of ``NAME.json``; or a number in ``NAME.txt``; or the folder it is in; or the text of ``NAME.txt``. NAME
    is what the image is called without its suffix, or without more of what follows its first dot: ``0.cls`` is also
    that of ``0.left.jpg``. Links are followed within the shard, hidden files are skipped. A name without an image, and
    the second image of a path, are samples that cannot be read.
    """

    url: str

    def read(self) -> Iterator[Sample]:
        count = 0
        try:
            with open_file(self.url) as file, _Links(self.url) as links:
                watched: Any = _WatchedFile(file)
                try:
                    with tarfile.open(fileobj=watched, mode="r|") as tar:
                        for group in _list_groups(tar, links):
                            for sample in group.list_samples(posixpath.basename(self.url)):
                                count += 1
                                yield sample
                except tarfile.TarError:
                    kind = next((kind for mark, kind in _COMPRESSED.items() if watched.begin.startswith(mark)), None)
                    if kind and not count:
                        raise DataError(explain_compressed(self.url, kind)) from None
                    raise
                if watched.ran_out and count:
                    raise EOFError("its end is missing")
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise DataError(
                f"shard {self.url} is damaged after {count} samples ({error}); fetch it again or leave it out"
            ) from error
        if not count:
            raise DataError(f"shard {self.url} has no samples; name its files KEY.jpg and KEY.cls")


def explain_compressed(url: str, kind: str) -> str:
    """Say that a shard is compressed, and what to do."""
    return f"shard {url} is compressed ({kind}); unpack it to .tar: its images are compressed already"


def _list_groups(tar: tarfile.TarFile, links: _Links) -> Iterator[Group]:
    group: Group | None = None
    seen: set[str] = set()
    for member in tar:
        path = _normalize(member.name)
        if member.isdir() or is_hidden_below(path):
            continue
        folder, name = posixpath.split(path)
        key = posixpath.join(folder, name.split(".")[0])
        if group is not None and group.key != key:
            yield group
            group = None
        if group is None:
            group = Group(key)
        suffix = get_suffix(name)
        if is_image_name(name):
            if path in seen:
                group.repeated.append(path)
            else:
                seen.add(path)
                group.images[path] = _read_member(tar, links, member, MAX_IMAGE_BYTES)
        elif suffix in LABEL_BYTES:
            group.labels[posixpath.splitext(path)[0] + suffix] = _read_member(tar, links, member, LABEL_BYTES[suffix])
        else:
            group.others.append(path)
    if group is not None:
        yield group


def _read_member(tar: tarfile.TarFile, links: _Links, member: tarfile.TarInfo, limit_bytes: int) -> Content:
    if member.issym() or member.islnk():
        return links.read(member, limit_bytes)
    return _extract(tar, member, limit_bytes)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, limit_bytes: int) -> Content:
    if member.size > limit_bytes:
        return describe_too_large(limit_bytes)
    content = tar.extractfile(member) if member.isfile() else None
    return content.read() if content else "not a regular file"


def _normalize(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


class _Links:
    """Reads what links in a shard lead to, through a second handle that is opened for the first of them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def read(self, member: tarfile.TarInfo, limit_bytes: int) -> Content:
        """Return what a link leads to, or why it leads nowhere."""
        if self._tar is None:
            self._tar = self._open()
        first = member.linkname
        for _ in range(_MAX_LINKS):
            folder = posixpath.dirname(member.name) if member.issym() else ""
            found = self._members.get(_normalize(posixpath.join(folder, member.linkname)))
            if found is None:
                return f"a link to {first}, which is not in the shard"
            if not (found.issym() or found.islnk()):
                return _extract(self._tar, found, limit_bytes)
            member = found
        return f"a link to {first}, which leads in a circle"

    def _open(self) -> tarfile.TarFile:
        tar = tarfile.TarFile(fileobj=self._stack.enter_context(open_file(self._url)))
        for member in tar:
            name = _normalize(member.name)
            if not member.islnk() or name not in self._members:  # a file that is there again as a link to itself
                self._members[name] = member
        return tar


class _WatchedFile:
    """A file that remembers how it begins, and whether more was asked for than it has.

    tarfile takes a lost end for the end.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.begin = b""
        self.ran_out = False

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self.begin = self.begin or data[:8]
        self.ran_out |= not data
        return data
