"""Samples of a task -> its numbers that are no mean over documents (AUROC, perplexity, ...), each with an interval."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from udasa.digests import stable_hash
from udasa.evaluate.results import Metric

_DRAWS = 1000


def totals(task: str, found: Mapping[str, Any]) -> dict[str, Metric]:
    """Return every metric with an aggregation of its own, as lm-eval found it, with a bootstrap over clusters.

    One that is not defined (an AUROC where all answers are wrong) is left out.
    """
    samples = [sample for sample in found.get("samples", {}).get(task, ()) if sample["filter"] == "none"]
    made = {}
    for name, aggregate in found.get("aggregations", {}).get(task, {}).items():
        value = found["results"][task].get(f"{name},none")
        rows = [sample for sample in samples if name in sample]
        if aggregate.__name__ == "mean" or not rows or not isinstance(value, Real) or not math.isfinite(value):
            continue
        clusters = [str(row["doc"].get("cluster", row["doc_hash"])) for row in rows]
        low, high = resampled(aggregate, [row[name] for row in rows], clusters, task, name)
        up = found["higher_is_better"][task].get(name) is not False
        low, high = min(low, float(value)), max(high, float(value))
        made[name] = Metric(value=float(value), n=len(rows), low=low, high=high, higher_is_better=up)
    return made


def resampled(
    aggregate: Callable[[Any], float], values: Sequence[Any], clusters: Sequence[str], *seed: object
) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the aggregate when clusters of documents are drawn with replacement.

    Draws in which it is not defined are left out.
    """
    prepared = [np.asarray(value, dtype=np.float64) if _is_table(value) else value for value in values]
    members: dict[str, list[int]] = {}
    for i, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(i)
    groups = list(members.values())
    rng = np.random.default_rng(stable_hash("total", *seed))
    found = []
    for _ in range(_DRAWS):
        drawn = [i for g in rng.integers(len(groups), size=len(groups)) for i in groups[g]]
        found.append(float(aggregate([prepared[i] for i in drawn])))
    finite = np.array(found)[np.isfinite(found)]
    if not len(finite):
        return math.inf, -math.inf
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)


def _is_table(value: Any) -> bool:
    """Say whether a value is a list of lists: an array is what a statistic would make of it in every draw."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)
