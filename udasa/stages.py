"""Pairs -> stage by gap, split by prompt; the whole table at once."""

from typing import NamedTuple

import polars as pl
import pyarrow as pa

from udasa import schema
from udasa.digests import stable_hash
from udasa.recipe import Staging


class Thresholds(NamedTuple):
    """The smallest gap of a stage; below `moderate` a pair is exploratory."""

    moderate: float
    conservative: float


class Staged(NamedTuple):
    """The finished pairs, as `schema.PAIRS`, and the gaps that bound the stages."""

    pairs: pa.Table
    thresholds: Thresholds
    outcomes: pl.DataFrame
    """prompt_id, outcome: one row per pair that came in; `paired`, or why it was dropped here."""


def stage(pairs: pl.DataFrame, staging: Staging, seed: int, bounds: Thresholds | None = None) -> Staged:
    """Sort pairs into conservative (largest gaps), moderate and exploratory, and split them by prompt.

    With `staging.abstain`, a pair is dropped when the ends of its gap's interval fall into different stages. Terciles
    are of all pairs that came in, before any is dropped: else the thresholds would move with each drop, and new pairs
    would straddle the moved ones. So the stages that remain are no longer of equal size. A pair without an interval
    stays. `bounds`: the thresholds of a build of which these pairs are a part; None: they are all of it.
    """
    found = bounds or thresholds(pairs["gap"], staging)
    kept = pairs.filter(~straddles(found)) if staging.abstain else pairs
    finished = kept.with_columns(
        prompt=pl.col("messages"),
        chosen=reply("chosen_text"),
        rejected=reply("rejected_text"),
        stage=stage_of("gap", found),
        split=pl.Series(
            [split(prompt_id, staging.test_share, seed) for prompt_id in kept["prompt_id"]], dtype=pl.String
        ),
    )
    stays = pl.col("prompt_id").is_in(kept["prompt_id"].implode())
    outcomes = pairs.select(
        "prompt_id", outcome=pl.when(stays).then(pl.lit("paired")).otherwise(pl.lit("gap-straddles-threshold"))
    )
    table = finished.select(schema.PAIRS.names).to_arrow(compat_level=pl.CompatLevel.oldest())
    return Staged(schema.conform(table, schema.PAIRS), found, outcomes)


def thresholds(gaps: pl.Series, staging: Staging) -> Thresholds:
    """Return the thresholds of a build with these gaps: those of the recipe, or terciles."""
    return Thresholds(*staging.thresholds) if staging.thresholds else terciles(gaps)


def stage_of(column: str, thresholds: Thresholds) -> pl.Expr:
    """Return the stage that a gap in `column` falls into."""
    gap = pl.col(column)
    moderate = pl.when(gap >= thresholds.moderate).then(pl.lit("moderate")).otherwise(pl.lit("exploratory"))
    return pl.when(gap >= thresholds.conservative).then(pl.lit("conservative")).otherwise(moderate)


def straddles(thresholds: Thresholds) -> pl.Expr:
    """Say whether the ends of a gap's interval fall into different stages; False without an interval."""
    differ = stage_of("gap_low", thresholds) != stage_of("gap_high", thresholds)
    return pl.col("gap_low").is_not_null() & differ


def reply(column: str) -> pl.Expr:
    """Return a text column as a conversation of one assistant turn."""
    return pl.concat_list(pl.struct(pl.lit("assistant").alias("role"), pl.col(column).alias("content")))


def terciles(gaps: pl.Series) -> Thresholds:
    """Return the gaps that part the build in three; each is a gap of the build, so that none falls between."""
    if gaps.is_empty():
        return Thresholds(0.0, 0.0)
    ranked = gaps.sort()
    n = len(ranked)
    return Thresholds(float(ranked[n // 3]), float(ranked[min(n - 1, 2 * n // 3)]))


def split(prompt_id: str, test_share: float, seed: int) -> str:
    """Return `test` for about `test_share` of the prompts, by hash: a prompt is never on both sides."""
    return "test" if stable_hash(seed, "split", prompt_id) / 2**63 < test_share else "train"
