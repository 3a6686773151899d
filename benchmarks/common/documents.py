"""Tables that stand in documents between marks, ``<!-- name -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nestforge.errors import NestForgeError
from nestforge.files import atomic_write

_BLOCK = re.compile(r"<!-- (?P<name>[^>]+) -->\n.*?<!-- end -->", re.DOTALL)


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def list_marks(text: str) -> list[str]:
    """Return the names of the marks of a document."""
    return [match["name"] for match in _BLOCK.finditer(text)]


def replace_blocks(document: Path, blocks: Mapping[str, str]) -> None:
    """Replace what stands between the marks of each block that the document has, and print what became of each.

    Raises:
        NestForgeError: the document has none of the marks, so that nothing would be replaced.
    """
    text = document.read_text(encoding="utf-8")
    marks = list_marks(text)
    if not set(marks) & set(blocks):
        raise NestForgeError(f"{document} has none of the marks {', '.join(map(repr, blocks))}; nothing was replaced")

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name} -->\n{blocks[name]}\n<!-- end -->" if name in blocks else match[0]

    with atomic_write(document) as partial:
        partial.write_text(_BLOCK.sub(replace, text), encoding="utf-8")
    for title, names in (
        ("replaced", [name for name in marks if name in blocks]),
        ("has no mark for", [name for name in blocks if name not in marks]),
        ("left as it was", [name for name in marks if name not in blocks]),
    ):
        if names:
            print(f"{document}: {title}: {', '.join(names)}")
