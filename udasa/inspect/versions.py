"""Two versions' pairs -> what changed, pair by pair and by stage."""

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from udasa import schema

CHANGES = {
    "added": "there is a pair of this prompt only here",
    "removed": "there was a pair of this prompt only before",
    "flipped": "chosen and rejected changed places",
    "other answers": "another answer is chosen or rejected",
    "moved": "the same answers, in another stage",
    "gap changed": "the same answers in the same stage, with another gap",
    "same": "nothing changed",
}
"""Every change that a pair can have, and what it means; a pair has the first that holds."""


class Versions(NamedTuple):
    """What changed from an older version to a newer one."""

    by_prompt: Mapping[str, str]
    """Prompt id -> change."""
    counts: Mapping[str, int]
    """Change -> pairs; all of `CHANGES`."""
    moves: Mapping[str, Mapping[str, int]]
    """Older stage or `none` -> newer stage or `none` -> pairs."""


def compare(new: pl.DataFrame, old: pl.DataFrame) -> Versions:
    """Compare two tables of pairs, joined by the prompt's id; `schema.PAIRS` both."""
    columns = ("prompt_id", "stage", "chosen_id", "rejected_id", "gap")
    both = new.select(columns).join(old.select(columns), on="prompt_id", how="full", coalesce=True, suffix="_old")
    changed = pl.col("chosen_id").ne(pl.col("chosen_id_old")) | pl.col("rejected_id").ne(pl.col("rejected_id_old"))
    swapped = pl.col("chosen_id").eq(pl.col("rejected_id_old")) & pl.col("rejected_id").eq(pl.col("chosen_id_old"))
    tests = {
        "added": pl.col("stage_old").is_null(),
        "removed": pl.col("stage").is_null(),
        "flipped": swapped,
        "other answers": changed,
        "moved": pl.col("stage") != pl.col("stage_old"),
        "gap changed": pl.col("gap") != pl.col("gap_old"),
        "same": pl.lit(True),
    }
    change = pl.coalesce(pl.when(test).then(pl.lit(name)) for name, test in tests.items())
    rows = both.select("prompt_id", pl.col("stage", "stage_old").fill_null("none"), change=change).sort("prompt_id")
    stages = (*schema.STAGES, "none")
    cells = dict(((before, after), n) for before, after, n in rows.group_by("stage_old", "stage").len().iter_rows())
    return Versions(
        dict(zip(rows["prompt_id"], rows["change"], strict=True)),
        {name: int((rows["change"] == name).sum()) for name in CHANGES},
        {before: {after: cells.get((before, after), 0) for after in stages} for before in stages},
    )
