"""Sources of images: folders, lists, tar shards (WebDataset layout) and Parquet, local or at any URL that fsspec knows.

A source is cut into parts. A part is a small description that can be sent to another machine. It gives the same samples
in the same order wherever and however often it is read, so (part, position) identifies an image.
"""

from __future__ import annotations

import glob
import itertools
import posixpath
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nestforge.checks import check_range
from nestforge.data.filenames import describe_ignored, get_suffix, is_hidden, is_hidden_below, is_image_name
from nestforge.data.imagefolder import choose_images, list_images
from nestforge.data.imagelist import LIST_SUFFIXES, MAX_LIST_BYTES, parse_image_list, take_once
from nestforge.data.labels import decode_text
from nestforge.data.parts import FolderPart, ParquetPart, choose_columns, open_parquet
from nestforge.data.storage import ask_filesystem, is_remote, open_file
from nestforge.data.tarpart import TarPart, explain_compressed
from nestforge.errors import ConfigError, DataError
from nestforge.files import fingerprint_file

MAX_PART_FILES = 256
MIN_PART_FILES = 8  # a batch
PARTS = 64  # parts of a folder, within these limits: enough for several workers to finish together
SHARDS = {".tar": "tar", ".parquet": "parquet"}
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.\w{1,5})$", re.IGNORECASE)
_SPLIT = re.compile(r"(?:^|[-_.])(train|training|val|valid|validation|dev|test|testing|eval)(?=[-_.\d])", re.IGNORECASE)
Kind = Literal["folder", "files", "tar", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset as parts; `images` is their number, or None if it is not known before all are read (tar shards).

    The `kind` is "folder" for the image files of a folder or of a list; `is_list` tells them apart.
    """

    url: str
    kind: Kind
    parts: tuple[FolderPart | TarPart | ParquetPart, ...]
    images: int | None
    is_list: bool = False


def open_source(source: str | Path, *, limit: int | None = None) -> Source:
    """List what `source` names: a folder, a list, a shard, a pattern of shards, or a folder of shards.

    A folder of images has one subfolder per class, as for `list_images`. The paths in a list are relative to the list's
    folder or URL. Shards are ``*.tar`` or ``*.parquet``; a folder has shards of one split only. `limit`
    chooses that many images of a folder or list, evenly over the classes and always the same ones.

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
        raise ConfigError("--limit needs a folder or list of images, to choose evenly over its classes; leave it out")
    kinds = {SHARDS[get_suffix(shard)] for shard in shards}
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
    """Tell whether `url` names a single image: neither a folder, a list nor a shard, nor a pattern of those."""
    suffix = get_suffix(url)
    if (
        suffix in SHARDS
        or suffix in LIST_SUFFIXES
        or _COMPRESSED.search(url)
        or (not is_remote(url) and Path(url).is_dir())
    ):
        return False
    if is_remote(url):
        return is_image_name(url)
    return Path(url).exists() or not glob.has_magic(url)


def locate_image(source: Source, part: int, position: int, key: str) -> str:
    """Return where an image of a source is: its path or URL, or for a shard the names of shard and sample."""
    described = source.parts[part]
    if not isinstance(described, FolderPart):
        return key
    url = described.files[position][2]
    if is_remote(url):
        return url
    if source.kind != "folder":
        return key
    return str((Path(source.url).parent if source.is_list else Path(source.url)) / key)


def fingerprint_source(source: Source) -> list[object] | None:
    """Return JSON values that change when any file of a source changes; None if some files are at a URL."""
    rows: list[object] = []
    for part in source.parts:
        urls = [(label, url) for label, _, url in part.files] if isinstance(part, FolderPart) else [("", part.url)]
        if any(is_remote(url) for _, url in urls):
            return None
        rows += [[label, url, *fingerprint_file(url)] for label, url in urls]
    return rows


def list_local_files(source: Source) -> list[Path]:
    """Return the image files of a folder on this machine; for other sources, none."""
    parts = [part for part in source.parts if isinstance(part, FolderPart)]
    return [Path(url) for part in parts for _, _, url in part.files if not is_remote(url)]


def _list_shards(url: str) -> list[str]:
    """Return the shards that `url` names, sorted; none if it is a folder or list of images."""
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
    return any(is_image_name(child.name) and not is_hidden(child.name) for child in inside)


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


def _list_folder(url: str, limit: int | None) -> Source:
    """Return the images of a folder or list, in the order of `list_images`."""
    is_list = False
    if is_remote(url):
        is_list = get_suffix(url) in LIST_SUFFIXES
        rows = _list_remote_list(url) if is_list else ask_filesystem(url, _list_remote_images)
        if limit is not None:
            raise ConfigError("--limit needs a folder or list on this machine; leave it out")
    else:
        folder = list_images(Path(url))
        is_list = folder.is_list
        if limit is not None:
            folder = choose_images(folder, limit)
        here = f"{Path.cwd()}/"
        rows = [
            (name, folder.name_of(path), str(path) if path.is_absolute() else here + str(path))
            for name, path in zip(folder.folders, folder.paths, strict=True)
        ]
    if not rows:
        raise DataError(f"no images in {url} or its subfolders, and no .tar or .parquet shards")
    return Source(url=url, kind="folder", parts=tuple(_cut_files(rows)), images=len(rows), is_list=is_list)


def _cut_files(rows: Sequence[tuple[str, str, str]]) -> list[FolderPart]:
    count = len(rows)
    size = min(MAX_PART_FILES, max(MIN_PART_FILES, count // PARTS // MIN_PART_FILES * MIN_PART_FILES))
    return [FolderPart(files=tuple(rows[begin : begin + size])) for begin in range(0, count, size)]


def _list_remote_images(system: Any, root: str) -> list[tuple[str, str, str]]:
    rows, ignored = [], []
    for path in system.find(root):
        key = posixpath.relpath(path, root)
        if is_hidden_below(key):
            continue
        if is_image_name(key):
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
