"""Lists of images: one image a line, its path and its class, as CSV or as Caffe and MXNet write them."""

from __future__ import annotations

import csv
import glob
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nestforge.data.filenames import is_image_name
from nestforge.data.labels import decode_text, is_number, split_lines
from nestforge.errors import DataError
from nestforge.files import read_small_file

File = TypeVar("File")
LIST_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".lst"})
MAX_LIST_BYTES = 512 << 20

_PATH_HEADERS = [
    "path",
    "filepath",
    "filename",
    "file",
    "imagepath",
    "imagefile",
    "imagename",
    "image",
    "img",
    "imgpath",
    "imageid",
]
_CLASS_HEADERS = [
    "wnid",
    "synset",
    "label",
    "class",
    "target",
    "category",
    "classname",
    "labelname",
    "classid",
    "classindex",
    "labelid",
    "labels",
    "cls",
    "groundtruth",
]  # the first that there is
_MARKS = ("\t", ",", ";", "", " ")  # between the fields; "" for lines that are a path alone
_FLOAT_INDEX = re.compile(r"(\d{1,9})\.0*", re.ASCII)


@dataclass(frozen=True)
class ListedImage:
    """A line of a list: the path as it is written, and the class, an index or a name, or "" where none is given."""

    path: str
    label: str


@dataclass(frozen=True)
class _Table:
    """The fields of every line, between which `mark` stands; `column` holds paths, `count` of them with a suffix."""

    mark: str
    rows: list[list[str]]
    column: int
    count: int

    @property
    def header(self) -> list[str] | None:
        """The words of the first line, in small letters without punctuation, where it is no image."""
        first = self.rows[0]
        named = self.column < len(first) and is_image_name(first[self.column])
        return None if named or len(self.rows) < 2 else [re.sub(r"[\W_]", "", field).lower() for field in first]


