"""Sources of images: folders, tar shards (WebDataset layout) and Parquet, local or at any URL that fsspec knows.

A source is cut into parts. A part is a small description that can be sent to another machine. It gives the same samples
in the same order wherever and however often it is read, so (part, position) identifies an image.
"""

from __future__ import annotations

import glob
import itertools
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nestforge.checks import check_range
from nestforge.data.imagefolder import SUFFIXES, choose_images, list_images
from nestforge.data.parts import FolderPart, ParquetPart, TarPart, choose_columns, open_parquet
from nestforge.data.storage import ask_filesystem, is_remote
from nestforge.errors import ConfigError, DataError
from nestforge.files import fingerprint_file

MAX_PART_FILES = 256
MIN_PART_FILES = 8  # a batch
PARTS = 64  # parts of a folder, within these limits: enough for several workers to finish together
SHARDS = {".tar": "tar", ".parquet": "parquet"}
Kind = Literal["folder", "files", "tar", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset as parts; `images` is their number, or None if it is not known before all are read (tar shards)."""

    url: str
    kind: Kind
    parts: tuple[FolderPart | TarPart | ParquetPart, ...]
    images: int | None


def open_source(source: str | Path, *, limit: int | None = None) -> Source:
    """List what `source` names: a folder, a shard, a pattern of shards, or a folder of shards.

    A folder of images has one subfolder per class, as for `list_images`. Shards are ``*.tar`` or ``*.parquet``.
    `limit` chooses that many images of a folder, evenly over the classes and always the same ones.

    Raises:
        ConfigError: `limit` is below 1, or is given for shards, whose content is not known beforehand.
        DataError: there is nothing at `source`, or nothing that can be read.
        NestForgeError: the file system's package is not installed, or the file system refuses access.
    """
    url = str(source)
    if limit is not None:
        check_range("limit", limit, 1, 1 << 40)
    shards = _list_shards(url)
    if not shards:
        return _list_folder(url, limit)
    if limit is not None:
        raise ConfigError("--limit needs a folder of images, to choose evenly over its classes; leave it out")
    kinds = {SHARDS[posixpath.splitext(shard)[1]] for shard in shards}
    if len(kinds) > 1:
        raise DataError(f"{url} has tar and Parquet shards; name one kind, such as {url.rstrip('/')}/*.tar")
    if kinds == {"tar"}:
        return Source(url=url, kind="tar", parts=tuple(TarPart(url=shard) for shard in shards), images=None)
    groups = [part for shard in shards for part in _list_row_groups(shard)]
    images = sum(part.rows for part in groups)
    if not images:
        raise DataError(f"{url} has no rows")
    return Source(url=url, kind="parquet", parts=tuple(groups), images=images)


def open_images(images: Sequence[str | Path]) -> Source:
    """List image files, and anything else that `open_source` takes, in the order given.

    Raises:
        DataError, NestForgeError: as `open_source`.
    """
    if len(images) == 1 and not _is_image_file(str(images[0])):
        return open_source(images[0])
    parts: list[FolderPart | TarPart | ParquetPart] = []
    counts: list[int | None] = []
    for is_file, group in itertools.groupby(map(str, images), _is_image_file):
        if is_file:
            files = [("", image, image if is_remote(image) else str(Path(image).absolute())) for image in group]
            parts += _cut_files(files)
            counts.append(len(files))
        else:
            for more in map(open_source, group):
                parts += more.parts
                counts.append(more.images)
    known = [count for count in counts if count is not None]
    return Source(
        url=", ".join(map(str, images[:3])),
        kind="files",
        parts=tuple(parts),
        images=sum(known) if len(known) == len(counts) else None,
    )


def _is_image_file(url: str) -> bool:
    """Tell whether `url` names a single image: neither a folder nor a shard, nor a pattern of those."""
    suffix = posixpath.splitext(url)[1].lower()
    if suffix in SHARDS or (not is_remote(url) and Path(url).is_dir()):
        return False
    if is_remote(url):
        return suffix in SUFFIXES
    return Path(url).exists() or not glob.has_magic(url)


def locate_image(source: Source, part: int, position: int, key: str) -> str:
    """Return where an image of a source is: its path or URL, or for a shard the names of shard and sample."""
    described = source.parts[part]
    if not isinstance(described, FolderPart):
        return key
    url = described.files[position][2]
    if is_remote(url):
        return url
    return str(Path(source.url) / key) if source.kind == "folder" else key


def fingerprint_source(source: Source) -> list[object] | None:
    """Return JSON values that change when any file of a source changes; None if some files are at a URL."""
    rows: list[object] = []
    for part in source.parts:
        urls = [(label, url) for label, _, url in part.files] if isinstance(part, FolderPart) else [("", part.url)]
        if any(is_remote(url) for _, url in urls):
            return None
        rows += [[label, url, *fingerprint_file(Path(url))] for label, url in urls]
    return rows


def list_local_files(source: Source) -> list[Path]:
    """Return the image files of a folder on this machine; for other sources, none."""
    parts = [part for part in source.parts if isinstance(part, FolderPart)]
    return [Path(url) for part in parts for _, _, url in part.files if not is_remote(url)]


def _list_shards(url: str) -> list[str]:
    """Return the shards that `url` names, sorted; none if it is a folder of images."""
    if is_remote(url):
        found: list[str] = ask_filesystem(url, _list_remote_shards)
        return found
    path = Path(url)
    if path.is_dir():
        inside = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        if any(entry.is_dir() or entry.suffix.lower() in SUFFIXES for entry in inside):
            return []  # a folder of images, even if there are shards among them
        return _choose_shards(str(entry.absolute()) for entry in inside)
    if glob.has_magic(path.name) and not path.exists():
        shards = _choose_shards(str(match.absolute()) for match in path.parent.glob(path.name))
        if not shards:
            raise DataError(f"no .tar or .parquet file matches {url}")
        return shards
    if path.suffix in SHARDS and not path.exists():
        raise DataError(f"no shard {url}")
    return _choose_shards([str(path.absolute())])


def _list_remote_shards(system: Any, path: str) -> list[str]:
    if glob.has_magic(path):
        found = _choose_shards(map(system.unstrip_protocol, system.glob(path)))
        if not found:
            raise DataError(f"no .tar or .parquet file matches {system.unstrip_protocol(path)}")
        return found
    if not system.exists(path):
        raise DataError(f"nothing found at {system.unstrip_protocol(path)}")
    if system.isfile(path):
        return _choose_shards([system.unstrip_protocol(path)])
    files = [row["name"] for row in system.ls(path, detail=True) if row["type"] == "file"]
    return _choose_shards(map(system.unstrip_protocol, files))


def _choose_shards(urls: Iterable[str]) -> list[str]:
    return sorted(url for url in urls if posixpath.splitext(url)[1] in SHARDS)


def _list_folder(url: str, limit: int | None) -> Source:
    """Return the images of a folder, in the order of `list_images`."""
    if is_remote(url):
        rows = ask_filesystem(url, _list_remote_images)
        if limit is not None:
            raise ConfigError("--limit needs a folder on this machine; leave it out")
    else:
        folder = list_images(Path(url))
        if limit is not None:
            folder = choose_images(folder, limit)
        rows = [
            (name, str(path.relative_to(folder.root)), str(path.absolute()))
            for name, path in zip(folder.folders, folder.paths, strict=True)
        ]
    if not rows:
        raise DataError(f"no images in {url} or its subfolders, and no .tar or .parquet shards")
    return Source(url=url, kind="folder", parts=tuple(_cut_files(rows)), images=len(rows))


def _cut_files(rows: Sequence[tuple[str, str, str]]) -> list[FolderPart]:
    count = len(rows)
    size = min(MAX_PART_FILES, max(MIN_PART_FILES, count // PARTS // MIN_PART_FILES * MIN_PART_FILES))
    return [FolderPart(files=tuple(rows[begin : begin + size])) for begin in range(0, count, size)]


def _list_remote_images(system: Any, root: str) -> list[tuple[str, str, str]]:
    rows = []
    for path in system.find(root, maxdepth=2):
        key = posixpath.relpath(path, root)
        folder, name = posixpath.split(key)
        if posixpath.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
            rows.append((folder, key, system.unstrip_protocol(path)))
    return sorted(rows, key=lambda row: (row[0], posixpath.basename(row[1])))


def _list_row_groups(url: str) -> list[ParquetPart]:
    with open_parquet(url) as file:
        image, label = choose_columns(url, file.schema_arrow)
        parts, first = [], 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            parts.append(ParquetPart(url=url, group=group, first=first, rows=rows, image=image, label=label))
            first += rows
    return parts
