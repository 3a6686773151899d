"""What the scores of a model are, and the probabilities they stand for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nestforge.artifact.manifest import ScoreKind
from nestforge.inference.topk import softmax


def probabilities_from_scores(scores: npt.NDArray[np.float32], kind: ScoreKind) -> npt.NDArray[np.float64]:
    """Return the probabilities (B, classes) that a model's scores (B, classes) stand for.

    Those of a model that gives probabilities are its own, whether each row adds up to 1 (``probabilities``) or each
    class has one for itself (``sigmoid``).
    """
    exact = scores.astype(np.float64)
    if kind == "logits":
        return softmax(exact)
    probabilities: npt.NDArray[np.float64] = np.exp(exact) if kind == "log_probabilities" else exact
    return probabilities
