"""The classes of a network: their names, how artifacts write them, and which class a folder or a list means."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nestforge.errors import DataError
from nestforge.files import read_small_file

MAX_LABEL_BYTES = 16 << 20
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Label:
    """One class: its name for people, and its WordNet id where there is one."""

    name: str
    wnid: str | None = None

    @property
    def aliases(self) -> tuple[str, ...]:
        """What a class folder may be called."""
        first = self.name.split(",")[0].strip()
        names = [self.name, first, self.name.replace(" ", "_"), first.replace(" ", "_")]
        return tuple(dict.fromkeys([*([self.wnid] if self.wnid else []), *names]))


class ClassNames:
    """Finds the class that a folder, a list or a shard names.

    A name is compared as it is first, then without regard to case, Unicode normalization, leading zeros of a number,
    and whether words are joined by spaces, ``_`` or ``-``. A folder may also be called by its WordNet id and more, as
    in ``n02085620-Chihuahua``. Where no label is a number, a number is a class index, counted from 0.
    """

    def __init__(self, labels: Sequence[Label]) -> None:
        self._count = len(labels)
        self._exact = _index_names((alias, index) for index, label in enumerate(labels) for alias in label.aliases)
        self._folded = _index_names((_fold(alias), index) for alias, found in self._exact.items() for index in found)
        self._has_numbers = any(name.isdecimal() for name in self._folded)

    @property
    def known(self) -> list[str]:
        """Every name that means one class."""
        return sorted(name for name, found in self._exact.items() if len(found) == 1)

    def find(self, name: str) -> int | None:
        """Return the class index, or None where the name means no class or more than one."""
        found = self._look_up(name)
        if len(found) == 1:
            return next(iter(found))
        if not found and self.is_index(name):
            return int(name)
        return None

    def is_ambiguous(self, name: str) -> bool:
        """Tell whether the name means more than one class."""
        return len(self._look_up(name)) > 1

    def is_index(self, name: str) -> bool:
        """Tell whether a name can only be meant as the index of a class."""
        return not self._has_numbers and is_number(name) and int(name) < self._count

    def _look_up(self, name: str) -> frozenset[int]:
        found = self._exact.get(name) or self._folded.get(_fold(name))
        if not found and (wnid := WNID.match(name)):
            found = self._exact.get(wnid.group())
        return found or frozenset()


def _index_names(pairs: Iterable[tuple[str, int]]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for name, index in pairs:
        found.setdefault(name, set()).add(index)
    return {name: frozenset(indices) for name, indices in found.items()}


def is_number(text: str) -> bool:
    """Tell whether a text is a whole number from 0 up, of a length that an index can have."""
    return text.isascii() and text.isdecimal() and len(text) <= 9


def _fold(name: str) -> str:
    words = re.sub(
        r"[\s_\-]+", " ", unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    ).strip()
    return str(int(words)) if is_number(words) else words


def read_artifact_labels(path: Path) -> tuple[Label, ...]:
    """Read the labels of an artifact, as `format_label` writes them.

    Raises:
        DataError: missing, empty, too large or not UTF-8.
    """
    labels = tuple(parse_label(line) for line in split_lines(read_label_text(path)))
    if not labels:
        raise DataError(f"label file {path} is empty; give one class name a line")
    return labels


def read_label_text(path: Path) -> str:
    """Return the text of a label file of any format.

    Raises:
        DataError: missing, too large or not UTF-8.
    """
    try:
        content = read_small_file(path, limit_bytes=MAX_LABEL_BYTES)
    except OSError as error:
        raise DataError(f"cannot read label file {path}: {error.strerror}") from error
    if len(content) > MAX_LABEL_BYTES:
        raise DataError(f"label file {path} is over {MAX_LABEL_BYTES >> 20} MiB; give one class name a line")
    return decode_text(content, source=f"label file {path}")


def decode_text(content: bytes, *, source: str) -> str:
    """Decode UTF-8 with or without a byte order mark.

    Raises:
        DataError: UTF-16 or UTF-32, which some editors write, or no text at all; `source` names it.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise DataError(f"{source} is UTF-16 or not text at all; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text; save it as UTF-8") from error


def split_lines(text: str) -> list[str]:
    """Return the lines that are not blank, stripped; only line ends of files end a line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


def are_indices(indices: Sequence[int]) -> bool:
    """Tell whether these are the indices of all classes, once each, counted from 0 or (two or more) from 1."""
    ordered = sorted(indices)
    count = len(ordered)
    return bool(ordered) and (ordered == [*range(count)] or (count > 1 and ordered == [*range(1, count + 1)]))


def count_indices(indices: Sequence[int], count: int) -> int:
    """Return how many of the indices of `count` classes, from 0 or from 1, are there."""
    seen = set(indices)
    return max(len(seen.intersection(range(count))), len(seen.intersection(range(1, count + 1))))


def explain_indices(indices: Sequence[int]) -> str:
    """Say which index is missing or there twice, where not `are_indices`."""
    seen = set(indices)
    if len(seen) < len(indices):
        return f"index {next(index for index, count in Counter(indices).items() if count > 1)} is there twice"
    missing = next(index for index in range(min(*seen, 1), max(seen)) if index not in seen)
    return f"index {missing} is missing; give every class one, from 0 to {len(indices) - 1}"


def order_labels(
    names: Sequence[str], wnids: Sequence[str | None] | None = None, indices: Sequence[int] | None = None
) -> tuple[Label, ...]:
    """Make labels of names as they stand in a file, in the order of `indices` where there are some.

    Raises:
        DataError: a class without a name, a WordNet id of two classes, or an index missing or there twice.
    """
    if indices is not None and not are_indices(indices):
        raise DataError(explain_indices(indices))
    order = range(len(names)) if indices is None else sorted(range(len(names)), key=indices.__getitem__)
    labels = [Label(_clean(names[place]), _clean(wnids[place] or "") or None if wnids else None) for place in order]
    for index, label in enumerate(labels):
        if not label.name:
            raise DataError(f"class {index} has no name")
    twice = [wnid for wnid, count in Counter(label.wnid for label in labels).items() if wnid and count > 1]
    if twice:
        raise DataError(f"the id {twice[0]} names two classes")
    return tuple(labels)


def _clean(text: str) -> str:
    """Return a text that one line of UTF-8 can hold, single spaces between its words."""
    return " ".join(text.encode(errors="replace").decode().split())


def parse_label(line: str) -> Label:
    """Read one line of an artifact's label file."""
    first, tab, rest = line.strip().partition("\t")
    return Label(rest.strip(), first.strip()) if tab else Label(first)


def format_label(label: Label) -> str:
    """Write one line of an artifact's label file."""
    return f"{label.wnid}\t{label.name}" if label.wnid else label.name


def number_labels(count: int) -> tuple[Label, ...]:
    """Return the labels of classes that have no names."""
    return tuple(Label(str(index)) for index in range(count))


def read_imagenet_labels() -> tuple[Label, ...]:
    """Return the 1,000 classes of ImageNet-1k (ILSVRC2012) in their usual order, with wnids."""
    return read_artifact_labels(Path(__file__).with_name("imagenet_labels.txt"))
