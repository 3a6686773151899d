"""One row for every image of a source, with a prediction or an error."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What was found of one image, known by its part of the source and its position there.

    `key` names it for people. `truth` is None where the source does not say, or was not asked. `classes`, the most
    probable first, and `probabilities` are empty where `error` says why.
    """

    part: int
    position: int
    key: str
    truth: int | None = None
    classes: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None
