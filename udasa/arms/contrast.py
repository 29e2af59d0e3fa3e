"""A release's prompts -> pairs of the policy under two instructions: sampled anew, one response a side."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from udasa import stages
from udasa.arms.order import ONE_STAGE
from udasa.backends import Message, ModelSpec, Response, make_sampler
from udasa.digests import stable_hash
from udasa.errors import UserError
from udasa.pairs import normal
from udasa.release import Opened

INSTRUCTIONS = {
    "chosen": "Reply so that a careful reader of your reply would answer yes to each of these questions.",
    "rejected": "Reply so that a careful reader of your reply would answer no to each of these questions.",
}
"""What the system message of each side adds, before the principles of the constitution; ours."""


def contrasted(opened: Opened, policy: ModelSpec) -> pl.DataFrame:
    """Sample a response told to keep the constitution, and one told to break it; the pair's prompt says neither.

    A prompt makes no pair if a side has no answer, is empty or cut (where the recipe drops what is cut), or if both
    sides are alike.

    Raises:
        UserError: the recipe has no constitution, or no prompt makes a pair.
    """
    settings = opened.recipe
    if not settings.judging.constitution:
        raise UserError(f"{opened.target} was judged without a constitution, so there is nothing to keep or to break.")
    questions = "\n".join(f"- {principle.question}" for principle in settings.judging.constitution)
    rows = opened.frame("scored").sort("prompt_id").select("prompt_id", prompt="messages")
    sampler = make_sampler(policy, settings.sampling)
    for side, instruction in INSTRUCTIONS.items():
        asked = [_instructed(messages, f"{instruction}\n{questions}") for messages in rows["prompt"].to_list()]
        drawn = sampler.sample(asked, [[stable_hash(settings.seed, side, name)] for name in rows["prompt_id"]])
        texts = [_text(one, keep_cut=settings.pairing.truncated == "keep") for one in drawn]
        rows = rows.with_columns(pl.Series(side, texts, dtype=pl.String))
    told = rows.drop_nulls().filter(
        normal(pl.col("chosen")) != normal(pl.col("rejected")),
        *(normal(pl.col(side)) != "" for side in INSTRUCTIONS),
    )
    if told.is_empty():
        raise UserError(
            f"The two instructions gave no pair of different, whole responses for any of {rows.height} prompts."
        )
    splits = [stages.split(name, settings.staging.test_share, settings.seed) for name in told["prompt_id"]]
    return told.with_columns(
        **{side: stages.reply(side) for side in INSTRUCTIONS},
        stage=pl.lit(ONE_STAGE),
        split=pl.Series(splits, dtype=pl.String),
    )


def _instructed(messages: Sequence[Message], instruction: str) -> list[Message]:
    """Add an instruction to the system message, or put one before the conversation."""
    if messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n{instruction}"}, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]


def _text(drawn: Any, *, keep_cut: bool) -> str | None:
    """Return the text of the one response that was drawn, if it is there and whole."""
    if not isinstance(drawn, list):
        return None
    response: Response = drawn[0]
    return response.text if keep_cut or response.finish_reason == "stop" else None
