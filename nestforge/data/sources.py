"""Where many images lie: folders, lists, tar shards (WebDataset layout) and Parquet, here or at any fsspec URL.

A source is cut into parts. A part is a small description that can be sent to another machine, and that reads as the
same samples in the same order wherever and however often it is read; so an image is known by (part, position).
"""

from __future__ import annotations

import glob
import posixpath
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nestforge.data.filenames import SUFFIXES, describe_ignored, get_suffix, is_hidden, is_hidden_below
from nestforge.data.imagefolder import list_images
from nestforge.data.imagelist import LIST_SUFFIXES, MAX_LIST_BYTES, parse_image_list, take_once
from nestforge.data.labels import decode_text
from nestforge.data.parts import FolderPart, ParquetPart, Part, choose_columns, open_parquet
from nestforge.data.storage import ask_filesystem, is_remote, open_file
from nestforge.data.tarpart import TarPart, explain_compressed
from nestforge.errors import DataError

MAX_PART_FILES = 256
MIN_PART_FILES = 8  # a batch
PARTS = 64  # of a folder, where these bounds allow it: enough for several workers to finish together
SHARDS = {".tar": "tar", ".parquet": "parquet"}
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.\w{1,5})$", re.IGNORECASE)
_SPLIT = re.compile(r"(?:^|[-_.])(train|training|val|valid|validation|dev|test|testing|eval)(?=[-_.\d])", re.IGNORECASE)
Kind = Literal["folder", "tar", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as parts; `images` is known beforehand except for tar shards.

    The `kind` is "folder" for image files by themselves, whether a folder or a list names them.
    """

    url: str
    kind: Kind
    parts: tuple[Part, ...]
    images: int | None


def open_source(source: str | Path) -> Source:
    """List what `source` names: a folder, a list, a shard, a pattern of shards, or a folder of shards.

    A folder has one subfolder per class, as `list_images` takes it; so it takes lists, whose paths are relative to the
    list's folder or URL. Shards are ``*.tar`` or ``*.parquet``; a folder has shards of one split only.

    Raises:
        DataError: nothing there, or nothing of a kind that can be read.
        NestForgeError: the file system's package is not installed, or it refuses.
    """
    url = str(source)
    shards = _list_shards(url)
    if not shards:
        return _list_folder(url)
    kinds = {SHARDS[get_suffix(shard)] for shard in shards}
    if len(kinds) > 1:
        raise DataError(f"{url} has tar and Parquet shards; name those to take, as in {url.rstrip('/')}/*.tar")
    if kinds == {"tar"}:
        return Source(url=url, kind="tar", parts=tuple(TarPart(url=shard) for shard in shards), images=None)
    groups = [part for shard in shards for part in _list_row_groups(shard)]
    images = sum(part.rows for part in groups)
    if not images:
        raise DataError(f"{url} has no rows")
    return Source(url=url, kind="parquet", parts=tuple(groups), images=images)


def is_plain_folder(source: str | Path) -> bool:
    """Tell whether `source` can only be images on this machine, in a folder or list: what needs no extra package."""
    return not is_remote(str(source)) and not _list_shards(str(source))


def list_local_files(source: Source) -> list[Path]:
    """Return the image files of a folder on this machine; of other sources none."""
    parts = [part for part in source.parts if isinstance(part, FolderPart)]
    return [Path(url) for part in parts for _, _, url in part.files if not is_remote(url)]


def _list_shards(url: str) -> list[str]:
    """Return the shards that `url` names, sorted; none where it is a folder or list of images."""
    if is_remote(url):
        found: list[str] = ask_filesystem(url, _list_remote_shards)
        return found
    try:
        return _list_local_shards(Path(url), url)
    except OSError as error:
        raise DataError(f"cannot list {error.filename}: {error.strerror}; check its permissions") from error


def _list_local_shards(path: Path, url: str) -> list[str]:
    if path.is_dir():
        inside = [entry for entry in path.iterdir() if not is_hidden(entry.name)]
        shards = _choose_shards(str(entry.absolute()) for entry in inside if not entry.is_dir())
        if shards and _has_images(inside):
            return []  # a shard that strayed into a folder of images
        return _check_one_split(shards, url)
    if glob.has_magic(path.name) and not path.exists():
        shards = _choose_shards(str(match.absolute()) for match in path.parent.glob(path.name))
        if not shards:
            raise DataError(f"no .tar or .parquet file matches {url}")
        return shards
    if get_suffix(url) in SHARDS and not path.exists():
        raise DataError(f"no shard {url}")
    return _choose_shards([str(path.absolute())])


def _has_images(entries: Iterable[Path]) -> bool:
    """Tell whether there is an image among files and in folders."""
    inside = (child for entry in entries for child in (entry.iterdir() if entry.is_dir() else [entry]))
    return any(get_suffix(child.name) in SUFFIXES and not is_hidden(child.name) for child in inside)


def _list_remote_shards(system: Any, path: str) -> list[str]:
    if glob.has_magic(path):
        found = _choose_shards(map(system.unstrip_protocol, system.glob(path)))
        if not found:
            raise DataError(f"no .tar or .parquet file matches {system.unstrip_protocol(path)}")
        return found
    if not system.exists(path):
        raise DataError(f"there is nothing at {system.unstrip_protocol(path)}")
    if system.isfile(path):
        return _choose_shards([system.unstrip_protocol(path)])
    files = [row["name"] for row in system.ls(path, detail=True) if row["type"] == "file"]
    return _check_one_split(_choose_shards(map(system.unstrip_protocol, files)), system.unstrip_protocol(path))


def _choose_shards(urls: Iterable[str]) -> list[str]:
    """Return the shards among files, sorted.

    Raises:
        DataError: there are none, but compressed ones.
    """
    visible = sorted(url for url in urls if not is_hidden(posixpath.basename(url)))
    shards = [url for url in visible if get_suffix(url) in SHARDS]
    compressed = next((url for url in visible if _COMPRESSED.search(url)), None)
    if compressed and not shards:
        raise DataError(explain_compressed(compressed, compressed.rpartition(".")[2]))
    return shards


def _check_one_split(shards: list[str], url: str) -> list[str]:
    splits = {match[1].lower(): shard for shard in shards if (match := _SPLIT.search(posixpath.basename(shard)))}
    if len(splits) > 1:
        shard = posixpath.basename(splits.get("val") or splits.get("validation") or next(iter(splits.values())))
        pattern = f"{url.rstrip('/')}/{re.split(r'[0-9]', shard)[0]}*{posixpath.splitext(shard)[1]}"
        raise DataError(f"{url} has shards of {' and '.join(sorted(splits))}; name those to take, as in {pattern}")
    return shards


def _list_folder(url: str) -> Source:
    """Return the images of a folder or list, the same and in the same order as `list_images`."""
    if is_remote(url):
        rows = _list_remote_list(url) if get_suffix(url) in LIST_SUFFIXES else ask_filesystem(url, _list_remote_images)
    else:
        folder = list_images(Path(url))
        rows = [
            (name, folder.name_of(path), str(path.absolute()))
            for name, path in zip(folder.folders, folder.paths, strict=True)
        ]
    if not rows:
        raise DataError(f"no images in {url} or its subfolders, and no .tar or .parquet shards")
    count = len(rows)
    size = min(MAX_PART_FILES, max(MIN_PART_FILES, count // PARTS // MIN_PART_FILES * MIN_PART_FILES))
    parts = tuple(FolderPart(files=tuple(rows[begin : begin + size])) for begin in range(0, count, size))
    return Source(url=url, kind="folder", parts=parts, images=count)


def _list_remote_images(system: Any, root: str) -> list[tuple[str, str, str]]:
    rows, ignored = [], []
    for path in system.find(root):
        key = posixpath.relpath(path, root)
        if is_hidden_below(key):
            continue
        if get_suffix(key) in SUFFIXES:
            rows.append((key.split("/")[0] if "/" in key else "", key, system.unstrip_protocol(path)))
        else:
            ignored.append(key)
    if rows and ignored:
        warnings.warn(f"{system.unstrip_protocol(root)}: {describe_ignored(ignored)}", stacklevel=1)
    return sorted(rows)


def _list_remote_list(url: str) -> list[tuple[str, str, str]]:
    with open_file(url) as file:
        content = file.read(MAX_LIST_BYTES + 1)
    if len(content) > MAX_LIST_BYTES:
        raise DataError(f"{url} is over {MAX_LIST_BYTES >> 20} MiB; split it")
    try:
        listed = parse_image_list(decode_text(content, source="it"))
    except DataError as error:
        raise DataError(f"list of images {url}: {error}") from error
    names = [image.path.replace("\\", "/") for image in listed]
    absolute = next((name for name in names if name.startswith("/")), None)
    if absolute is not None:
        raise DataError(
            f"list of images {url}: {absolute} is a path of a machine; write paths relative to the list, or URLs"
        )
    folder = posixpath.dirname(url)
    urls = [name if is_remote(name) else f"{folder}/{posixpath.normpath(name)}" for name in names]
    name_of = dict(zip(urls, names, strict=True))
    class_of = take_once(zip(urls, (image.label for image in listed), strict=True), source=url)
    return [(label, name_of[found], found) for found, label in class_of.items()]


def _list_row_groups(url: str) -> list[ParquetPart]:
    with open_parquet(url) as file:
        image, label = choose_columns(url, file.schema_arrow)
        parts, first = [], 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            parts.append(ParquetPart(url=url, group=group, first=first, rows=rows, image=image, label=label))
            first += rows
    return parts
