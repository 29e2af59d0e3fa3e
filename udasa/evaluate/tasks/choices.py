"""The log-likelihoods of a document's choices -> metrics.

[(-41.2, False), (-30.5, False)] -> {"acc_bytes": 1.0, "acc": 1.0, "margin": 0.13}
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

LogLikelihood = tuple[float, bool]
"""Sum of the log-probabilities of a choice's tokens, in nats; and whether greedy decoding would give the choice."""


def score(doc: Mapping[str, Any], results: Sequence[LogLikelihood]) -> dict[str, float]:
    """Return acc_bytes (by log-likelihood per UTF-8 byte), acc (by its sum) and margin (nats per byte).

    The margin is the gold choice's lead over the best other one. Choices that tie for the first place share it, so a
    model that cannot tell them apart scores chance.

    Raises:
        ValueError: a log-likelihood is NaN or infinite; counted as a number it could pass for a right answer.
    """
    sums = finite(doc, results)
    per_byte = [value / len(choice.encode()) for value, choice in zip(sums, doc["choices"], strict=True)]
    gold = doc["gold"]
    margin = per_byte[gold] - max(value for place, value in enumerate(per_byte) if place != gold)
    return {"acc_bytes": right(per_byte, gold), "acc": right(sums, gold), "margin": margin}


def finite(doc: Mapping[str, Any], results: Sequence[LogLikelihood]) -> list[float]:
    """Return the log-likelihoods.

    Raises:
        ValueError: one is NaN or infinite.
    """
    sums = [loglikelihood for loglikelihood, _ in results]
    if not all(math.isfinite(value) for value in sums):
        raise ValueError(
            f"The log-likelihoods of item '{doc['id']}' are {sums}, expected finite numbers. "
            "The model has diverged, or its weights or dtype are broken."
        )
    return sums


def right(values: Sequence[float], gold: int) -> float:
    """Return 1 if the gold choice alone has the highest value, 0 if it has not, 1/m if m choices share it."""
    best = [place for place, value in enumerate(values) if value == max(values)]
    return float(gold in best) / len(best)
