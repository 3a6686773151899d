"""Seeded weights with a known weakness."""

from __future__ import annotations

import numpy as np

from nestforge.networks.layers import Weights, make_seeded_weights
from nestforge.networks.zoo import Variant

BATCH_NORM_EPSILON = 1e-5


def make_unstable_weights(variant: Variant, *, signal: float, seed: int = 0) -> Weights:
    """Return weights whose first block sees channels that differ by `signal` of their size, and scales that up again.

    All channels of the stem are the first one plus a little of their own; the convolutions that follow have rows that
    sum to zero, so that what is common to the channels cancels, and their batch norms are scaled by 1 / `signal`.
    Rounding in float32, 6e-8 of what cancels, grows by as much.
    """
    weights = make_seeded_weights(variant, seed)
    stem = weights["conv1.6.weight"]
    weights["conv1.6.weight"] = stem[:1] + np.float32(signal) * stem
    for leaf, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        weights[f"bn1.{leaf}"] = np.full_like(weights[f"bn1.{leaf}"], value)
    for conv, norm in (("conv1", "bn1"), ("downsample.1", "downsample.2")):
        kernel = weights[f"layer1.0.{conv}.weight"]
        weights[f"layer1.0.{conv}.weight"] = kernel - kernel.mean(1, keepdims=True)
        weights[f"layer1.0.{norm}.weight"] *= np.float32(BATCH_NORM_EPSILON**0.5 / signal)
        weights[f"layer1.0.{norm}.running_mean"] *= np.float32(signal)
        weights[f"layer1.0.{norm}.running_var"] *= np.float32(signal**2)
    return weights
