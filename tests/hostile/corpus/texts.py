"""YAML, JSON, labels and lists."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from tests.hostile.corpus.case import EITHER, REFUSED, USED, Case, damage, put

BUILD = """model: {name: resnest50, seed: 0}
dtype: fp32
output: out
preprocess: {ops: [{op: ecenter_crop, size: 224}], mean: [0.5, 0.5, 0.5]}
"""
VDSP = {
    "OpType": "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR",
    "OpConfig": {
        "OimageWidth": 64,
        "OimageHeight": 64,
        "NormaType": "DIV255",
        "ResizeType": "BILINEAR_CV",
        "Std": [0.2, 0.2, 0.2],
    },
}


def list_texts() -> Iterator[Case]:
    laughs = "a: &a [x]\n" + "".join(
        f"{c}: &{c} [{f'*{p},' * 9}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    yaml = {
        "empty": b"",
        "scalar": b"42",
        "list": b"- a\n- b\n",
        "binary": bytes(range(256)),
        "utf16": BUILD.encode("utf-16"),
        "tabs": b"model:\n\t- a\n",
        "unclosed": b"model: {name: [",
        "python_tag": b"model: !!python/object/apply:os.system ['touch pickle_was_run']\n",
        "unknown_tag": b"model: !nothing 1\n",
        "bad_date": b"model: 2020-13-45\n",
        "laughs": laughs.encode(),
        "itself": b"model: &a [*a]\n",
        "deep": b"model: " + b"[" * 3000,
        "deep_map": b"{a: " * 3000,
        "twice": b"model: {name: a}\nmodel: {name: b}\n",
        "unknown_key": BUILD.replace("dtype", "dtyp").encode(),
        "wrong_type": BUILD.replace("224", "'224'").encode(),
        "huge_side": BUILD.replace("224", "9" * 400).encode(),
        "infinite": BUILD.replace("0.5", ".inf").encode(),
        "not_a_number": BUILD.replace("0.5", ".nan").encode(),
        "long_line": b"model: " + b"x" * (1 << 20),
        "null_byte": b"model: \0\n",
        "documents": f"{BUILD}---\n{BUILD}".encode(),
    }
    yield Case("yaml", "plain.yaml", USED, put(BUILD.encode()))
    for name, content in yaml.items():
        yield Case("yaml", f"{name}.yaml", REFUSED, put(content))
    for name, content in damage(BUILD.encode(), 6, seed=5):
        yield Case("yaml", f"{name}.yaml", EITHER, put(content))
    for name in ("plain", "deep", "laughs", "itself", "list", "binary", "python_tag"):  # as the vendor's
        yield Case("vamc", f"{name}.yaml", REFUSED, put(BUILD.encode() if name == "plain" else yaml[name]))
    valid = json.dumps(VDSP).encode()
    vdsp = {
        "empty": b"",
        "null": b"null",
        "list": b"[1, 2]",
        "number": b"1e999",
        "binary": bytes(range(256)),
        "deep": b"[" * 100_000,
        "deep_valid": b"[" * 600 + b"]" * 600,
        "deep_map": b'{"OpType": ' * 600 + b"1" + b"}" * 600,
        "huge_number": valid.replace(b"64", b"9" * 5000),
        "not_a_number": valid.replace(b"0.2", b"NaN"),
        "infinite": valid.replace(b"0.2", b"Infinity"),
        "zero_std": valid.replace(b"0.2", b"0"),
        "huge_image": valid.replace(b"64", b"100000"),
        "surrogate": valid.replace(b"DIV255", b"\\ud800"),
        "comment": valid + b" // yes",
        "unknown_key": valid.replace(b"OimageWidth", b"OimageWidht"),
        "over_the_limit": b" " * (1 << 20) + valid,
    }
    yield Case("vdsp", "plain.json", USED, put(valid))
    for name, content in vdsp.items():
        yield Case("vdsp", f"{name}.json", REFUSED, put(content))
    for name, content in damage(valid, 6, seed=6):
        yield Case("vdsp", f"{name}.json", EITHER, put(content))
    labels = {
        "empty": b"",
        "blank": b"\n \n\t\n",
        "binary": bytes(range(128, 256)),
        "utf16": "tench\n".encode("utf-16"),
    }
    for name, content in labels.items():
        yield Case("labels", f"{name}.txt", REFUSED, put(content))
        yield Case("lists", f"{name}.txt", REFUSED, put(content))
    yield Case("labels", "over_the_limit.txt", REFUSED, put(b"x\n" * (9 << 20)))
    yield Case("labels", "escapes.txt", USED, put(b"\x1b[31mred\nb\x07ell\n[bold]x[/]\n"))
    yield Case("labels", "marked.txt", USED, put(b"\xef\xbb\xbftench\r\nshark\r\n"))
    yield Case("lists", "twice.txt", REFUSED, put(b"/a/b.npz\n/a/b.npz\n"))
    yield Case("lists", "null_byte.txt", EITHER, put(b"/a/\0.npz\n"))
    for kind, suffix in (("yaml", "yaml"), ("vamc", "yaml"), ("vdsp", "json"), ("labels", "txt"), ("lists", "txt")):
        yield Case(kind, f"pipe.{suffix}", REFUSED, lambda path: os.mkfifo(path))
        yield Case(kind, f"folder.{suffix}", REFUSED, lambda path: path.mkdir())
        yield Case(kind, f"endless.{suffix}", REFUSED, lambda path: path.symlink_to("/dev/zero"))
        yield Case(kind, f"loop.{suffix}", REFUSED, lambda path: path.symlink_to(path.name))
