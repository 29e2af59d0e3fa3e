"""A finding: how many rows, of how many, against which limit; and the intervals that estimates carry."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from udasa.backends import Floats
from udasa.limits import TWO_SIDED

EXAMPLES = 5
"""Ids that a finding shows, the smallest first."""

UNCHECKED = "Not checked"
"""How the sentence of a finding that was not looked for begins."""

_DIGITS = 9


class Interval(NamedTuple):
    """Both ends of a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the audit."""

    name: str
    """The field of `Lint` (or `planted-entailer`, `planted-judge`), with hyphens."""
    count: int
    """Rows that have it."""
    total: int
    """Rows that could have it; 0: nothing was there to look at, or it was not checked."""
    value: float | None
    """What the limit is held against; None: not there."""
    unit: str
    low: float | None
    """Lower end of the value's 95 % interval; None: the value is a count of these rows, not an estimate."""
    high: float | None
    threshold: float | None
    """The recipe's limit; None: report only."""
    failed: bool
    """Whether the value itself, not its interval, is beyond the limit."""
    examples: tuple[str, ...]
    """Prompt ids, or ids of planted questions."""
    detail: str
    """One sentence."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {**asdict(self), "examples": list(self.examples)}


def finding(
    name: str,
    limit: float | None,
    detail: str,
    *,
    count: int = 0,
    total: int = 0,
    value: float | None = None,
    unit: str = "share",
    interval: Interval | None = None,
    examples: Iterable[str] = (),
    floor: bool = False,
) -> Finding:
    """Return a finding, held against its limit; a limit that is a floor is the smallest value that passes."""
    value = None if value is None else round(value, _DIGITS) + 0.0
    low, high = (None if end is None else round(end, _DIGITS) + 0.0 for end in interval or (None, None))
    failed = value is not None and limit is not None and _beyond(name, value, limit, floor)
    shown = tuple(sorted(set(examples))[:EXAMPLES])
    return Finding(name, count, total, value, unit, low, high, limit, failed, shown, detail)


def _beyond(name: str, value: float, limit: float, floor: bool) -> bool:
    if floor:
        return value < limit
    two_sided = name.replace("-", "_") in TWO_SIDED
    return value > limit or (two_sided and value < round(1 - limit, _DIGITS))


def share(
    name: str, rows: pl.DataFrame, has: pl.Expr, limits: Mapping[str, float | None], detail: str, *, exact: bool = False
) -> Finding:
    """Return the share of rows that `has` is true of, with Wilson's interval unless it is a count and no estimate.

    `rows` has a `prompt_id`; `detail` may name {count} and {total}.
    """
    found = rows.filter(has)["prompt_id"]
    count, total = len(found), rows.height
    return finding(
        name,
        limits[name],
        detail.format(count=f"{count:,}", total=f"{total:,}"),
        count=count,
        total=total,
        value=count / total if total else None,
        interval=wilson(count, total) if total and not exact else None,
        examples=found.sort().head(EXAMPLES),
    )


def unchecked(name: str, limits: Mapping[str, float | None], why: str) -> Finding:
    """Return the line of a finding that was not looked for."""
    return finding(name, limits[name], f"{UNCHECKED}: {why}")


def wilson(count: float, total: float, z: float | None = None) -> Interval:
    """Return the interval of a share (Wilson 1927); it has a width also where none or all have it."""
    z = _z() if z is None else z
    middle = (count + z**2 / 2) / (total + z**2)
    half = z / (total + z**2) * math.sqrt(count * (total - count) / total + z**2 / 4)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def difference(count: int, total: int, other: int, of: int, comparisons: int) -> tuple[float, Interval]:
    """Return count / total - other / of, with Agresti and Caffo's interval (2000), 95 % over all the comparisons.

    One has and one lacks it are added to each group, so that small groups have a wide interval (Bonferroni's
    correction for the comparisons).
    """
    a, b = (count + 1) / (total + 2), (other + 1) / (of + 2)
    half = _z(comparisons) * math.sqrt(a * (1 - a) / (total + 2) + b * (1 - b) / (of + 2))
    return count / total - other / of, Interval(max(-1.0, a - b - half), min(1.0, a - b + half))


class Auc(NamedTuple):
    """P(a positive is above a negative) + P(equal) / 2, with its interval."""

    value: float
    interval: Interval


def auc(
    positive: Floats, negative: Floats, clusters: tuple[Collection[int], Collection[int]] | None = None
) -> Auc | None:
    """Return the area under the ROC curve; None if a class has no value.

    Args:
        positive: scores of one class, shape (m,).
        negative: scores of the other, shape (n,).
        clusters: a cluster number for each of both, where scores belong together; default: none do.

    The variance is that of the placements (DeLong et al. 1988), summed by cluster (Obuchowski 1997); the interval is
    made on the logit scale. Where all placements agree it has no width, and Wilson's for the smaller class stands in.
    """
    m, n = len(positive), len(negative)
    if not m or not n:
        return None
    up, down = _placements(positive, negative), 1 - _placements(negative, positive)
    value = float(up.mean())
    parts = np.concatenate([(up - value) / m, (down - value) / n])
    if clusters is not None:
        _, index = np.unique(np.concatenate([np.asarray(list(c)) for c in clusters]), return_inverse=True)
        parts = np.bincount(index, weights=parts)
    num = len(parts)
    error = math.sqrt(num / (num - 1) * float(parts @ parts)) if num > 1 else 0.0
    if not 0 < value < 1 or error < 1e-12:
        return Auc(value, wilson(value * min(m, n), min(m, n)))
    half = _z() * error / (value * (1 - value))
    logit = math.log(value / (1 - value))
    return Auc(value, Interval(*(1 / (1 + math.exp(-x)) for x in (logit - half, logit + half))))


def _placements(scores: Floats, others: Floats) -> Floats:
    """Return, for each score, the share of the others below it, an equal one counting half."""
    ranked = np.sort(others)
    places = np.searchsorted(ranked, scores, "left") + np.searchsorted(ranked, scores, "right")
    shares: Floats = places / (2 * len(ranked))
    return shares


def _z(comparisons: int = 1) -> float:
    return NormalDist().inv_cdf(1 - 0.025 / comparisons)
