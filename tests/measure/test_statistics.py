"""Wilson and McNemar against published values and independent formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nestforge.measure.statistics import compare_paired, compute_rate, compute_ratio_interval


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_of_newcombe_1998(correct: int, total: int, low: float, high: float) -> None:
    """Method 3 (score, no continuity correction) in table I of Newcombe, Statistics in Medicine 17 (1998)."""
    rate = compute_rate(correct, total)
    assert rate.low == pytest.approx(low, abs=5e-5)
    assert rate.high == pytest.approx(high, abs=5e-5)
    assert rate.rate == correct / total


def test_wilson_by_its_formula() -> None:
    z = stats.norm.ppf(0.975)
    for correct, total in ((5458, 10_000), (40_500, 50_000), (10, 10)):
        p = correct / total
        centre = (p + z * z / (2 * total)) / (1 + z * z / total)
        half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
        rate = compute_rate(correct, total)
        assert (rate.low, rate.high) == pytest.approx((centre - half, centre + half), abs=1e-9)


def make_pair(both: int, ours: int, theirs: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = [True] * (both + ours) + [False] * (theirs + neither)
    second = [True] * both + [False] * ours + [True] * theirs + [False] * neither
    return np.array(first), np.array(second)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (14, 11), (104, 129), (3, 40)])
def test_mcnemar_is_the_exact_binomial(gained: int, lost: int) -> None:
    ours, theirs = make_pair(500, gained, lost, 300)
    paired = compare_paired(ours, theirs)
    count = gained + lost
    tail = sum(math.comb(count, k) for k in range(min(gained, lost) + 1)) / 2**count
    assert paired.mcnemar_p == pytest.approx(min(1.0, 2 * tail))
    assert (paired.gained, paired.lost) == (gained, lost)
    assert paired.difference == pytest.approx((gained - lost) / len(ours))
    assert paired.low < paired.difference < paired.high


def test_paired_interval_covers() -> None:
    """In 2,000 simulated comparisons the 95% interval holds the truth about 95 times in 100."""
    rng = np.random.default_rng(0)
    chances = (0.75, 0.03, 0.05, 0.17)
    covered = 0
    for _ in range(2000):
        counts = rng.multinomial(400, chances)
        paired = compare_paired(*make_pair(*counts))
        covered += paired.low <= 0.03 - 0.05 <= paired.high
    assert 0.935 <= covered / 2000 <= 0.975


def test_ratio_interval() -> None:
    ratio, low, high = compute_ratio_interval([2.0] * 11, [1.0] * 11)
    assert (ratio, low, high) == (2, 2, 2)
    theirs = np.ones(11)
    ours = np.arange(1.0, 12.0)
    assert compute_ratio_interval(list(ours), list(theirs)) == (6.0, 2.0, 10.0)
