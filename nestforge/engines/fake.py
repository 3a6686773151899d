"""An engine for tests: logits are a fixed function of the images, and nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nestforge.engines.base import Dtype, Images, Kernel, Logits, Session, Settings, run_padded


class FakeEngine:
    """Returns `compute_logits(images_nchw)`, and records the sizes of the batches it was given."""

    name = "fake"
    version = "0"
    preferred_passes: frozenset[str] = frozenset()

    def __init__(self, compute_logits: Callable[[Images], Logits]) -> None:
        self.compute_logits = compute_logits
        self.batches: list[int] = []

    def supports(self, dtype: Dtype) -> bool:
        return True

    def open(self, model: Path | bytes, settings: Settings, *, sha256: str | None = None) -> Session:
        return _FakeSession(self, settings)


class _FakeSession:
    def __init__(self, engine: FakeEngine, settings: Settings) -> None:
        self.settings = settings
        self._engine = engine

    def run(self, images_nchw: Images) -> Logits:
        self._engine.batches.append(len(images_nchw))
        return self.run_all(images_nchw)["output"]

    def run_all(self, images_nchw: Images) -> dict[str, npt.NDArray[np.float32]]:
        return run_padded(images_nchw, self.settings, lambda images: {"output": self._engine.compute_logits(images)})

    def list_kernels(self) -> list[Kernel]:
        return []
