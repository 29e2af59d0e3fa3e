"""A release -> the pairs and texts that a trained policy is measured on, and that nothing trains on.

held = held_out(open_data("./dataset"), max_length=256, share=0.3)
[row["prompt_id"] for row in held.pairs]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from udasa import resources, stages
from udasa.digests import stable_hash
from udasa.errors import UserError
from udasa.release import Opened

MOST = 256
"""Held-out pairs at most, those with the smallest hashes of their prompts' ids: each is answered twice a probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What a policy is probed with."""

    pairs: Sequence[Mapping[str, Any]]
    """prompt_id, prompt, chosen, rejected, stage; none of their prompts was trained on."""
    max_length: int
    """Longest prompt + response in tokens; the rest is cut, as in training."""
    max_new_tokens: int
    """Longest response that is generated."""
    canary: Mapping[str, str]
    """Name -> text."""
    seed: int = 0
    """Of the sampled responses, with the prompt's id."""


def held_out(opened: Opened, *, max_length: int, share: float = 0.0) -> HeldOut:
    """Return the published pairs of the release's test split, or of a larger `share` of the prompts.

    Raises:
        UserError: there are fewer than two.
    """
    rows = opened.frame("pairs")
    kept = rows.filter(is_held_out(rows, opened, share)).select("prompt_id", "prompt", "chosen", "rejected", "stage")
    if kept.height < 2:
        raise UserError(
            f"{kept.height} of the {rows.height} pairs of {opened.target} are held out; at least 2 are needed. "
            "Hold out a larger share, or build from more prompts."
        )
    ranked = sorted(kept.to_dicts(), key=lambda row: stable_hash("held out", row["prompt_id"]))
    return HeldOut(
        pairs=sorted(ranked[:MOST], key=lambda row: str(row["prompt_id"])),
        max_length=max_length,
        max_new_tokens=opened.recipe.sampling.max_new_tokens,
        canary=read_canary(),
    )


def is_held_out(rows: pl.DataFrame, opened: Opened, share: float) -> pl.Series:
    """Say of every row whether its prompt is held out: the release's test split, made larger by the same hash."""
    least = max(share, opened.recipe.staging.test_share)
    seed = opened.recipe.seed
    return pl.Series([stages.split(name, least, seed) == "test" for name in rows["prompt_id"]], dtype=pl.Boolean)


def read_canary() -> dict[str, str]:
    """Return the texts of the canary, name -> text: plain prose of this project, which nothing here trains on."""
    text = (resources.shelf("eval") / "data" / "canary.txt").read_text(encoding="utf-8")
    return {f"canary-{n:02d}": part.strip() for n, part in enumerate(text.split("\n\n"), 1) if part.strip()}
