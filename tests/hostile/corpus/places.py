"""Odd names and places: what is odd is not in the bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.corpus.case import REFUSED, USED, Case, Maker, put
from tests.hostile.corpus.images import encode, make_picture


def list_places() -> Iterator[Case]:
    """Yield what is odd about a name or a place, not about the bytes."""
    jpeg = encode(make_picture(), "JPEG")
    for name in (
        "ünïcödé.jpg",
        "日本語.jpg",
        "🦆.jpg",
        "spaces in it.jpg",
        "two.dots..jpg",
        "[bold]markup[red].jpg",
        "q'u\"o.jpg",
    ):
        yield Case("names", name, USED, put(jpeg))
    for name in ("%s%n.jpg", "$(touch x).jpg", "-rf.jpg", "e\u0301.jpg", "\u202egpj.jpg", "l" * 240 + ".jpg"):
        yield Case("names", name, USED, put(jpeg))
    for name in ("new\nline.jpg", "return\r.jpg", "\x1b[31mred.jpg", "tab\t.jpg", "bell\x07.jpg", "sep\u2028.jpg"):
        yield Case("names", name, USED, put(jpeg))
    yield Case("names", os.fsdecode(b"latin\xe9.jpg"), USED, put(jpeg))
    yield Case("names", "bad\n\x1b[2J.jpg", REFUSED, put(b"no image"))
    yield Case("names", os.fsdecode(b"bad\xff.jpg"), REFUSED, put(b"no image"))

    def link_to(target: str) -> Maker:
        return lambda path: path.symlink_to(target)

    yield Case("places", "pipe.jpg", REFUSED, lambda path: os.mkfifo(path))
    yield Case("places", "loop.jpg", REFUSED, link_to("loop.jpg"))
    yield Case("places", "to_nothing.jpg", REFUSED, link_to("nothing"))
    yield Case("places", "to_endless.jpg", REFUSED, link_to("/dev/zero"))
    yield Case("places", "to_random.png", REFUSED, link_to("/dev/urandom"))
    yield Case("places", "to_null.jpg", REFUSED, link_to("/dev/null"))
    yield Case("places", "to_memory.jpg", REFUSED, link_to("/proc/self/mem"))
    yield Case("places", "to_good.jpg", USED, link_to("../../good.jpg"))
    if os.geteuid() != 0:  # the super-user may read everything

        def make_unreadable(path: Path) -> None:
            path.write_bytes(jpeg)
            path.chmod(0)

        yield Case("places", "forbidden.jpg", REFUSED, make_unreadable)
