"""How well numbers agree with people: AUC, kappa, rank correlation, calibration error, each with an interval.

Intervals are 95 % percentile bootstraps over groups: rows of one group are not independent, so whole groups are drawn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udasa.backends import Floats

_DRAWS = 1000
_BINS = 10


class Estimate(NamedTuple):
    """A number over `n` responses with the ends of its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def auc(score: Floats, truth: Floats) -> float:
    """Return the chance that a true row has the higher score, ties counting one half, 0 .. 1; NaN with one class."""
    positive = truth.astype(bool)
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return np.nan
    return float((_ranks(score)[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def spearman(left: Floats, right: Floats) -> float:
    """Return the rank correlation, -1 .. 1, ties at their mean rank; NaN where one side is constant."""
    a, b = (_ranks(values) - (len(values) + 1) / 2 for values in (left, right))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else np.nan


def calibration_error(expected: Floats, found: Floats) -> float:
    """Return the expected calibration error, 0 .. 1: mean |mean expected - mean found| over ten equal bins."""
    order = np.argsort(expected, kind="stable")
    bins = [rows for rows in np.array_split(order, _BINS) if len(rows)]
    gaps = [abs(expected[rows].mean() - found[rows].mean()) * len(rows) for rows in bins]
    return float(sum(gaps) / len(order))


def kappa(left: Floats, right: Floats) -> float:
    """Return Cohen's kappa (1960) of two yes/no labellings (1 and 0), -1 .. 1; NaN where both give one label only."""
    agreed = float((left == right).mean())
    yes = float(left.mean()), float(right.mean())
    chance = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    return (agreed - chance) / (1 - chance) if chance < 1 else np.nan


def accuracy(left: Floats, right: Floats) -> float:
    """Return the share of rows on which two labellings agree."""
    return float((left == right).mean())


def mean(values: Floats) -> float:
    """Return the mean."""
    return float(values.mean())


def estimate(statistic: Callable[..., float], groups: NDArray[Any], *arrays: NDArray[Any]) -> Estimate:
    """Return a statistic of row-wise arrays with its interval; a draw in which it is not defined is left out."""
    value = statistic(*arrays)
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order, starts = np.argsort(place, kind="stable"), np.cumsum(sizes) - sizes
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(_DRAWS if np.isfinite(value) else 0):
        drawn = rng.integers(len(sizes), size=len(sizes))
        ends = np.cumsum(sizes[drawn])
        within = np.arange(ends[-1]) - np.repeat(ends - sizes[drawn], sizes[drawn])
        rows = order[np.repeat(starts[drawn], sizes[drawn]) + within]
        draws.append(statistic(*(values[rows] for values in arrays)))
    finite = np.array(draws)[np.isfinite(draws)] if draws else np.empty(0)
    if not len(finite):
        return Estimate(None, None, None, len(arrays[0]))
    low, high = np.quantile(finite, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(arrays[0]))


def _ranks(values: Floats) -> Floats:
    """Return ranks from 1, ties at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks
