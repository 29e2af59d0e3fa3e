"""Values -> estimates with 95 % intervals: shares, means, rank correlations."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from udasa.backends import Floats
from udasa.digests import stable_hash

RESAMPLES = 10_000
"""Bootstrap resamples behind the interval of a mean."""
RANK_RESAMPLES = 2_000
"""Bootstrap resamples behind the interval of a rank correlation, each of which is ranked anew."""
_Z = 1.959963984540054
"""The 97.5 percentile of the normal distribution."""
_AT_ONCE = 1_000_000
"""Numbers held by one block of resamples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval; all three are None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """What it was made from."""

    def shown(self, sign: str = "") -> str:
        """Return the number with its interval, to three digits; a dash where it is not defined."""
        if self.value is None:
            return "-"
        return f"{self.value:{sign}.3f} ({self.low:{sign}.3f} to {self.high:{sign}.3f})"


def interval(values: Mapping[str, float], clusters: Mapping[str, str], *seed: str) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the mean when clusters of documents are drawn with replacement.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13). One cluster alone gives an interval of width 0.
    """
    keys = sorted(values)
    _, index = np.unique([clusters[key] for key in keys], return_inverse=True)
    sums, sizes = np.bincount(index, weights=[values[key] for key in keys]), np.bincount(index)
    rng = np.random.default_rng(stable_hash(*seed))
    step = max(1, _AT_ONCE // len(sums))
    means = []
    for start in range(0, RESAMPLES, step):
        draw = rng.integers(len(sums), size=(min(step, RESAMPLES - start), len(sums)))
        means.append(sums[draw].sum(axis=1) / sizes[draw].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def right_or_wrong(values: Iterable[float]) -> bool:
    """Say whether every value is 0, 1, or one half (a tie): a count, for which a bootstrap can be too sure."""
    return all(value in (0.0, 0.5, 1.0) for value in values)


def proportion_interval(values: Collection[float]) -> tuple[float, float]:
    """Return the 95 % interval of a share of right answers (Agresti and Coull 1998), within 0 .. 1.

    It has a width where all answers are right, or all wrong; a bootstrap of those has none.
    """
    return _agresti_coull(math.fsum(values), len(values))


def share(count: int, n: int) -> Estimate:
    """Return count / n with the interval of `proportion_interval`; not defined at n = 0."""
    if n == 0:
        return Estimate(value=None, low=None, high=None, n=0)
    low, high = _agresti_coull(count, n)
    return Estimate(value=count / n, low=low, high=high, n=n)


def _agresti_coull(right: float, n: int) -> tuple[float, float]:
    wide = n + _Z**2
    p = (right + _Z**2 / 2) / wide
    half = _Z * math.sqrt(p * (1 - p) / wide)
    return max(0.0, p - half), min(1.0, p + half)


def paired_interval(deltas: Collection[float]) -> tuple[float, float]:
    """Return the 95 % interval of a difference of two paired shares (Bonett and Price 2012), within -1 .. 1.

    One more answer mended and one more broken are counted than were seen, so it has a width where none was.
    """
    n = len(deltas) + 2
    mended = (math.fsum(d for d in deltas if d > 0) + 1) / n
    broken = (math.fsum(-d for d in deltas if d < 0) + 1) / n
    middle = mended - broken
    half = _Z * math.sqrt((mended + broken - middle**2) / n)
    return max(-1.0, middle - half), min(1.0, middle + half)


def crossed_level(values: Floats) -> Estimate:
    """Return the mean of items x runs as `crossed_change` does; of right answers, its hull with Agresti and Coull's."""
    return _of_counts(_crossed(values), values.mean(axis=1), proportion_interval, 0.0, values)


def crossed_change(before: Floats, after: Floats) -> Estimate:
    """Return the mean of after - before over items x runs, where both the items and the runs are a draw of many.

    Two-way random effects without replication: the variance of the mean is (M_items + M_runs - M_rest) / (n s), the
    M being mean squares, with Satterthwaite's degrees of freedom and Student's t (Clark 1973; Searle, Casella and
    McCulloch 1992, chapter 4). It is held at M_items / (n s) and M_runs / (n s) at least, where the estimate falls
    below them by chance. Three runs that differ more than the items do give a wide interval, as they should. With one
    run it is of the items alone, and does not cover what another run would do. Of right answers, the hull with Bonett
    and Price's. Not defined for fewer than 2 items.

    Args:
        before: shape (items, runs).
        after: the same items and runs.
    """
    change = after - before
    return _of_counts(_crossed(change), change.mean(axis=1), paired_interval, -1.0, before, after)


