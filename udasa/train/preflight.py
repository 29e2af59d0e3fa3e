"""Pairs by stage, the trainer's tokenizer -> the pairs that can be trained on, and what was found about the others.

preflight({"conservative": pairs}, tokenizer, max_length=1024)
-> Preflight(fits={"conservative": Fit(pairs, truncated=3, dropped=1)}, findings=(Finding(name="over-max-length"), ...))

TRL leaves out a pair whose prompt alone fills max_length, and says nothing; here every pair left out has a reason.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from udasa.backends_hf import chat_tokens
from udasa.errors import UserError
from udasa.limits import Lint
from udasa.lint import Finding, audit_training, fail_on_limits, over_max_length
from udasa.lint.finding import share

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LEFT_OUT = {
    "empty-after-template": "pairs have a side on which the chat template leaves nothing of the reply",
    "identical-after-template": "pairs have the same tokens on both sides",
    "no-difference-within-max-length": "pairs show no difference within max_length tokens (the prompt may fill it)",
}
"""Why a pair is left out: the first reason that holds."""

_MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
_EMPTY = [{"role": "assistant", "content": ""}]


class Fit(NamedTuple):
    """The pairs of a stage that fit the trainer, and how many do not."""

    pairs: "Dataset"
    """With the columns `content` (a sha256 of the tokens that the model reads) and `tokens` (of the longer side)."""
    truncated: int
    """Pairs among them of which a side is cut to max_length."""
    dropped: int
    """Pairs that were left out."""


class Preflight(NamedTuple):
    """What a run begins with."""

    fits: dict[str, Fit]
    findings: tuple[Finding, ...]
    """Of all stages together: on long pairs, on prompts that the template changes, and on each reason to leave out."""


class _Checked(NamedTuple):
    """What was seen of a pair."""

    prompt_id: str
    tokens: int
    """Of the longer side."""
    whole_prompt: bool
    why: str
    """Why it is left out, or nothing."""


class Tokens(NamedTuple):
    """A pair as TRL reads it: the tokens of both sides, each with its prompt, and how many of these the prompt is."""

    prompt: int
    chosen: list[int]
    rejected: list[int]
    whole_prompt: bool
    """Whether both sides begin with all that a reply is generated after; else TRL takes what differs for the reply."""


def preflight(pairs: "Mapping[str, Dataset]", tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Preflight:
    """Read every pair as the trainer will, and leave out those that would teach nothing.

    Raises:
        UserError: no pair of a stage is left, or the chat template refuses one.
    """
    fits: dict[str, Fit] = {}
    checked: list[_Checked] = []
    for name, rows in pairs.items():
        kept: list[int] = []
        contents: list[str] = []
        tokens: list[int] = []
        for index, row in enumerate(rows):
            read = pair_tokens(tokenizer, row)
            longest, why = max(len(read.chosen), len(read.rejected)), _reason(tokenizer, row, read, max_length)
            checked.append(_Checked(row["prompt_id"], longest, read.whole_prompt, why))
            if not why:
                kept.append(index)
                contents.append(_digest(read, max_length))
                tokens.append(longest)
        if rows and not kept:
            raise UserError(_nothing_left(name, checked[-len(rows) :], max_length))
        fit = rows.select(kept).add_column("content", contents).add_column("tokens", tokens)
        fits[name] = Fit(fit, sum(longest > max_length for longest in tokens), len(rows) - len(kept))
    return Preflight(fits, _findings(checked, max_length))


def refuse_overlap(
    pairs: "Mapping[str, Dataset]",
    test: "Mapping[str, Dataset]",
    lint: Lint,
    near_duplicate: float,
    allow: bool,
) -> tuple[Finding, ...]:
    """Return what the prompts share with those of a test split, and with the evaluation, by `udasa.lint`.

    Args:
        pairs: stage -> the pairs that are to be trained on.
        test: stage -> those that are held out; may be empty.
        lint: what is alike, the limits, and more evaluation data.
        near_duplicate: the recipe's.
        allow: whether a finding beyond its limit is only recorded.

    Raises:
        LimitError: a finding is beyond its limit, and `allow` is False.
    """
    train, held_out = (
        pl.concat([table.select_columns(["prompt_id", "prompt"]).to_polars() for table in tables if len(table)])
        if any(map(len, tables))
        else pl.DataFrame(schema={"prompt_id": pl.String, "prompt": _MESSAGES})
        for tables in (list(pairs.values()), list(test.values()))
    )
    found = audit_training(train, held_out, lint, near_duplicate)
    if not allow:
        fail_on_limits(found, "Remove these prompts, or train on them all the same with --allow-overlap.")
    return tuple(found)


def pair_tokens(tokenizer: "PreTrainedTokenizerBase", row: Mapping[str, Any]) -> Tokens:
    """Return a pair's tokens as TRL makes them: the prompt is what both sides begin with, up to its own length.

    Raises:
        UserError: the chat template refuses the conversation.
    """
    from jinja2 import TemplateError

    try:
        prompt = chat_tokens(tokenizer, row["prompt"], prompt=True)
        chosen, rejected = (chat_tokens(tokenizer, row["prompt"] + row[side]) for side in ("chosen", "rejected"))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in row["prompt"])
        raise UserError(
            f"The policy's chat template refuses the prompt {row['prompt_id']}, whose roles are {roles}: {error}. "
            "Leave out such prompts, or use a policy whose template takes them."
        ) from error
    shared = min(_shared(prompt, chosen), _shared(prompt, rejected))
    return Tokens(shared, chosen, rejected, shared == len(prompt))


def _reason(tokenizer: "PreTrainedTokenizerBase", row: Mapping[str, Any], read: Tokens, max_length: int) -> str:
    """Return why a pair is left out, or nothing."""
    shorter = min(read.chosen, read.rejected, key=len)
    empty = chat_tokens(tokenizer, row["prompt"] + _EMPTY)
    if len(shorter) <= len(empty) and empty in (read.chosen, read.rejected):
        return "empty-after-template"
    if read.chosen == read.rejected:
        return "identical-after-template"
    if read.chosen[:max_length] == read.rejected[:max_length]:
        return "no-difference-within-max-length"
    return ""


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two lists begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _digest(read: Tokens, max_length: int) -> str:
    """Return a sha256 of what the model reads of a pair."""
    content = [min(read.prompt, max_length), read.chosen[:max_length], read.rejected[:max_length]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _nothing_left(name: str, checked: Sequence[_Checked], max_length: int) -> str:
    counts = {what: sum(one.why == reason for one in checked) for reason, what in LEFT_OUT.items()}
    told = "; ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"No pair of stage '{name}' can be trained on: {told}. Raise max_length, now {max_length}, or build again."


def _findings(checked: Sequence[_Checked], max_length: int) -> tuple[Finding, ...]:
    schema = {"prompt_id": pl.String, "tokens": pl.Int64, "whole_prompt": pl.Boolean, "why": pl.String}
    rows = pl.DataFrame(checked, schema=schema, orient="row")
    changed = share(
        "prompt-changed-by-template",
        rows,
        ~pl.col("whole_prompt"),
        {"prompt-changed-by-template": None},
        "{count} of {total} prompts end otherwise before a reply that is there than before one that is generated; what "
        "differs is trained on as part of the reply.",
        exact=True,
    )
    left_out = (
        share(name, rows, pl.col("why") == name, {name: None}, f"{{count}} of {{total}} {what}.", exact=True)
        for name, what in LEFT_OUT.items()
    )
    return (over_max_length(rows, max_length, None), changed, *left_out)
