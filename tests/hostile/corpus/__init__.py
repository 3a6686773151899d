"""The corpus: how to make each bad or odd file, and what must become of it."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.corpus.artifacts import list_artifacts
from tests.hostile.corpus.case import Case
from tests.hostile.corpus.checkpoints import list_checkpoints
from tests.hostile.corpus.graphs import list_onnx
from tests.hostile.corpus.images import list_images
from tests.hostile.corpus.npz import list_npz
from tests.hostile.corpus.places import list_places
from tests.hostile.corpus.texts import list_texts


def list_cases(folder: Path) -> list[Case]:
    """Return every case; `folder` holds what valid files are made from: model.onnx, and an artifact in artifact/."""
    return [
        *list_images(),
        *list_places(),
        *list_npz(),
        *list_onnx((folder / "model.onnx").read_bytes()),
        *list_texts(),
        *list_checkpoints(),
        *list_artifacts(folder / "artifact"),
    ]
