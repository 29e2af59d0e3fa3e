"""Two versions -> what changed, pair by pair with its reason, and by stage, as `udasa diff` tells it."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from udasa import schema
from udasa.publish import diff
from udasa.publish.differences import REASONS
from udasa.release import Opened

SAME = "same"


class Change(NamedTuple):
    """Pairs that differ in one way for one reason."""

    name: str
    """How they differ: one or more of `differences.CHANGES`, or `same`."""
    reason: str
    """Why, of `differences.REASONS`; empty for `same`."""
    meaning: str
    """What the reason means."""
    pairs: int

    @property
    def label(self) -> str:
        """How a pair of it is called in the browser's filter."""
        return f"{self.name} ({self.reason})" if self.reason else self.name


class Versions(NamedTuple):
    """What changed from an older version to a newer one."""

    by_prompt: Mapping[str, str]
    """Prompt id -> label of its change."""
    changes: list[Change]
    """Every pair of either version is counted in one; the most pairs first."""
    moves: Mapping[str, Mapping[str, int]]
    """Older stage or `none` -> newer stage or `none` -> pairs."""


def compare(new: Opened, old: Opened) -> Versions:
    """Compare two releases or builds, joined by the prompt's id.

    Raises:
        UserError: a table of one of them cannot be read.
    """
    differ = diff(old, new).rows.select("prompt_id", pl.col("changes").list.join(", "), "reason")
    by_prompt = {prompt: Change(how, why, REASONS[why], 1) for prompt, how, why in differ.iter_rows()}
    stages = [opened.frame("pairs").select("prompt_id", "stage") for opened in (old, new)]
    both = stages[0].join(stages[1], on="prompt_id", how="full", coalesce=True, suffix="_new").fill_null("none")
    cells = Counter(zip(both["stage"], both["stage_new"], strict=True))
    same = Change(SAME, "", "neither texts, stage, split nor any number differs", 1)
    counts = Counter(by_prompt.get(prompt, same) for prompt in both["prompt_id"])
    names = (*schema.STAGES, "none")
    return Versions(
        {prompt: by_prompt.get(prompt, same).label for prompt in both["prompt_id"]},
        [change._replace(pairs=n) for change, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))],
        {before: {after: cells[before, after] for after in names} for before in names},
    )
