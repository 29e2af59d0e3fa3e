"""Pairs and responses -> what the page holds of each pair, within a size that a browser opens at once.

A page holds whole pairs, each with all its answers. If they do not all fit, it holds those that a finding names and
then those with the smallest hash of their prompt's id: a fixed random sample, the same on every machine.
"""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import polars as pl

from udasa import schema
from udasa.digests import stable_hash
from udasa.figures import visible
from udasa.recipe import Pairing, Weights
from udasa.report import SCORES, contributions, explain_stage

BUDGET = 8_000_000
"""Bytes of pairs on a page."""

LONGEST = 20_000
"""Characters of one text on a page."""

OTHER_SCORES = (*(name for name in schema.SCORES if name not in SCORES), *schema.ESTIMATES)
_ANSWER, _PAIR = 360, 420
"""Rough bytes of an answer and of a pair besides their texts."""


def choose(pairs: pl.DataFrame, responses: pl.DataFrame, first: Set[str], budget: int = BUDGET) -> pl.DataFrame:
    """Return the pairs that a page holds, in the order of the ids' hashes.

    Args:
        pairs: `schema.PAIRS`.
        responses: a row a response, with `prompt_id`, `messages` and `text`.
        first: prompt ids that are held before all others.
        budget: bytes that the held pairs may take, roughly.
    """
    said = pl.col("text").str.len_bytes().clip(upper_bound=LONGEST * 2)
    asked = pl.col("messages").first().list.eval(pl.element().struct.field("content").str.len_bytes()).list.sum()
    sizes = responses.group_by("prompt_id").agg(
        bytes=(said + _ANSWER).sum() + asked.clip(upper_bound=LONGEST * 2) + _PAIR
    )
    order = [(i not in first, stable_hash(i)) for i in pairs["prompt_id"]]
    rows = pairs.with_columns(
        late=pl.Series([late for late, _ in order], dtype=pl.Boolean),
        hash=pl.Series([key for _, key in order], dtype=pl.Int64),
    )
    rows = rows.join(sizes, on="prompt_id", how="left").sort("late", "hash", "prompt_id")
    return rows.filter(pl.col("bytes").cum_sum() <= budget).drop("late", "hash", "bytes")


class Context(NamedTuple):
    """What every row is read against."""

    weights: Weights
    pairing: Pairing
    thresholds: Mapping[str, float]
    findings: Mapping[str, Set[str]]
    """Finding -> ids of its examples (of prompts or of responses)."""
    changes: Mapping[str, str]
    """Prompt id -> what changed against another version; empty without one."""


def shown(held: pl.DataFrame, responses: pl.DataFrame, context: Context) -> Iterator[dict[str, Any]]:
    """Yield each held pair as plain JSON values; its answers stand from the lowest u to the highest."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for row in responses.filter(pl.col("prompt_id").is_in(held["prompt_id"].implode())).iter_rows(named=True):
        answers.setdefault(row["prompt_id"], []).append(row)
    for pair in held.iter_rows(named=True):
        yield _row(pair, answers[pair["prompt_id"]], context)


def _row(pair: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], context: Context) -> dict[str, Any]:
    ranked = sorted(answers, key=lambda a: (a["u"] is None, a["u"], a["response_id"]))
    ids = [a["response_id"] for a in ranked]
    chosen, rejected = (ids.index(pair[f"{side}_id"]) for side in ("chosen", "rejected"))
    shares = contributions(ranked[chosen], ranked[rejected], context.weights)
    known = {pair["prompt_id"], *ids}
    return {
        "id": pair["prompt_id"],
        **{name: visible(pair[name]) for name in ("stage", "split", "task", "domain", "source")},
        "gap": _rounded(pair["gap"]),
        "interval": [_rounded(pair.get("gap_low")), _rounded(pair.get("gap_high"))],
        "why": explain_stage(pair["stage"], pair["gap"], context.thresholds, shares),
        "shares": {name: _rounded(share) for name, share in shares.items()},
        "prompt": [[visible(m["role"]), *_cut(m["content"])] for m in pair["prompt"]],
        "answers": [_answer(a, _standing(a, pair, context.pairing)) for a in ranked],
        "chosen": chosen,
        "rejected": rejected,
        "findings": [visible(name) for name, examples in context.findings.items() if known & examples],
        "change": context.changes.get(pair["prompt_id"], ""),
    }


def _answer(answer: Mapping[str, Any], standing: str) -> dict[str, Any]:
    text, length = _cut(answer["text"])
    claims, acceptable = answer["claims"], answer["acceptable"]
    return {
        "text": text,
        "length": length,
        "standing": standing,
        "set": answer["cluster"],
        "tokens": answer["num_tokens"],
        "cut": answer["finish_reason"] == "length",
        "scores": [_rounded(answer[name]) for name in (*SCORES, *OTHER_SCORES)],
        "claims": [[_cut(claim["text"])[0], _rounded(claim["unsupported"])] for claim in claims or ()],
        "unclaimed": schema.FACTUAL_REASONS.get(answer["factual_reason"], ""),
        "acceptable": [_rounded(p) for p in acceptable or ()],
    }


def _standing(answer: Mapping[str, Any], pair: Mapping[str, Any], pairing: Pairing) -> str:
    """Say what became of an answer, and why it could not be chosen if it could not."""
    if answer["response_id"] == pair["chosen_id"]:
        return "chosen"
    if answer["response_id"] == pair["rejected_id"]:
        return "rejected"
    if not answer["text"].strip():
        return "left out: empty"
    if pairing.truncated == "drop" and answer["finish_reason"] != "stop":
        return "left out: cut at the token limit"
    if answer["u"] is None:
        return "left out: no uncertainty"
    if answer["value_risk"] is None or answer["value_risk"] > pairing.risk_ceiling:
        return f"cannot be chosen: not under the risk ceiling of {pairing.risk_ceiling:g}"
    return "not in the pair"


def _cut(text: str) -> tuple[str, int]:
    """Return at most `LONGEST` characters of a text, hidden ones made visible, and its whole length."""
    return visible(text[:LONGEST]), len(text)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def island(data: object) -> str:
    """Return JSON that can stand in a script element of type application/json and not end it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
