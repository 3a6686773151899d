"""Checks of single arguments, and the words of their errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from nestforge.errors import ConfigError


def check_range(name: str, value: float, low: float, high: float, *, unit: str = "") -> None:
    """Refuse a number outside `low` to `high`, both included.

    Raises:
        ConfigError: the value is outside, or not a number.
    """
    if not low <= value <= high:
        raise ConfigError(f"{name} {value:g} is outside {low:g} to {high:g}{unit and f' {unit}'}")


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the known words nearest to `word`, or ``""``."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
