"""One file of the corpus, and how files are made and damaged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

USED, REFUSED, EITHER = "used", "refused", "either"  # either: damage that may hit bytes nobody looks at
Maker = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One file (or link, or pipe) called `name`; `outcome` is what the reader must do with it."""

    kind: str
    name: str
    outcome: str
    make: Maker


def put(content: bytes) -> Maker:
    return lambda path: path.write_bytes(content) and None


def damage(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` cut and `count` bit-flipped versions."""
    rng = random.Random(seed)
    for number in range(count):
        yield f"cut{number}", content[: rng.randrange(len(content))]
        flipped = bytearray(content)
        for _ in range(1 + number):
            flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield f"flipped{number}", bytes(flipped)
