"""The pairs of several arms -> as many of each, so that every arm has the same pairs to see and steps to take."""

from collections.abc import Mapping

import polars as pl

from udasa.digests import stable_hash
from udasa.errors import UserError


def level(arms: Mapping[str, pl.DataFrame], batch_size: int, seed: int) -> dict[str, pl.DataFrame]:
    """Cut every arm down to the same number of pairs, in whole batches a stage.

    Whole batches, because a stage of 13 pairs takes 4 steps of at most 4, and three such stages 12 steps, where one
    stage of 39 pairs takes 10. The arm with the fewest whole batches decides how many there are; the others give them
    up one at a time, each from the stage that then has the most. Of a stage, the pairs stay whose prompts' ids have
    the smallest hashes: the same in every arm, so that arms share their prompts as far as their stages allow.

    Args:
        arms: arm -> its training pairs, with the columns prompt_id and stage.
        batch_size: pairs an optimiser step.
        seed: of the hashes; the recipe's.

    Raises:
        UserError: an arm has no stage with a whole batch.
    """
    batches = {arm: _whole_batches(rows, batch_size) for arm, rows in arms.items()}
    if short := [f"{arm} ({arms[arm].height} pairs)" for arm, found in batches.items() if not sum(found.values())]:
        raise UserError(
            f"No stage holds a whole batch of {batch_size} pairs in: {', '.join(short)}. Lower training.batch_size, "
            "hold out less, leave these arms out, or build from more prompts."
        )
    least = min(sum(found.values()) for found in batches.values())
    return {
        arm: _cut(rows, {stage: n * batch_size for stage, n in _fewer(batches[arm], least).items()}, seed)
        for arm, rows in arms.items()
    }


def _whole_batches(rows: pl.DataFrame, batch_size: int) -> dict[str, int]:
    """Return how many whole batches each stage holds, by the stage's name."""
    sizes = rows.group_by("stage").len().sort("stage")
    return {stage: size // batch_size for stage, size in sizes.iter_rows()}


def _fewer(batches: Mapping[str, int], total: int) -> dict[str, int]:
    """Take batches from the fullest stage (the first by name of several) until `total` are left."""
    left = dict(batches)
    while sum(left.values()) > total:
        fullest = max(left, key=lambda stage: left[stage])
        left[fullest] -= 1
    return left


def _cut(rows: pl.DataFrame, sizes: Mapping[str, int], seed: int) -> pl.DataFrame:
    """Keep `sizes` pairs of each stage, those with the smallest hashes of their prompts' ids; sorted by id."""
    keys = pl.Series("key", [stable_hash(seed, "budget", name) for name in rows["prompt_id"]], dtype=pl.Int64)
    ranked = rows.with_columns(keys).sort("key")
    kept = [ranked.filter(pl.col("stage") == stage).head(size) for stage, size in sizes.items()]
    return pl.concat(kept).drop("key").sort("prompt_id")
