"""Checkpoints."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator

import numpy as np

from tests.hostile.corpus.case import REFUSED, Case, damage, put
from tests.hostile.corpus.npz import Bomb, zip_of


def list_checkpoints() -> Iterator[Case]:
    from safetensors.numpy import save

    def safetensors(header: bytes, data: bytes = b"", size: int | None = None) -> bytes:
        return struct.pack("<Q", len(header) if size is None else size) + header + data

    entry = b'{"fc.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}'
    valid = save({"fc.weight": np.zeros((2, 512), np.float32)})
    files = {
        "empty": b"",
        "text": b"no checkpoint",
        "other_network": valid,
        "no_tensors": save({}),
        "header_too_long": safetensors(entry, bytes(16), size=2**63),
        "header_gigabytes": safetensors(entry, bytes(16), size=2**31),
        "header_no_json": safetensors(b"{" * 50),
        "header_deep": safetensors(b"[" * 50_000),
        "data_missing": safetensors(entry, bytes(3)),
        "offsets_turned": safetensors(entry.replace(b"[0, 16]", b"[16, 0]"), bytes(16)),
        "offsets_beyond": safetensors(entry.replace(b"[0, 16]", b"[0, 999999]"), bytes(16)),
        "shape_overflow": safetensors(entry.replace(b"[2, 2]", b"[9223372036854775807, 9]"), bytes(16)),
        "shape_negative": safetensors(entry.replace(b"[2, 2]", b"[-2, -2]"), bytes(16)),
        "unknown_dtype": safetensors(entry.replace(b"F32", b"F99"), bytes(16)),
        "strange_dtype": safetensors(entry.replace(b"F32", b"F8_E4M3").replace(b"[0, 16]", b"[0, 4]"), bytes(4)),
        "huge_classes": safetensors(
            entry.replace(b"[2, 2]", b"[4611686018427387904, 0]").replace(b"[0, 16]", b"[0, 0]")
        ),
    }
    for name, content in files.items():
        yield Case("checkpoints", f"{name}.safetensors", REFUSED, put(content))
    for name, content in damage(valid[:400], 5, seed=7):
        yield Case("checkpoints", f"{name}.safetensors", REFUSED, put(content))
    code = b'cbuiltins\nexec\n(S\'open("pickle_was_run", "w")\'\ntR.'
    deep: object = {}
    shared: object = {"fc.weight": 1}
    for _ in range(300):
        deep = {"model": deep}
    for _ in range(60):
        shared = {"state_dict": shared, "model": shared}
    torch_zip = {"archive/data.pkl": pickle.dumps(Bomb(), protocol=2), "archive/version": b"3\n"}
    pickles = {
        "empty": b"",
        "text": b"no checkpoint",
        "system": pickle.dumps(Bomb()),
        "system_protocol0": pickle.dumps({"fc.weight": Bomb()}, protocol=0),
        "exec": code,
        "system_in_zip": zip_of(torch_zip),
        "exec_in_zip": zip_of({"archive/data.pkl": code, "archive/version": b"3\n"}),
        "deep_mappings": zip_of({"archive/data.pkl": pickle.dumps(deep, protocol=2), "archive/version": b"3\n"}),
        "shared_mappings": zip_of({"archive/data.pkl": pickle.dumps(shared, protocol=2), "archive/version": b"3\n"}),
        "no_pickle_in_zip": zip_of({"archive/version": b"3\n"}),
        "empty_zip": zip_of({}),
        "numbers": pickle.dumps([1, 2, 3], protocol=2),
        "no_tensors": pickle.dumps({"state_dict": {}}, protocol=2),
        "itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01h\x00s.",
        "deep": b"\x80\x02" + b"(" * 100_000 + b".",
        "stack_underflow": b"\x80\x02....",
        "memo_bomb": b"\x80\x02r\xff\xff\xff\x7f.",
        "long_integer": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "jit": zip_of(
            {"archive/data.pkl": b"\x80\x02}.", "archive/constants.pkl": b"\x80\x02).", "archive/code/a.py": b""}
        ),
        "legacy_magic_only": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    }
    for name, content in pickles.items():
        yield Case("checkpoints", f"{name}.pth", REFUSED, put(content))
    for name, content in damage(pickle.dumps({"fc.weight": [1.0] * 50}, protocol=2), 5, seed=8):
        yield Case("checkpoints", f"{name}.pth", REFUSED, put(content))
    yield Case("checkpoints", "pipe.pth", REFUSED, lambda path: os.mkfifo(path))
    yield Case("checkpoints", "folder.safetensors", REFUSED, lambda path: path.mkdir())