def _of_counts(
    found: Estimate,
    by_item: Floats,
    count: Callable[[list[float]], tuple[float, float]],
    lowest: float,
    *answers: Floats,
) -> Estimate:
    """Where the answers are right or wrong, widen the interval to that of their count, within what a share can be."""
    if found.low is None or found.high is None or not all(right_or_wrong(one.ravel().tolist()) for one in answers):
        return found
    low, high = hull((found.low, found.high), count(by_item.tolist()))
    return replace(found, low=max(lowest, low), high=min(1.0, high))


def _crossed(values: Floats) -> Estimate:
    """See `crossed_change`."""
    from scipy.special import stdtrit

    n, s = values.shape
    if n < 2:
        return Estimate(value=None, low=None, high=None, n=n)
    mean, by_item, by_run = values.mean(), values.mean(axis=1), values.mean(axis=0)
    items = s * float(((by_item - mean) ** 2).sum()) / (n - 1)
    variance, df = items, n - 1.0
    if s > 1:
        runs = n * float(((by_run - mean) ** 2).sum()) / (s - 1)
        left = values - by_item[:, None] - by_run[None, :] + mean
        rest = float((left**2).sum()) / ((n - 1) * (s - 1))
        both = items + runs - rest
        spread = items**2 / (n - 1) + runs**2 / (s - 1) + rest**2 / ((n - 1) * (s - 1))
        choices = [(items, n - 1.0), (runs, s - 1.0), (both, both**2 / spread if spread else 1.0)]
        variance, df = max(choices, key=lambda choice: choice[0])
    half = float(stdtrit(df, 0.975)) * math.sqrt(variance / (n * s))
    return Estimate(value=float(mean), low=float(mean) - half, high=float(mean) + half, n=n)


def hull(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """Return the smallest interval that holds both: the bootstrap knows the clusters, the formula the rare events."""
    return min(a[0], b[0]), max(a[1], b[1])


def spearman(x: Floats, y: Floats, clusters: Sequence[str], *seed: object) -> Estimate:
    """Return Spearman's rank correlation (ties share their mean rank), -1 .. 1, with a bootstrap by cluster.

    Clusters are drawn with replacement and every resample is ranked anew; the interval is the hull of the 2.5 and 97.5
    percentiles and the value. Resamples in which a side is constant have no correlation and are left out. Not defined
    for fewer than 3 values, or where a side is constant.
    """
    n = len(x)
    undefined = Estimate(value=None, low=None, high=None, n=n)
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return undefined
    names, cluster = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    groups = [np.unique(side, return_inverse=True)[1] for side in (x, y)]
    value = float(_weighted_spearman(groups, np.ones((1, n)))[0])
    rng = np.random.default_rng(stable_hash(*seed))
    step, found = max(1, _AT_ONCE // n), []
    for start in range(0, RANK_RESAMPLES, step):
        draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), min(step, RANK_RESAMPLES - start))
        found.append(_weighted_spearman(groups, draws[:, cluster].astype(np.float64)))
    resampled = np.concatenate(found)
    resampled = resampled[~np.isnan(resampled)]
    ends = np.percentile(resampled, (2.5, 97.5)) if len(resampled) else (value, value)
    low, high = hull((float(ends[0]), float(ends[1])), (value, value))
    return Estimate(value=value, low=low, high=high, n=n)


def _weighted_spearman(groups: Sequence[NDArray[np.intp]], weights: Floats) -> Floats:
    """Return Spearman's correlation when value i is there `weights[b, i]` times, shape (b,); NaN where undefined.

    `groups`: for each side, the place of every value among the side's distinct values.
    """
    total = weights.sum(axis=1, keepdims=True)
    centred = []
    for group in groups:
        ranks = _mean_ranks(group, weights)
        centred.append(ranks - (weights * ranks).sum(axis=1, keepdims=True) / total)
    a, b = centred
    spread = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
    out = np.full(len(weights), np.nan)
    some = spread > 0
    out[some] = (weights * a * b).sum(axis=1)[some] / np.sqrt(spread[some])
    correlations: Floats = np.clip(out, -1.0, 1.0)
    return correlations


def _mean_ranks(group: NDArray[np.intp], weights: Floats) -> Floats:
    """Return the mean rank of every value in each resample, shape (b, n)."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks: Floats = (np.cumsum(sizes, axis=1) - sizes + (sizes + 1) / 2)[:, group]
    return ranks
