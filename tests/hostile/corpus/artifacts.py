"""Artifacts whose files do not match."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.corpus.case import EITHER, REFUSED, USED, Case, Maker, damage, put


def list_artifacts(artifact: Path) -> Iterator[Case]:
    """Yield copies of an artifact with something wrong."""
    files = {path.name: path.read_bytes() for path in artifact.iterdir()}
    manifest = json.loads(files["manifest.json"])

    def copy(**changes: bytes | None) -> Maker:
        def make(path: Path) -> None:
            path.mkdir()
            for name, content in {**files, **{key.replace("_", "."): value for key, value in changes.items()}}.items():
                if content is not None:
                    (path / name).write_bytes(content)

        return make

    def alter(change: Callable[[dict[str, Any]], object]) -> Maker:
        altered = json.loads(files["manifest.json"])
        change(altered)
        return copy(manifest_json=json.dumps(altered).encode())

    yield Case("artifacts", "plain", USED, copy())
    cases = {
        "no_manifest": copy(manifest_json=None),
        "no_model": copy(model_onnx=None),
        "no_labels": copy(labels_txt=None),
        "empty_manifest": copy(manifest_json=b""),
        "null_manifest": copy(manifest_json=b"null"),
        "list_manifest": copy(manifest_json=b"[]"),
        "deep_manifest": copy(manifest_json=b"[" * 100_000),
        "deep_valid_manifest": copy(manifest_json=b"[" * 600 + b"]" * 600),
        "binary_manifest": copy(manifest_json=bytes(range(256))),
        "changed_model": copy(model_onnx=files["model.onnx"][:-1] + b"\x01"),
        "cut_model": copy(model_onnx=files["model.onnx"][:1000]),
        "empty_model": copy(model_onnx=b""),
        "changed_labels": copy(labels_txt=files["labels.txt"].swapcase()),
        "short_labels": copy(labels_txt=b"one\n"),
        "unknown_format": alter(lambda m: m.update(format=2)),
        "unknown_key": alter(lambda m: m.update(surprise=1)),
        "no_files": alter(lambda m: m.update(outputs={})),
        "other_folder": alter(lambda m: m["outputs"].update({"../model.onnx": m["outputs"]["model.onnx"]})),
        "absolute": alter(lambda m: m["outputs"].update({"/etc/passwd": m["outputs"]["model.onnx"]})),
        "wrong_hash": alter(lambda m: m["outputs"]["model.onnx"].update(sha256="0" * 64)),
        "no_hash": alter(lambda m: m["outputs"]["model.onnx"].update(sha256="")),
        "other_preprocess": alter(lambda m: m["preprocess"].update(mean=[0.1, 0.1, 0.1])),
        "no_std": alter(lambda m: m["preprocess"].update(std=[0, 0, 0])),
        "no_height": alter(lambda m: m.update(height=None)),
        "huge_height": alter(lambda m: m.update(height=10**9, width=10**9)),
        "more_classes": alter(lambda m: m.update(classes=999)),
        "no_classes": alter(lambda m: m.update(classes=0)),
        "other_engine": alter(lambda m: m["config"].update(engine="tensorrt")),
    }
    for name, make in cases.items():
        yield Case("artifacts", name, REFUSED, make)
    for name, content in damage(json.dumps(manifest).encode(), 8, seed=10):
        yield Case("artifacts", name, EITHER, copy(manifest_json=content))

    def link_model(path: Path) -> None:
        copy(model_onnx=None)(path)
        os.mkfifo(path / "model.onnx")

    yield Case("artifacts", "pipe_model", REFUSED, link_model)
    yield Case("artifacts", "file", REFUSED, put(b"no folder"))
    yield Case("artifacts", "loop", REFUSED, lambda path: path.symlink_to(path.name))
