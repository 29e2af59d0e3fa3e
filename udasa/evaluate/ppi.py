"""A judge's verdicts on all items and people's labels of some -> a rate without the judge's bias.

rate = corrected({"a": 1.0, "b": 0.0, ...}, {"a": 0.0}, clusters)
-> Corrected(value=0.41, low=0.34, high=0.48, judge=0.52, labels=0.40, n=450, labelled=100)

Prediction-powered inference (Angelopoulos et al. 2023): the judge's rate over all items, less its mean error on the
labelled ones. Unbiased whatever the judge, if the labelled items are a random draw of all; a good judge makes it
narrower than the labels alone. Correcting by a sensitivity and specificity measured on other models' replies is not: a
judge errs differently on each model.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from udasa.digests import stable_hash
from udasa.errors import UserError
from udasa.statistics import hull, paired_interval

FEWEST = 30
"""Labels below which no interval is given: with few errors among them a bootstrap is too sure."""
_DRAWS = 1000
_Z = 1.959963984540054


class Corrected(NamedTuple):
    """A rate by prediction-powered inference."""

    value: float
    low: float
    """Lower end of the 95 % interval: the hull of a percentile bootstrap over clusters and of the normal interval with
    one more error of the judge counted each way, so that few errors among few labels do not make it too sure."""
    high: float
    judge: float
    """The rate by the judge alone."""
    labels: float
    """The rate among the labelled items alone."""
    n: int
    labelled: int


def corrected(
    judged: Mapping[str, float], labels: Mapping[str, float], clusters: Mapping[str, str], *seed: object
) -> Corrected:
    """Return mean of the judge over all items + mean over the labelled of (label - judge), within 0 .. 1.

    Args:
        judged: the judge's verdict on every item, 0 .. 1, by id.
        labels: people's, 0 .. 1, of some of these items, drawn at random.
        clusters: what each item belongs to; whole clusters are drawn.
        seed: of the bootstrap.

    Raises:
        UserError: a label is of no judged item, or there are too few.
    """
    if unknown := sorted(labels.keys() - judged.keys()):
        raise UserError(f"{len(unknown)} labels are of no judged item, the first of '{unknown[0]}'. Label these items.")
    if len(labels) < FEWEST:
        raise UserError(f"{len(labels)} items are labelled; at least {FEWEST} are needed, and 100 are better.")
    keys = sorted(judged)
    verdict = np.array([judged[key] for key in keys])
    known = np.array([key in labels for key in keys])
    error = np.array([labels.get(key, judged[key]) - judged[key] for key in keys])
    names, place = np.unique([clusters[key] for key in keys], return_inverse=True)
    sums = np.stack([np.bincount(place, weights=w) for w in (verdict, np.ones(len(keys)), error, known)], axis=1)
    draws = np.random.default_rng(stable_hash("ppi", *seed)).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=_DRAWS
    )
    total = draws @ sums
    total = total[total[:, 3] > 0]
    found = np.clip(total[:, 0] / total[:, 1] + total[:, 2] / total[:, 3], 0.0, 1.0)
    value = float(np.clip(verdict.mean() + error.sum() / known.sum(), 0.0, 1.0))
    half = np.hypot(np.ptp(paired_interval(error[known])) / 2, _Z * verdict.std() / np.sqrt(len(keys)))
    low, high = np.percentile(found, (2.5, 97.5))
    low, high = hull((float(low), float(high)), (max(0.0, float(value - half)), min(1.0, float(value + half))))
    return Corrected(
        value,
        low,
        high,
        float(verdict.mean()),
        float(np.mean(list(labels.values()))),
        len(keys),
        len(labels),
    )
