"""Scored responses -> how far the three uncertainties go together: rank correlations with intervals.

    correlate(responses)      # [Correlation(x="semantic_uncertainty", y="factual_uncertainty", rho=0.41, …), …]

Answers to one prompt are not independent, so the interval resamples prompts and not answers.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from udasa import schema
from udasa.digests import stable_hash

RESAMPLES = 400
COLUMNS = tuple(f"{dimension}_uncertainty" for dimension in schema.DIMENSIONS)
Floats = NDArray[np.float64]


class Correlation(NamedTuple):
    """Spearman's rank correlation of two columns over the responses that have both."""

    x: str
    y: str
    rho: float | None
    """-1 to 1; None if a column does not vary."""
    low: float | None
    """Lower end of the 95 % interval: percentile bootstrap over prompts, re-ranked in every resample."""
    high: float | None
    n: int
    """Responses with both values."""
    num_prompts: int


def correlate(responses: pl.DataFrame) -> list[Correlation]:
    """Return the correlation of every two of the three uncertainties.

    Args:
        responses: a row a response, with `prompt_id` and the three columns.
    """
    return [_correlation(responses, x, y) for x, y in combinations(COLUMNS, 2)]


def _correlation(responses: pl.DataFrame, x: str, y: str) -> Correlation:
    both = responses.select("prompt_id", x, y).drop_nulls()
    prompts = both["prompt_id"].rank("dense").to_numpy().astype(np.int64) - 1
    columns = [np.unique(both[name].to_numpy(), return_inverse=True)[1] for name in (x, y)]
    num_prompts = int(prompts.max(initial=-1)) + 1
    rho = _spearman(columns, np.ones(both.height))
    if rho is None or num_prompts < 2:
        return Correlation(x, y, rho, None, None, both.height, num_prompts)
    drawn = np.random.default_rng(stable_hash(x, y)).multinomial(
        num_prompts, np.full(num_prompts, 1 / num_prompts), RESAMPLES
    )
    again = [_spearman(columns, counts[prompts].astype(np.float64)) for counts in drawn]
    low, high = (float(q) for q in np.quantile([r for r in again if r is not None], [0.025, 0.975]))
    return Correlation(x, y, rho, low, high, both.height, num_prompts)


def _spearman(columns: list[NDArray[np.int64]], counts: Floats) -> float | None:
    """Return Pearson's correlation of mid-ranks, each row standing `counts` times; None if a column is constant.

    Args:
        columns: for each of the two, the order of a row's value among the distinct values, shape (n,).
        counts: how often each row is in the sample, shape (n,).
    """
    if counts.sum() == 0:
        return None
    ranks = [_mid_ranks(column, counts) for column in columns]
    a, b = (rank - np.average(rank, weights=counts) for rank in ranks)
    scale = np.sqrt((counts * a * a).sum() * (counts * b * b).sum())
    return float((counts * a * b).sum() / scale) if scale > 0 else None


def _mid_ranks(order: NDArray[np.int64], counts: Floats) -> Floats:
    """Return each row's rank among all, ties at their middle: no sorting, since the order of the values is known."""
    weights = np.bincount(order, weights=counts)
    ranks: Floats = (np.cumsum(weights) - weights / 2)[order]
    return ranks
