"""Pairs -> stages in training order: the same pairs in another order, or in one stage."""

from collections.abc import Sequence

import polars as pl

from udasa.digests import stable_hash

ONE_STAGE = "all"
"""The stage of an arm that has only one."""

Stages = dict[str, pl.DataFrame]
"""Stage name -> its pairs, in training order."""


def in_order(rows: pl.DataFrame, stages: Sequence[str], seed: int) -> Stages:
    """Return the stages as they were published."""
    return {stage: rows.filter(pl.col("stage") == stage) for stage in stages}


def backwards(rows: pl.DataFrame, stages: Sequence[str], seed: int) -> Stages:
    """Return the stages last to first."""
    return in_order(rows, stages[::-1], seed)


def as_one(rows: pl.DataFrame, stages: Sequence[str], seed: int) -> Stages:
    """Return one stage with the pairs of all; the trainer shuffles it."""
    return {ONE_STAGE: rows}


def at_random(rows: pl.DataFrame, stages: Sequence[str], seed: int) -> Stages:
    """Return stages of the published sizes, filled by a hash of the run's seed and the prompt's id."""
    keys = {name: stable_hash(seed, "random stage", name) for name in rows["prompt_id"]}
    drawn = rows.sort(pl.col("prompt_id").replace_strict(keys, return_dtype=pl.Int64))
    start, found = 0, {}
    for number, stage in enumerate(stages, 1):
        size = rows.filter(pl.col("stage") == stage).height
        found[f"random-{number}"] = drawn.slice(start, size).sort("prompt_id")
        start += size
    return found
