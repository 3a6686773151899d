"""Label files as others write them: lines, tables and JSON. The whole file decides what its lines mean.

A line that could be read in two ways (``7 seas``: a name, or class 7) is read as all lines of the file can be: an
index or a WordNet id only where every line has one, and where the indices are those of all classes. Where nearly every
line of a long file has one, the others are mistakes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestforge.data.labeljson import read_json_labels
from nestforge.data.labels import (
    WNID,
    Label,
    are_indices,
    count_indices,
    explain_indices,
    is_number,
    order_labels,
    parse_label,
    read_label_text,
    split_lines,
)
from nestforge.errors import DataError

_INDEX_FIRST = re.compile(r"(?P<index>\d{1,9})(?P<mark>\s*[:=,;\t]\s*|[.)]\s+|\s+)(?P<rest>.*)", re.ASCII)
_WNID_FIRST = re.compile(rf"(?P<wnid>{WNID.pattern})(?:\s*[:,;]\s*|\s+)(?P<rest>.*)", re.ASCII)
_LAST_NUMBER = re.compile(r"\d{1,9}$", re.ASCII)
_MARKS = (":", "=", ",", ";", "\t")  # between a name and an index
_UNREAD = re.compile(r"item\s*\{|<[?!\w]")  # protocol buffers, XML
_UNREAD_SUFFIXES = (".yaml", ".yml", ".pbtxt", ".xml", ".html")
_NAME_HEADERS = {"name", "classname", "labelname", "category", "description", "title", "text", "words"}
_INDEX_HEADERS = {"index", "idx", "id", "classid", "classindex", "classidx", "labelid", "number", "target"}
_HEADERS = {*_NAME_HEADERS, *_INDEX_HEADERS, "label", "class", "wnid", "wordnetid", "synset", "synsetid"}
_MANY = 10
_NEARLY = 0.9


def read_labels(path: Path) -> tuple[Label, ...]:
    """Read the classes of a network, in their order, from a label file of any usual format.

    Lines are ``name``, ``wnid<TAB>name``, ``wnid name``, ``index: name`` (or ``index name``, ``index,name``) or
    ``name,index``; a table has a header; JSON is a list, or a map from or to the index. Indices count from 0 or from 1
    and give the order. Blank lines do not count.

    Raises:
        DataError: missing, empty, too large, not UTF-8, of another format, or an index or id missing or there twice.
    """
    text = read_label_text(path)
    try:
        labels = _parse_text(text, suffix=path.suffix.lower())
    except DataError as error:
        raise DataError(f"label file {path}: {error}") from error
    if not labels:
        raise DataError(f"label file {path} is empty; give one class name a line")
    return labels


def _parse_text(text: str, *, suffix: str) -> tuple[Label, ...]:
    stripped = text.strip()
    if suffix in _UNREAD_SUFFIXES or _UNREAD.match(stripped):
        raise DataError("this format is not read; give one class name a line, a table with a header, or JSON")
    if stripped and (suffix == ".json" or stripped[0] + stripped[-1] in ("[]", "{}")):
        return read_json_labels(stripped)
    lines = split_lines(text)
    return (_parse_table(lines) or _parse_lines(lines)) if lines else ()


def _parse_table(lines: Sequence[str]) -> tuple[Label, ...]:
    """Read a table whose first line names its columns; () where there is no such line."""
    mark = next((mark for mark in "\t,;" if mark in lines[0]), None)
    if mark is None or len(lines) < 2:
        return ()
    header = [re.sub(r"[\W_]", "", field).lower() for field in next(csv.reader([lines[0]], delimiter=mark))]
    if not all(field in _HEADERS for field in header):
        is_header = not _split_first_index(lines[0]) and not _split_last_index(lines[0])
        return _parse_lines(lines[1:]) if is_header and _take_indices(lines[1:])[0] else ()
    columns = _read_columns(lines[1:], header, mark)
    numbers = [place for place, column in enumerate(columns) if all(map(is_number, column))]
    index = next((place for place in numbers if header[place] not in _NAME_HEADERS), None)
    wnid = next((place for place, column in enumerate(columns) if all(map(WNID.fullmatch, column))), None)
    others = [place for place in range(len(header)) if place not in (index, wnid)]
    name = next((place for place in others if place not in numbers or header[place] not in _INDEX_HEADERS), wnid)
    if name is None:
        raise DataError(f"its columns ({', '.join(header)}) hold no names; add a column 'name'")
    return order_labels(
        columns[name],
        columns[wnid] if wnid is not None else None,
        [int(value) for value in columns[index]] if index is not None else None,
    )


def _read_columns(lines: Sequence[str], header: Sequence[str], mark: str) -> list[list[str]]:
    """Return the columns of a table; where the last one holds names, they may hold the mark without quotes."""
    last = len(header) - 1
    rows = []
    for number, row in enumerate(csv.reader(lines, delimiter=mark, skipinitialspace=True), 2):
        if len(row) < len(header) or (len(row) > len(header) and is_number(row[last])):
            raise DataError(f"line {number} has {len(row)} fields but the header has {len(header)}")
        rows.append([*row[:last], f"{mark} ".join(row[last:])])
    return [list(column) for column in zip(*rows, strict=True)]


def _parse_lines(lines: Sequence[str]) -> tuple[Label, ...]:
    indices, rest = _take_indices(lines)
    wnids, names = _take_wnids([_unquote(text) for text in rest] if indices else rest)
    if wnids and not indices and all(map(is_number, names)):
        indices, names = [int(name) for name in names], list(wnids)
    elif wnids and not indices:
        indices, names = _take_indices(names)  # as in the development kit of ImageNet: wnid, index, name
    if wnids or indices:
        return order_labels([_unquote(name) for name in names], wnids, indices)
    labels = [parse_label(line) for line in lines]
    return order_labels([label.name for label in labels], [label.wnid for label in labels])


@dataclass(frozen=True)
class _Split:
    """A line in two: an index, and the rest; `mark` is what stands between."""

    index: int
    mark: str
    rest: str


def _split_first_index(line: str) -> _Split | None:
    match = _INDEX_FIRST.fullmatch(line)
    return _Split(int(match["index"]), match["mark"].strip(" "), match["rest"]) if match else None


def _split_last_index(line: str) -> _Split | None:
    match = _LAST_NUMBER.search(line)
    rest = line[: match.start()].rstrip(" ") if match else ""
    return _Split(int(match.group()), rest[-1], rest[:-1].rstrip()) if match and rest.endswith(_MARKS) else None


def _take_indices(lines: Sequence[str]) -> tuple[list[int] | None, list[str]]:
    """Split the indices off lines that all have one, in front or at the end; (None, `lines`) where they have none.

    Raises:
        DataError: they are indices, but one is missing or there twice.
    """
    for split in (_split_first_index, _split_last_index):
        found = [split(line) for line in lines]
        parts = [part for part in found if part]
        indices = [part.index for part in parts]
        if len(parts) == len(lines) and are_indices(indices):
            if _are_no_names(parts):
                return indices, [part.rest for part in parts]
            continue
        if _is_nearly(count_indices(indices, len(lines)), len(lines)) or (
            split is _split_first_index and len(parts) == len(lines) and all(part.mark == ":" for part in parts)
        ):
            if None in found:
                wrong = found.index(None)
                raise DataError(f"line {wrong + 1}, {_show(lines[wrong])}, has no index as the others have")
            raise DataError(explain_indices(indices))
    return None, list(lines)


def _are_no_names(parts: Sequence[_Split]) -> bool:
    """Tell indices from numbers that belong to the names, as in ``1 fish`` and ``2 fish``, or ``0 - zero``."""
    rest = [part.rest for part in parts]
    if any(part.mark for part in parts):
        return True
    return not all(text.startswith("- ") for text in rest) and (len(rest) == 1 or 2 * len(set(rest)) > len(rest))


def _take_wnids(lines: Sequence[str]) -> tuple[list[str] | None, list[str]]:
    found = [_WNID_FIRST.fullmatch(line) for line in lines]
    matches = [match for match in found if match]
    if matches and len(matches) == len(lines):
        return [match["wnid"] for match in matches], [match["rest"] for match in matches]
    if _is_nearly(len(matches), len(lines)):
        wrong = found.index(None)
        raise DataError(f"line {wrong + 1}, {_show(lines[wrong])}, has no WordNet id as the others have")
    return None, list(lines)


def _is_nearly(count: int, total: int) -> bool:
    return total >= _MANY and count >= _NEARLY * total


def _unquote(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def _show(line: str) -> str:
    return repr(line if len(line) <= 40 else f"{line[:40]}...")
