"""Two measurements of the same items -> what their difference is worth: errors by cluster, tests, power, many at once.

    clustered_error(deltas, types)       # 0.0485 where `mean_error(deltas)` says 0.0317: items of a type move together
    sign_flip(deltas, types, "seed")     # 0.002: no p under 2 / 2^10 can come from 10 types

A delta is after - before of one item. Items that share material (a category, a query, a type) are one cluster, and
clusters, not items, are what a new sample would draw. Errors are standard errors of a mean, in the unit of the values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from udasa.backends import Floats
from udasa.digests import stable_hash
from udasa.statistics import hull, interval, paired_interval, right_or_wrong

FLIPS = 20_000
"""Sign flips drawn where they cannot all be counted."""
POWER = 0.8
"""Chance of seeing a difference as large as the minimum detectable one."""
_Z = 1.959963984540054
_BLOCK = 1_000_000
"""Numbers held by one block of flips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The difference of two sides on the same items."""

    n: int
    """Items."""
    clusters: int
    """Clusters that the items are in; n if every item stands alone."""
    before: float
    after: float
    delta: float
    """after - before."""
    low: float
    """Lower end of the 95 % interval of delta: see `measure`."""
    high: float
    error: float | None
    """Standard error of delta by cluster, that of seeds with it, of shares at least `rare_error`; None for one item."""
    df: float
    """Degrees of freedom of `error`."""
    paired_error: float | None
    """The same, taking the items as independent."""
    unpaired_error: float | None
    """The same, taking the two sides as different items."""
    p: float
    """Two-sided: `sign_flip`, or with several seeds `t_test`."""
    mde: float | None
    """`minimum_detectable`; None where no value changed and the values are not shares."""


class Variance(NamedTuple):
    """The variance of a mean, and the degrees of freedom that it was estimated with."""

    value: float
    df: float


def measure(before: Floats, after: Floats, clusters: Sequence[str], *seed: object) -> Paired:
    """Compare two sides, each of one run or of several seeds, shapes (seeds, n).

    The interval is t by cluster, which knows that clusters may be few; of shares of right answers its hull with Bonett
    and Price's, which knows that a change that was not seen is not impossible; of other values its hull with a
    percentile bootstrap over clusters, which knows skew. With several seeds it is t over items and seeds. Items that
    are all in one cluster are taken as independent: nothing can be known of other clusters.
    """
    a, b = before.mean(axis=0), after.mean(axis=0)
    deltas, count = b - a, len(set(clusters))
    names = list(clusters) if count > 1 else [str(i) for i in range(len(deltas))]
    delta, error, df = float(deltas.mean()), clustered_error(deltas, names), float(max(len(set(names)) - 1, 1))
    seeds = [v for v in (seed_variance(before), seed_variance(after)) if v is not None]
    if seeds and error is not None:
        error, df = _with_seeds(Variance(error**2, df), seeds)
    low, high = (delta, delta) if error is None else t_interval(delta, error, df)
    p = t_test(delta, error, df) if seeds and error is not None else sign_flip(deltas, names, *seed)
    if not seeds and right_or_wrong(a) and right_or_wrong(b):
        low, high = hull((max(-1.0, low), min(1.0, high)), paired_interval(deltas.tolist()))
        error = max(error or 0.0, rare_error(deltas))
    elif not seeds:
        keys = [f"{i:09}" for i in range(len(deltas))]
        of, values = dict(zip(keys, names, strict=True)), dict(zip(keys, deltas.tolist(), strict=True))
        low, high = hull((low, high), interval(values, of, *map(str, seed)))
    return Paired(
        n=len(deltas), clusters=count, before=float(a.mean()), after=float(b.mean()), delta=delta, low=low, high=high,
        error=error, df=df, paired_error=mean_error(deltas), unpaired_error=unpaired_error(a, b), p=p,
        mde=minimum_detectable(error, df) if error else None,
    )  # fmt: skip


def _with_seeds(items: Variance, seeds: Sequence[Variance]) -> tuple[float, float]:
    whole = add_variances([items, *seeds])
    return math.sqrt(whole.value), whole.df


def mean_error(values: Floats) -> float | None:
    """Return s / sqrt(n), the error of a mean of independent items; not defined for one item."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def unpaired_error(before: Floats, after: Floats) -> float | None:
    """Return the error of the difference of two means if they were of different items: what pairing saves."""
    a, b = mean_error(before), mean_error(after)
    return None if a is None or b is None else math.hypot(a, b)


def cluster_sums(values: Floats, clusters: Sequence[str]) -> Floats:
    """Return the sum of the values of each cluster, in the order of their names, shape (clusters,)."""
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums: Floats = np.bincount(index, weights=values).astype(np.float64)
    return sums


def clustered_error(values: Floats, clusters: Sequence[str]) -> float | None:
    """Return the error of a mean whose items come in clusters; not defined for one cluster.

    sqrt(G / (G - 1) sum over clusters of (sum of x_i - mean)^2) / n: Liang and Zeger 1986, as Miller 2024 (arXiv
    2411.00640) uses it for evaluations, with the factor for few clusters of Cameron and Miller 2015. With one item a
    cluster it is `mean_error`.
    """
    sums = cluster_sums(values - np.mean(values), clusters)
    count = len(sums)
    return float(math.sqrt(count / (count - 1) * (sums @ sums)) / len(values)) if count > 1 else None


def rare_error(deltas: Floats) -> float:
    """Return the error behind Bonett and Price's interval of a difference of two paired shares: never 0."""
    low, high = paired_interval(deltas.tolist())
    return (high - low) / (2 * _Z)


