"""Intervals and tests for counts of correct predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A count of correct predictions as a rate with its Wilson 95% interval, all fractions of 1."""

    correct: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two classifiers on the same images: ours against theirs.

    `difference` is ours minus theirs, a fraction of 1, with its 95% interval; `lost` were right only in theirs,
    `gained` only in ours.
    """

    difference: float
    low: float
    high: float
    lost: int
    gained: int
    mcnemar_p: float


def compute_rate(correct: int, total: int) -> Rate:
    """Return the rate with Wilson's 95% score interval (Wilson 1927)."""
    interval = stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return Rate(correct=correct, rate=correct / total, low=float(interval.low), high=float(interval.high))


def compare_paired(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> Paired:
    """Compare per-image correctness of two classifiers, shape (N,) each, with McNemar's exact test.

    The interval is Agresti and Min's (2005): Wald's on the discordant counts with half an image added to each.
    """
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    total = len(ours)
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    b, c, n = gained + 0.5, lost + 0.5, total + 2
    centre = (b - c) / n
    half = stats.norm.ppf(0.975) * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return Paired(
        difference=(gained - lost) / total,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        lost=lost,
        gained=gained,
        mcnemar_p=p,
    )


def bound_drop(lost: int, gained: int, total: int) -> float:
    """Return the upper end of the one-sided 95% interval of a drop, as a fraction of 1.

    The interval is that of `compare_paired`, one-sided because a bound asks about one side.
    """
    b, c, n = lost + 0.5, gained + 0.5, total + 2
    return float((b - c) / n + stats.norm.ppf(0.95) * math.sqrt(b + c - (b - c) ** 2 / n) / n)


def compute_ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of paired ratios ours/theirs and the 95% interval of the median (order statistics)."""
    ratios = np.sort(np.asarray(ours) / np.asarray(theirs))
    count = len(ratios)
    rank = int(stats.binom.ppf(0.025, count, 0.5))
    low = max(rank - 1, 0)
    return float(np.median(ratios)), float(ratios[low]), float(ratios[count - 1 - low])
