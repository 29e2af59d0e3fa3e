"""Does low uncertainty mean right? Uncertainties of responses and whether each is wrong -> AUROC, PRR, ECE, Brier.

An lm-eval aggregation gets one value a document: here the list of its responses, [[uncertainty, wrong], ...] with wrong
1 or 0; for the errors of probabilities [[P(wrong), wrong], ...]. A response without an uncertainty is not in the list.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from udasa import agreement, maps
from udasa.backends import Floats
from udasa.errors import UserError

Responses = Sequence[Sequence[float]] | Floats
"""The responses of one document, each (uncertainty or probability, wrong); shape (responses, 2)."""


def auroc(documents: Sequence[Responses]) -> float:
    """Return the chance that a wrong response is the more uncertain of a wrong and a right one; ties count one half.

    Over responses of all documents. 0.5 is no better than chance; NaN where all are right, or all wrong.
    """
    return agreement.auc(*_columns(documents))


def prr(documents: Sequence[Responses]) -> float:
    """Return the prediction-rejection ratio, 1 at best, 0 for chance, negative for worse; NaN where there is one class.

    The curve is the share of right answers among the k least uncertain responses, k = 1 .. n; the ratio is its area
    above that of random rejection, over that of the best order (Malinin and Gales 2021; as in Vashurin et al. 2024).
    Equal uncertainties count as rejected in random order. Were rejected responses kept in the denominator, it would be
    2 AUROC - 1.
    """
    uncertainty, wrong = _columns(documents)
    right = 1.0 - wrong
    best = _retained(wrong, right)
    return (_retained(uncertainty, right) - right.mean()) / gain if (gain := best - right.mean()) > 0 else np.nan


def ece(documents: Sequence[Responses]) -> float:
    """Return the expected calibration error of probabilities, 0 .. 1, in ten bins of equal mass (`udasa.maps`)."""
    return maps.expected_calibration_error(*_columns(documents))


def brier(documents: Sequence[Responses]) -> float:
    """Return the mean squared error of probabilities, 0 .. 1 (Brier 1950); p (1 - p) for the base rate p alone."""
    predicted, wrong = _columns(documents)
    return float(((predicted - wrong) ** 2).mean())


def probabilities(
    uncertainty: Mapping[str, Sequence[float | None]], wrong: Mapping[str, Sequence[bool]]
) -> dict[str, list[float | None]]:
    """Return P(wrong) of every response by a rising map fitted to the other documents' responses, in five folds.

    An uncertainty is no probability; its calibration error is that of the best rising map, held out. Both arguments are
    by document. None where a response has no uncertainty; nothing where the documents are fewer than the folds.
    """
    places = [(key, i) for key, values in uncertainty.items() for i, value in enumerate(values) if value is not None]
    found: dict[str, list[float | None]] = {key: [None] * len(values) for key, values in uncertainty.items()}
    x = np.array([uncertainty[key][i] for key, i in places], dtype=np.float64)
    y = np.array([wrong[key][i] for key, i in places], dtype=np.float64)
    try:
        predicted = maps.held_out(x, y, np.array([key for key, _ in places]))
    except UserError:
        return {}
    for (key, i), value in zip(places, predicted.tolist(), strict=True):
        found[key][i] = value
    return found


def _columns(documents: Sequence[Responses]) -> tuple[Floats, Floats]:
    table = np.concatenate([np.asarray(document, dtype=np.float64).reshape(-1, 2) for document in documents])
    return table[:, 0], table[:, 1]


def _retained(uncertainty: Floats, right: Floats) -> float:
    """Return the mean over k of the share of right ones among the k least uncertain, ties in random order."""
    _, place, counts = np.unique(uncertainty, return_inverse=True, return_counts=True)
    expected = (np.bincount(place, weights=right) / counts)[np.sort(place)]
    return float((np.cumsum(expected) / np.arange(1, len(right) + 1)).mean())