def t_interval(value: float, error: float, df: float) -> tuple[float, float]:
    """Return the 95 % interval value -+ t error, t with `df` degrees of freedom (clusters - 1)."""
    half = float(stats.t.ppf(0.975, df)) * error
    return value - half, value + half


def t_test(value: float, error: float, df: float) -> float:
    """Return the two-sided p of a value that is 0 if nothing differs; 1 for a value of 0."""
    return 1.0 if value == 0 else float(2 * stats.t.sf(abs(value) / error, df)) if error > 0 else 0.0


def sign_flip(deltas: Floats, clusters: Sequence[str], *seed: object) -> float:
    """Return the two-sided p of the mean difference when before and after are exchanged within whole clusters.

    Fisher's randomisation test (1935): if nothing differs, every cluster's sum was as likely to have the other sign.
    Of right and wrong answers, all flips are counted; with one item a cluster that is McNemar's exact test. Of other
    values with more than 16 clusters, `FLIPS` flips are drawn, and the p is (1 + as far from 0) / (1 + flips).
    """
    sums = cluster_sums(deltas, clusters)
    sums = sums[np.abs(sums) > 1e-12]
    if not len(sums):
        return 1.0
    halves = 2 * sums
    if np.array_equal(halves, np.round(halves)):
        return _count_flips(np.abs(halves).astype(np.int64), abs(round(float(halves.sum()))))
    reached = abs(float(sums.sum())) * (1 - 1e-9)
    if len(sums) <= 16:
        signs = np.array(np.meshgrid(*[(-1.0, 1.0)] * len(sums), indexing="ij")).reshape(len(sums), -1)
        return float(np.mean(np.abs(sums @ signs) >= reached))
    rng, far, step = np.random.default_rng(stable_hash(*seed)), 0, max(1, _BLOCK // len(sums))
    for start in range(0, FLIPS, step):
        drawn = rng.integers(0, 2, size=(min(step, FLIPS - start), len(sums)), dtype=np.int8) * 2.0 - 1.0
        far += int(np.count_nonzero(np.abs(drawn @ sums) >= reached))
    return (1 + far) / (1 + FLIPS)


def _count_flips(sizes: "np.ndarray[tuple[int], np.dtype[np.int64]]", reached: int) -> float:
    """Return the share of all sign patterns whose sum is at least `reached` from 0, by convolution."""
    total = int(sizes.sum())
    chance = np.zeros(2 * total + 1)
    chance[total] = 1.0
    for size in sizes:
        flipped = np.zeros_like(chance)
        flipped[size:] += chance[: len(chance) - size] / 2
        flipped[: len(chance) - size] += chance[size:] / 2
        chance = flipped
    far = np.abs(np.arange(-total, total + 1)) >= reached
    return min(1.0, float(chance[far].sum()))


def mcnemar(fixed: int, broken: int) -> float:
    """Return McNemar's exact p (1947) that a changed answer was as likely to be fixed as broken, without clusters."""
    changed = fixed + broken
    return float(stats.binomtest(fixed, changed, 0.5).pvalue) if changed else 1.0


def minimum_detectable(error: float, df: float) -> float:
    """Return the difference that would be seen (two-sided 5 %) with a chance of `POWER`, given the error of this one.

    (t_0.975 + t_0.8) error: Bloom 1995; Miller 2024 for evaluations. For 250 items of which 15 % change, 0.069.
    """
    return float(stats.t.ppf(0.975, df) + stats.t.ppf(POWER, df)) * error


def equivalence(value: float, error: float, df: float, margin: float) -> float:
    """Return the p of the two one-sided tests (Schuirmann 1987): under 0.05, the difference is within -+ margin.

    "No significant difference" is no evidence of no difference; this is. It is the larger of the two p.
    """
    sides = (value + margin, margin - value)
    if error == 0:
        return 0.0 if min(sides) > 0 else 1.0
    return max(float(stats.t.sf(side / error, df)) for side in sides)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p (1979): under 0.05, with a chance of 95 % none of those called different is not."""
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        adjusted[int(index)] = worst
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Return Benjamini and Hochberg's adjusted p (1995): of those under 0.05, 5 % are expected not to differ."""
    return [float(value) for value in stats.false_discovery_control(p)] if len(p) else []


def seed_variance(runs: Floats) -> Variance | None:
    """Return the variance that training seeds add to the mean of a side, shape of `runs` (seeds, items).

    Seeds are a random effect crossed with items (two-way analysis of variance): the variance of the seeds' means, less
    what the scatter of items within a seed makes of it (its mean square / items), by the number of seeds; at least 0.
    None for one seed: what another seed would have given is then unknown, and not 0.
    """
    seeds, items = runs.shape
    if seeds < 2:
        return None
    means = runs.mean(axis=1)
    rest = runs - means[:, None] - runs.mean(axis=0) + means.mean()
    scatter = float((rest**2).sum()) / ((seeds - 1) * max(items - 1, 1))
    return Variance(max(0.0, float(means.var(ddof=1)) - scatter / items) / seeds, seeds - 1)


def add_variances(parts: Sequence[Variance]) -> Variance:
    """Return the sum of independent variances with its degrees of freedom (Satterthwaite 1946)."""
    total = math.fsum(part.value for part in parts)
    if total == 0:
        return Variance(0.0, min(part.df for part in parts))
    return Variance(total, total**2 / math.fsum(part.value**2 / part.df for part in parts))