def read_image_list(path: Path) -> list[tuple[Path, str]]:
    """Return the files that a list names, each with its class or "".

    Lines are as `parse_image_list` reads them. Paths are relative to the folder of the list; names without a suffix are
    those of images beside each other, and backslashes are separators unless a file is called so. A file that is not
    there is found out when it is read.

    Raises:
        DataError: missing, too large, not a list of images, or not one of its files is there.
    """
    try:
        content = read_small_file(path, limit_bytes=MAX_LIST_BYTES)
        if len(content) > MAX_LIST_BYTES:
            raise DataError(f"it is over {MAX_LIST_BYTES >> 20} MiB; split it")
        listed = parse_image_list(decode_text(content, source="it"))
        files = _locate([image.path for image in listed], path.parent)
    except OSError as error:
        raise DataError(f"cannot read list {path}: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"list of images {path}: {error}") from error
    return [(file, image.label) for file, image in zip(files, listed, strict=True)]


def take_once(rows: Iterable[tuple[File, str]], *, source: str) -> dict[File, str]:
    """Return the class of each file; a file that the list names again is taken once, with a warning.

    Raises:
        DataError: a file with two classes.
    """
    class_of: dict[File, str] = {}
    repeated = 0
    for file, label in rows:
        repeated += file in class_of
        if class_of.setdefault(file, label) != label:
            raise DataError(f"list of images {source}: {file} has two classes, {class_of[file]!r} and {label!r}")
    if repeated:
        warnings.warn(f"{source} names {repeated:,} images more than once; each is taken once", stacklevel=1)
    return class_of


def _locate(names: Sequence[str], base: Path) -> list[Path]:
    remote = next((name for name in names if "://" in name), None)
    if remote is not None:
        raise DataError(f"{remote} is a URL; fetch the images, or give a list at a URL")
    suffix = _guess_suffix(names, base)
    files = [_choose_separator(f"{name}{suffix}", base) for name in names]
    if not any(file.exists() for file in files):
        here = " (it is below the current folder)" if Path(names[0]).exists() else ""
        raise DataError(
            f"none of its {len(names):,} files is there, the first {names[0]!r}{here}; paths are relative to the "
            f"folder of the list, {base.absolute()}"
        )
    return files


def _choose_separator(name: str, base: Path) -> Path:
    file = base / name
    return file if "\\" not in name or file.exists() else base / name.replace("\\", "/")


def _guess_suffix(names: Sequence[str], base: Path) -> str:
    """Return the suffix that the names lack, as the first image has it; "" where they have suffixes."""
    first = base / names[0]
    if any(is_image_name(name) for name in names) or first.exists():
        return ""
    found = sorted(first.parent.glob(f"{glob.escape(first.name)}.*"))
    return next((file.suffix for file in found if is_image_name(file.name)), "")


def parse_image_list(text: str) -> list[ListedImage]:
    """Read a list: ``path,label`` with a header or without, or with tabs, semicolons or spaces between.

    Without a header there are two columns in any order, or MXNet's three (number, class, path), or the path alone. A
    header names the columns, and others may stand beside them. A path may hold spaces.

    Raises:
        DataError: no column of paths, columns that could be either, or a line unlike the others.
    """
    lines = split_lines(text)
    if not lines:
        raise DataError("it is empty; write a line path,label for each image")
    try:
        tables = [_read_table(lines, mark) for mark in _MARKS]
    except csv.Error as error:
        raise DataError(f"it cannot be read ({error}); write a line path,label for each image") from error
    table = max(tables, key=lambda table: table.count)
    if not table.count:
        table = next((table for table in tables if set(table.header or ()).intersection(_PATH_HEADERS)), table)
        if not table.header or table.column >= len(table.header):
            raise DataError(_explain_no_paths(lines))
    label = _find_label_column(table)
    first = 1 if table.header else 0
    width = len(table.rows[0])
    images = []
    for number, row in enumerate(table.rows[first:], first + 1):
        if len(row) != width or not row[table.column]:
            raise DataError(
                f"entry {number}, {lines[number - 1][:60]!r}, has {len(row)} fields and not {width}; quote names and "
                "paths that hold the separator"
            )
        images.append(ListedImage(row[table.column], row[label] if label is not None else ""))
    return _check_labels(images, lines)


def _read_table(lines: Sequence[str], mark: str) -> _Table:
    if mark == "":
        rows = [[line] for line in lines]
    elif mark == " ":
        rows = [line.rsplit(None, 1) for line in lines]
    else:
        rows = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)]
    columns = range(1) if mark == " " else range(max(map(len, rows)))
    least = 2 if mark else 1  # fields: without the mark in it a line is not split by it
    counts = [
        sum(len(row) > place and len(row) >= least and is_image_name(row[place]) for row in rows) for place in columns
    ]
    best = max(counts)
    column = counts.index(best)
    table = _Table(mark, rows, column, best)
    if not best and table.header:
        column = next((place for place, word in enumerate(table.header) if word in _PATH_HEADERS), len(table.header))
    return _Table(mark, rows, column, best)


def _find_label_column(table: _Table) -> int | None:
    width = len(table.rows[0])
    others = [place for place in range(width) if place != table.column]
    if table.header:
        named = [table.header.index(word) for word in _CLASS_HEADERS if word in table.header]
        named = [place for place in named if place != table.column]
        if named or len(others) < 2:
            return named[0] if named else (others[0] if others else None)
        raise DataError(f"none of its columns is called label (its columns: {', '.join(table.rows[0])})")
    if len(others) == 2 and table.column == 2 and all(map(is_number, (row[0] for row in table.rows))):
        return 1  # MXNet
    if len(others) > 1:
        raise DataError(f"its lines have {width} fields; name the columns in a first line, as in path,label")
    return others[0] if others else None


def _check_labels(images: list[ListedImage], lines: Sequence[str]) -> list[ListedImage]:
    labelled = [bool(image.label) for image in images]
    if any(labelled) and not all(labelled):
        raise DataError(f"{images[labelled.index(False)].path!r} has no class, but others have")
    floats = [_FLOAT_INDEX.fullmatch(image.label) for image in images]
    if all(floats):
        return [ListedImage(image.path, match[1]) for image, match in zip(images, floats, strict=True) if match]
    return images


def _explain_no_paths(lines: Sequence[str]) -> str:
    if all(map(is_number, lines)):
        return (
            "it holds numbers and no paths; write a line path,label for each image (the numbers of "
            "ILSVRC2012_validation_ground_truth.txt are the development kit's, not the usual class indices)"
        )
    return f"no column of it holds paths of images (its first line: {lines[0][:60]!r}); write path,label for each image"
