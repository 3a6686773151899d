"""The most probable classes: chosen from scores, and compared with the true class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Classes = npt.NDArray[np.int64]  # (N, k), the most probable first; -1 where an image has no prediction


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The most probable classes of one image, the most probable first; `index` is its position in what was asked.

    Probabilities are fractions of 1.
    """

    index: int
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return probabilities (B, classes) of logits (B, classes)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials: npt.NDArray[np.float64] = np.exp(shifted)
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def rank_classes(scores: npt.NDArray[Any], count: int) -> Classes:
    """Return the `count` best classes (B, count) of scores (B, classes); of equal scores the lower class is first."""
    ranked: Classes = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return ranked


def select_top_k(
    scores: npt.NDArray[Any], probabilities: npt.NDArray[Any], count: int, *, indices: Sequence[int]
) -> list[TopK]:
    """Return the `count` best classes of each image by scores (B, classes), with their probabilities (B, classes)."""
    return [
        TopK(index=index, classes=tuple(map(int, best)), probabilities=tuple(map(float, row[best])))
        for index, best, row in zip(indices, rank_classes(scores, count), probabilities, strict=True)
    ]


def find_hits(
    classes: npt.NDArray[Any], truth: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return where the true class (N,) is the first of the classes (N, k), and where it is among them, (N,) each."""
    hits = classes == truth[:, None]
    return hits[:, 0], hits.any(axis=1)
