"""Pairs -> stage by gap, split by prompt; the whole table at once."""

from typing import NamedTuple

import polars as pl
import pyarrow as pa

from udasa import schema
from udasa.backends import stable_hash
from udasa.recipe import Staging


class Thresholds(NamedTuple):
    """The smallest gap of a stage; below `moderate` a pair is exploratory."""

    moderate: float
    conservative: float


class Staged(NamedTuple):
    """The finished pairs, as `schema.PAIRS`, and the gaps that bound the stages."""

    pairs: pa.Table
    thresholds: Thresholds


def stage(pairs: pl.DataFrame, staging: Staging, seed: int) -> Staged:
    """Sort pairs into conservative (largest gaps), moderate and exploratory, and split them by prompt."""
    thresholds = Thresholds(*staging.thresholds) if staging.thresholds else terciles(pairs["gap"])
    finished = pairs.with_columns(
        prompt=pl.col("messages"),
        chosen=_reply("chosen_text"),
        rejected=_reply("rejected_text"),
        stage=pl.when(pl.col("gap") >= thresholds.conservative)
        .then(pl.lit("conservative"))
        .when(pl.col("gap") >= thresholds.moderate)
        .then(pl.lit("moderate"))
        .otherwise(pl.lit("exploratory")),
        split=pl.Series(
            [split(prompt_id, staging.test_share, seed) for prompt_id in pairs["prompt_id"]], dtype=pl.String
        ),
    )
    table = finished.select(schema.PAIRS.names).to_arrow(compat_level=pl.CompatLevel.oldest())
    return Staged(schema.conform(table, schema.PAIRS), thresholds)


def _reply(column: str) -> pl.Expr:
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
