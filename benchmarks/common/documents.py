"""Tables that stand in documents between marks, ``<!-- name -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nestforge.files import atomic_write


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def replace_blocks(document: Path, blocks: Mapping[str, str]) -> None:
    """Replace what stands between the marks of each block that the document has."""
    text = document.read_text(encoding="utf-8")
    for name, content in blocks.items():
        block = f"<!-- {name} -->\n{content}\n<!-- end -->"
        text = re.sub(f"<!-- {re.escape(name)} -->.*?<!-- end -->", lambda _, block=block: block, text, flags=re.DOTALL)
    with atomic_write(document) as partial:
        partial.write_text(text, encoding="utf-8")
