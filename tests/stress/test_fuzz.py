"""Every fuzz target without coverage guidance: its own bytes, and the same cut off or changed in places."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from nestforge.errors import NestForgeError
from tests.stress.fuzz_targets import TARGETS

MUTATIONS = 40
REFUSED = {"safetensors", "torch"}  # a whole checkpoint is larger than what is mutated


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Cut bytes off, or change some."""
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data) + 1)]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8)) if data else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_bytes_are_read_or_refused(name: str, tmp_path: Path) -> None:
    if name == "torch":
        pytest.importorskip("torch")
    target = TARGETS[name]
    seeds = target.make_seeds(tmp_path)
    path = tmp_path / target.name
    rng = random.Random(0)
    used = 0
    for number in range(len(seeds) + MUTATIONS):
        path.write_bytes(seeds[number] if number < len(seeds) else mutate(rng.choice(seeds), rng))
        try:
            target.read(path)
            used += 1
        except NestForgeError:
            pass
    assert used or name in REFUSED
