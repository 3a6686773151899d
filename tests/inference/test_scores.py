"""Probabilities from every kind of scores."""

from __future__ import annotations

import numpy as np
import pytest

from nestforge.artifact.manifest import ScoreKind
from nestforge.inference.scores import probabilities_from_scores

LOGITS = np.array([[1.0, 3.0, -2.0], [0.0, 0.0, 0.0]], np.float32)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
SIGMOIDS = 1 / (1 + np.exp(-LOGITS))


@pytest.mark.parametrize(
    ("kind", "scores", "expected"),
    [
        ("logits", LOGITS, PROBABILITIES),
        ("probabilities", PROBABILITIES, PROBABILITIES),
        ("log_probabilities", np.log(PROBABILITIES), PROBABILITIES),
        ("sigmoid", SIGMOIDS, SIGMOIDS),
    ],
)
def test_each_kind(kind: ScoreKind, scores: np.ndarray, expected: np.ndarray) -> None:
    found = probabilities_from_scores(scores, kind)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    scores = np.array([[1e4, 1e4 - 1, -3e38]], np.float32)
    np.testing.assert_allclose(probabilities_from_scores(scores, "logits").sum(), 1)
