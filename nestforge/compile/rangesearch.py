"""The range of an activation by search: the clipping whose error on a histogram is least.

Both searches read a finished histogram, so they cost the same however many images were seen, and both may only
narrow the range [low, high] of all values. A wider range clips less, a narrower one has finer steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVELS = 256
_FACTORS = 2.0 ** (-np.arange(129) / 16)  # what an end is multiplied by: 1 down to 1/256
_KL_BINS_A_LEVEL = 8
_SMALLEST_SHARE = 1e-9


def find_mse_range(values: Floats, counts: Floats, low: float, high: float) -> tuple[float, float]:
    """Return the range whose 256 levels have the least mean squared error on `values`, each counted `counts` times."""
    return _search(lambda a, b: compute_squared_error(values, counts, a, b), low, high)


def compute_squared_error(values: Floats, counts: Floats, low: float, high: float) -> float:
    """Return the sum of squared differences that quantizing to 256 levels over [low, high], which holds 0, makes."""
    if high <= low:
        return float(counts @ values**2)
    scale = (high - low) / (LEVELS - 1)
    zero_point = np.clip(np.rint(-low / scale), 0, LEVELS - 1)
    levels = np.clip(np.rint(values / scale) + zero_point, 0, LEVELS - 1)
    return float(counts @ ((levels - zero_point) * scale - values) ** 2)


def find_kl_range(edges: Floats, cumulative: Floats, low: float, high: float) -> tuple[float, float]:
    """Return the range whose 256 levels lose the least information, by Kullback-Leibler divergence.

    `cumulative[i]` values lie below `edges[i]`. At each candidate the histogram is rebinned to 8 linear bins a level.
    Clipped values belong to the outermost bins of the reference and are missing in the quantized distribution, as in
    Migacz, "8-bit inference with TensorRT" (2017).
    """
    return _search(lambda a, b: _compute_divergence(edges, cumulative, a, b), low, high)


def _search(score: Callable[[float, float], float], low: float, high: float) -> tuple[float, float]:
    """Narrow both ends together, then each by itself, and keep the least score; of equals the widest."""
    together = [(float(low * factor), float(high * factor)) for factor in _FACTORS]
    best = min(together, key=lambda ends: score(*ends))
    for _ in range(2):
        best = min([best, *((best[0], float(high * factor)) for factor in _FACTORS)], key=lambda ends: score(*ends))
        best = min([best, *((float(low * factor), best[1]) for factor in _FACTORS)], key=lambda ends: score(*ends))
    return best


def _compute_divergence(edges: Floats, cumulative: Floats, low: float, high: float) -> float:
    bounds = np.linspace(low, high, LEVELS * _KL_BINS_A_LEVEL + 1)
    below = np.interp(bounds, edges, cumulative)
    kept = np.diff(below)
    reference = kept.copy()
    reference[0] += below[0] - cumulative[0]
    reference[-1] += cumulative[-1] - below[-1]
    groups = kept.reshape(LEVELS, _KL_BINS_A_LEVEL)
    filled = groups > 0
    means = groups.sum(1) / np.maximum(filled.sum(1), 1)
    quantized = np.where(filled, means[:, None], 0.0).reshape(-1)
    if not quantized.sum():
        return np.inf
    p, q = reference / reference.sum(), quantized / quantized.sum()
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], _SMALLEST_SHARE))).sum())
