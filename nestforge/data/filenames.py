"""Which files of a dataset are images, which are left alone without a word, and how the others are reported."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable
from functools import cache

from PIL import Image, ImageFile

_PROGRAMS = frozenset({"EPS"})  # Pillow would run it
_FILMS = frozenset({"MPEG"})  # Pillow reads the header, and no picture
_READ_AS_OTHERS = frozenset({"MPO"})  # formats that Pillow opens under another one's name
_LITTER = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}
)
_SHOWN_SUFFIXES = 5


@cache
def list_suffixes() -> frozenset[str]:
    """Return the suffixes of every format that Pillow decodes by itself, in lower case and with the dot.

    The first call loads all of Pillow's formats, so it is not made when modules are imported.
    """
    Image.init()

    def decodes(name: str) -> bool:
        if name in _READ_AS_OTHERS:
            return True
        factory = Image.OPEN[name][0] if name in Image.OPEN else None
        is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
        return factory is not None and not is_stub and name not in _PROGRAMS | _FILMS

    return frozenset(suffix.lower() for suffix, name in Image.registered_extensions().items() if decodes(name))


def is_image_name(name: str) -> bool:
    """Tell whether a file name, or a path with ``/``, has the suffix of an image."""
    return get_suffix(name) in list_suffixes()


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name belongs to a system and not to the dataset.

    Such are names that begin with a dot (``.ipynb_checkpoints``, ``._photo.jpg``), and what Windows, macOS and network
    drives leave behind (``Thumbs.db``, ``__MACOSX``, ``@eaDir``).
    """
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _LITTER


def is_hidden_below(key: str) -> bool:
    """Tell whether any part of a relative path with ``/`` is hidden."""
    return any(is_hidden(part) for part in key.split("/"))


def get_suffix(name: str) -> str:
    """Return the suffix of a file name or a path with ``/``, in lower case and with its dot, or ``""``."""
    return posixpath.splitext(posixpath.basename(name))[1].lower()


def describe_ignored(names: Iterable[str]) -> str | None:
    """Return ``"12 files ignored: 10 .txt, 2 .heic"`` for the names of files that are no images; None for none."""
    counts = Counter(get_suffix(name) for name in names)
    if not counts:
        return None
    ranked = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    shown = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in ranked[:_SHOWN_SUFFIXES]]
    rest = sum(count for _, count in ranked[_SHOWN_SUFFIXES:])
    total = sum(counts.values())
    listing = ", ".join([*shown, *([f"{rest:,} of other kinds"] if rest else [])])
    return f"{total:,} {'file' if total == 1 else 'files'} ignored: {listing}"
