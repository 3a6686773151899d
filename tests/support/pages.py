"""What the report of the tests is made of: names that try to break out of the page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nestforge.pages.report import Report

HOSTILE_LABEL = "<script>alert(\"label\")</script> & 'quoted'"
HOSTILE_IMAGE = "a \"b\" 'c' <img src=x onerror=alert(1)>.png"
UNDECODABLE_IMAGE = os.fsdecode(b"1\xff.png")
HOSTILE_ARTIFACT = 'int8 "&<b>'
LAYERS = 20


@dataclass(frozen=True)
class Written:
    """A report, its HTML, and what it was made from."""

    result: Report
    html: str
    artifacts: list[Path]
    dataset: Path
    sensitivity: Path
