"""Scored rows -> one chosen/rejected pair a prompt, or the reason why there is none.

u of a prompt's responses 0.21, 0.40, 0.77 -> chosen the first, rejected the one nearest to mean + 2 sd
"""

from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from udasa import schema
from udasa.digests import stable_hash
from udasa.recipe import Pairing

COLUMNS = ("prompt_id", "messages", "task", "domain", "source", "license")
"""What pairing reads of a scored row."""
FIELDS = ("response_id", "text", "finish_reason", "judge_failure", *schema.SCORES)
"""What it reads of a response, beside u."""


class Paired(NamedTuple):
    """The pairs (without stage, split and intervals) and each prompt's outcome."""

    pairs: pl.DataFrame
    outcomes: pl.DataFrame
    """prompt_id, outcome, detail: one row per scored prompt."""


def pair(responses: pl.DataFrame, pairing: Pairing, seed: int) -> Paired:
    """Pick chosen and rejected of every prompt; `responses` as `udasa.calibrate` returns them.

    A prompt of which one response could not be judged makes no pair: the response might have been either side.
    """
    rows = responses.with_columns(normal=normal(pl.col("text"))).with_columns(complete=_complete(pairing))
    judged = rows.join(rows.drop_nulls("judge_failure").select("prompt_id"), on="prompt_id", how="anti")
    usable = judged.filter(pl.col("complete") & pl.col("u").is_not_null())
    chosen = (
        usable.filter(pl.col("value_risk") <= pairing.risk_ceiling)
        .sort("prompt_id", "u", "response_id")
        .unique("prompt_id", keep="first", maintain_order=True)
    )
    candidates = usable.join(
        chosen.select("prompt_id", chosen_normal="normal", u_chosen="u"), on="prompt_id", how="inner"
    ).filter((pl.col("normal") != pl.col("chosen_normal")) & (pl.col("u") >= pl.col("u_chosen")))
    apart = candidates.filter(pl.col("u") - pl.col("u_chosen") >= pairing.epsilon)
    rejected = (
        apart.join(_target(usable), on="prompt_id")
        .with_columns(_preference(pairing, seed))
        .sort("prompt_id", "preference", -pl.col("u"), "response_id")
        .unique("prompt_id", keep="first", maintain_order=True)
    )
    return Paired(_join(chosen, rejected), _outcomes(rows, chosen, candidates, rejected))


def normal(text: pl.Expr) -> pl.Expr:
    """Return a text as it is compared: two that differ only in case, white space or Unicode form are one."""
    ascii_only = text.str.len_bytes() == text.str.len_chars()
    lower = _where(~ascii_only, text, lambda some: some.str.normalize("NFKC")).str.to_lowercase()
    uneven = lower.str.contains(r"\s\s|[^\S ]")
    return _where(uneven, lower, lambda some: some.str.replace_all(r"\s+", " ")).str.strip_chars()


def _where(needed: pl.Expr, text: pl.Expr, change: Callable[[pl.Expr], pl.Expr]) -> pl.Expr:
    """Return the texts with those changed that need it; most need nothing, and each change takes microseconds."""
    return pl.coalesce(change(pl.when(needed).then(text)), text)


def _complete(pairing: Pairing) -> pl.Expr:
    filled = pl.col("normal") != ""
    return filled if pairing.truncated == "keep" else filled & (pl.col("finish_reason") == "stop")


def _target(usable: pl.DataFrame) -> pl.DataFrame:
    """Return mean + 2 standard deviations (population) of u among each prompt's usable responses."""
    return usable.group_by("prompt_id").agg(target=pl.col("u").mean() + 2 * pl.col("u").std(ddof=0))


def _preference(pairing: Pairing, seed: int) -> pl.Expr:
    """Return what the rejected response minimises under the policy."""
    match pairing.rejected:
        case "mu_plus_2sigma":
            expr = (pl.col("u") - pl.col("target")).abs()
        case "max":
            expr = -pl.col("u")
        case "next":
            expr = pl.col("u")
        case "random":
            expr = pl.col("response_id").map_elements(
                lambda response_id: stable_hash(seed, "rejected", response_id), return_dtype=pl.Int64
            )
    return expr.alias("preference")


def _join(chosen: pl.DataFrame, rejected: pl.DataFrame) -> pl.DataFrame:
    """Put the two sides beside each other, joined by prompt id."""
    sides = []
    for side, frame in (("chosen", chosen), ("rejected", rejected)):
        columns = {f"{side}_text": "text", f"{side}_id": "response_id", f"u_{side}": "u"}
        columns |= {f"{side}_{name}": name for name in schema.SCORES}
        sides.append(frame.select("prompt_id", **{new: pl.col(old) for new, old in columns.items()}))
    about = chosen.select(COLUMNS)
    pairs = about.join(sides[0], on="prompt_id", validate="1:1").join(sides[1], on="prompt_id", validate="1:1")
    unknown = pl.lit(None, dtype=pl.Float64)
    gap = pl.col("u_rejected") - pl.col("u_chosen")
    return pairs.with_columns(gap=gap, gap_low=unknown, gap_high=unknown).sort("prompt_id")


def _outcomes(
    rows: pl.DataFrame, chosen: pl.DataFrame, candidates: pl.DataFrame, rejected: pl.DataFrame
) -> pl.DataFrame:
    """Give every prompt its outcome: `paired`, or the first thing that it lacks."""
    complete = pl.col("complete")
    facts = rows.group_by("prompt_id").agg(
        num_complete=complete.sum(),
        num_texts=pl.col("normal").filter(complete).n_unique(),
        num_usable=(complete & pl.col("u").is_not_null()).sum(),
        detail=pl.col("judge_failure").drop_nulls().first(),
    )

    def among(frame: pl.DataFrame) -> pl.Expr:
        return pl.col("prompt_id").is_in(frame["prompt_id"].unique().implode())

    outcome = (
        pl.when(among(rejected))
        .then(pl.lit("paired"))
        .when(pl.col("detail").is_not_null())
        .then(pl.lit("judge-error"))
        .when(pl.col("num_complete") < 2)
        .then(pl.lit("empty-or-truncated"))
        .when(pl.col("num_texts") < 2)
        .then(pl.lit("identical-responses"))
        .when(pl.col("num_usable") < 2)
        .then(pl.lit("no-score"))
        .when(~among(chosen))
        .then(pl.lit("no-response-under-risk-ceiling"))
        .when(~among(candidates))
        .then(pl.lit("no-suboptimal-response"))
        .otherwise(pl.lit("tie"))
    )
    return (
        facts.select("prompt_id", "detail", outcome=outcome).select("prompt_id", "outcome", "detail").sort("prompt_id")
    )
