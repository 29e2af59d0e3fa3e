"""Samples that hold uncertainties beside right and wrong -> does low uncertainty mean right, with intervals, by run.

A metric such as `semantic_auroc` is no mean over documents: each document holds the list that it is made from,
[[uncertainty, wrong], ...] (`udasa.evaluate.calibration`), so it is computed again here and its clusters resampled.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from udasa.digests import stable_hash
from udasa.evaluate import calibration
from udasa.evaluate.comparison import Calibration
from udasa.evaluate.results import Scores
from udasa.evaluate.sides import Side
from udasa.statistics import hull

RESAMPLES = 400
STATISTICS: Mapping[str, Callable[[Sequence[calibration.Responses]], float]] = {
    "auroc": calibration.auroc,
    "prr": calibration.prr,
    "ece": calibration.ece,
    "brier": calibration.brier,
}
"""How the name of such a metric ends -> what it is."""


def calibrations(sides: Sequence[Side], tasks: Sequence[str]) -> Iterator[Calibration]:
    """Yield each statistic of each estimator on each side's first run; none where it is not defined."""
    for task in tasks:
        for side in sides:
            scores = side.runs[0].tasks[task].scores
            for metric, documents in _lists(scores).items():
                estimator, _, statistic = metric.rpartition("_")
                value = STATISTICS[statistic](list(documents.values()))
                if np.isfinite(value):
                    low, high = _interval(documents, scores.clusters, STATISTICS[statistic], task, metric)
                    n = sum(map(len, documents.values()))
                    yield Calibration(task, estimator, statistic, side.name, float(value), low, high, len(documents), n)


def _lists(scores: Scores) -> dict[str, dict[str, calibration.Responses]]:
    """Return metric -> document -> its pairs."""
    found: dict[str, dict[str, calibration.Responses]] = {}
    for key, sample in scores.samples.items():
        for metric in sample["metrics"]:
            estimator, _, statistic = metric.rpartition("_")
            if estimator and statistic in STATISTICS and isinstance(sample[metric], list) and sample[metric]:
                found.setdefault(metric, {})[key] = sample[metric]
    return found


def _interval(
    documents: Mapping[str, calibration.Responses],
    clusters: Mapping[str, str],
    statistic: Callable[[Sequence[calibration.Responses]], float],
    *seed: str,
) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles over resamples of clusters; those without one of the classes are left out."""
    groups: dict[str, list[calibration.Responses]] = {}
    for key, responses in documents.items():
        groups.setdefault(clusters[key], []).append(responses)
    parts, rng = list(groups.values()), np.random.default_rng(stable_hash(*seed))
    draws = rng.integers(len(parts), size=(RESAMPLES, len(parts)))
    values = np.array([statistic([one for index in draw for one in parts[index]]) for draw in draws])
    values = values[np.isfinite(values)]
    point = statistic(list(documents.values()))
    low, high = np.percentile(values, (2.5, 97.5)) if len(values) else (point, point)
    return hull((float(low), float(high)), (float(point), float(point)))
