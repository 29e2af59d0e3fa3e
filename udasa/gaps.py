"""Pairs -> the 95 % interval of each gap over the other responses to its prompt.

A pair's semantic and factual uncertainty are means over what the prompt's other responses say about its two texts.
With other draws of those responses the gap would have come out differently; the interval says by how much.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from udasa.backends import Floats
from udasa.calibrate import Curve
from udasa.digests import stable_hash
from udasa.maps import used
from udasa.recipe import Recipe
from udasa.statistics import hull

_AT_ONCE = 2_000_000
"""Multiplicities held at once: prompts x resamples x responses."""
_FEWEST = 2
"""Other responses that a pair needs: one alone can only be drawn again."""


class _Block(NamedTuple):
    """Pairs whose prompts have equally many responses, K; missing numbers are NaN."""

    seeds: list[int]
    likelihood: Floats
    """Share of each response's likelihood, (n, K)."""
    agreement: Floats
    """What all K say about the chosen and the rejected, (n, 2, K)."""
    support: Floats
    """(n, 2, K)."""
    raw: Mapping[str, Floats]
    """By dimension, the raw values of chosen and rejected, (n, 2)."""
    witnesses: NDArray[np.int64]
    """The places of the other responses, in the order of their ids, (n, K - 2)."""


def with_intervals(
    pairs: pl.DataFrame, scored: pa.Table, shapes: Mapping[str, Curve], settings: Recipe
) -> pl.DataFrame:
    """Return the pairs with `gap_low` and `gap_high`.

    Of a prompt's K responses, the pair's two are held, and the K - 2 others are drawn with replacement,
    `gap_resamples` times, seeded by the prompt's id; a resample is the same for both sides. Each time
    `semantic_uncertainty` and `factual_uncertainty` of both sides are made again from the stored `agreement` and
    `support`, mapped by the build's own maps, which are held, and weighted to u. The ends are the 2.5 and 97.5
    percentiles of the gap, widened where they leave the gap itself out.

    It covers the draw of the other responses. It does not cover: which two responses make the pair, the errors of the
    entailer and the judge, the maps, and dimensions measured by another column, whose values are held. With few
    responses it is too narrow: a bootstrap of m values understates their variance by (m - 1) / m, here m = K - 2.
    Null for fewer than 4 responses, or where nothing was stored to draw from.

    Args:
        pairs: as `udasa.pairs.pair` returns them.
        scored: `schema.SCORED`, with every prompt of the pairs.
        shapes: the maps of the whole build, from `udasa.calibrate.curves`.
        settings: the recipe.
    """
    if pairs.is_empty():
        return pairs
    measures = used(settings.measures, settings.weights)
    weights = {dimension: float(getattr(settings.weights, dimension)) for dimension in measures}
    found: dict[str, tuple[float, float]] = {}
    for names, block in _blocks(pairs, scored, measures, settings):
        gaps = _gaps(block, settings.pairing.gap_resamples, measures, weights, shapes)
        lows, highs = np.percentile(gaps, (2.5, 97.5), axis=1)
        found |= zip(names, zip(lows.tolist(), highs.tolist(), strict=True), strict=True)
    ends = [
        hull(found[name], (gap, gap)) if name in found else (None, None)
        for name, gap in pairs.select("prompt_id", "gap").iter_rows()
    ]
    columns = {"gap_low": [low for low, _ in ends], "gap_high": [high for _, high in ends]}
    return pairs.with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in columns.items())


def _blocks(
    pairs: pl.DataFrame, scored: pa.Table, measures: Mapping[str, str], settings: Recipe
) -> Iterator[tuple[list[str], _Block]]:
    """Yield prompt ids and their block, at most `_AT_ONCE` multiplicities at a time."""
    frame = pl.DataFrame(pl.from_arrow(scored.select(["prompt_id", "responses"])))
    rows = pairs.select("prompt_id", "chosen_id", "rejected_id").join(frame, on="prompt_id", how="inner")
    rows = rows.with_columns(k=pl.col("responses").list.len())
    for (k,), group in rows.filter(pl.col("k") >= 2 + _FEWEST).group_by("k", maintain_order=True):
        size = max(1, _AT_ONCE // (settings.pairing.gap_resamples * int(k)))
        for part in group.iter_slices(size):
            flat = part.drop("k").explode("responses").unnest("responses")
            whole = flat.group_by("prompt_id").agg((pl.col("agreement").list.len().fill_null(0) == k).all())
            flat = flat.join(whole.filter("agreement").select("prompt_id"), on="prompt_id", how="semi")
            if not flat.is_empty():
                yield flat["prompt_id"].unique(maintain_order=True).to_list(), _block(flat, int(k), measures, settings)


def _block(flat: pl.DataFrame, k: int, measures: Mapping[str, str], settings: Recipe) -> _Block:
    """Cut one row per response into arrays."""
    n = flat.height // k
    ids = flat["response_id"].to_numpy().reshape(n, k)
    sides = np.stack(
        [np.argmax(ids == flat[f"{side}_id"].to_numpy().reshape(n, k), axis=1) for side in ("chosen", "rejected")], 1
    )
    order = np.argsort(ids.astype(str), axis=1, kind="stable")
    others = (order[:, :, None] != sides[:, None, :]).all(axis=2)
    nothing = pl.lit([None] * k, dtype=pl.List(pl.Float64))
    lists = flat.select(pl.col("agreement", "support").fill_null(nothing))
    pairwise = {values.name: values.explode().to_numpy().reshape(n, k, k) for values in lists}
    rows = np.arange(n)[:, None]
    log = flat["logprob_mean"].cast(pl.Float64).to_numpy().reshape(n, k)
    known = ~np.isnan(log).any(axis=1, keepdims=True)
    log = np.where(known, log, 0.0)
    return _Block(
        seeds=[stable_hash(settings.seed, "gap", name) for name in flat["prompt_id"].unique(maintain_order=True)],
        likelihood=np.exp(log - log.max(axis=1, keepdims=True)),
        agreement=pairwise["agreement"][rows, sides],
        support=pairwise["support"][rows, sides],
        raw={d: flat[c].cast(pl.Float64).to_numpy().reshape(n, k)[rows, sides] for d, c in measures.items()},
        witnesses=order[others].reshape(n, k - 2),
    )


def _gaps(
    block: _Block,
    resamples: int,
    measures: Mapping[str, str],
    weights: Mapping[str, float],
    shapes: Mapping[str, Curve],
) -> Floats:
    """Return the gap of every pair in every resample, shape (n, resamples)."""
    times = _multiplicities(block, resamples)
    raw = {
        dimension: _resampled(block, times, column)
        if (column := measures[dimension]) in ("semantic_uncertainty", "factual_uncertainty")
        else np.repeat(block.raw[dimension][:, None, :], resamples, axis=1)
        for dimension in measures
    }
    shares = {dimension: shapes[dimension](values) for dimension, values in raw.items()}
    total = np.sum([weights[d] * ~np.isnan(values) for d, values in shares.items()], axis=0)
    u = np.sum([weights[d] * np.nan_to_num(values) for d, values in shares.items()], axis=0) / total
    gaps: Floats = u[:, :, 1] - u[:, :, 0]
    return gaps


def _multiplicities(block: _Block, resamples: int) -> Floats:
    """Return how often each response counts, shape (n, resamples, K): once for the pair's two."""
    n, k = block.likelihood.shape
    times = np.ones((n, resamples, k))
    even = np.full(k - 2, 1 / (k - 2))
    for row, seed in enumerate(block.seeds):
        times[row][:, block.witnesses[row]] = np.random.default_rng(seed).multinomial(k - 2, even, resamples)
    return times


def _resampled(block: _Block, times: Floats, column: str) -> Floats:
    """Return the uncertainty of chosen and rejected by the responses drawn, shape (n, resamples, 2)."""
    if column == "semantic_uncertainty":
        said, counts = block.agreement, block.likelihood[:, None, :] * np.ones((1, 2, 1))
    else:
        said, counts = block.support, (~np.isnan(block.support)).astype(np.float64)
    weighted = np.einsum("nrk,nsk->nrs", times, counts * np.nan_to_num(said))
    total = np.einsum("nrk,nsk->nrs", times, counts)
    mean = np.divide(weighted, total, out=np.full_like(weighted, np.nan), where=total > 0)
    uncertainty: Floats = np.clip(1.0 - mean, 0.0, 1.0)
    return uncertainty
