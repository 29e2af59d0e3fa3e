"""Pairs and their scores -> findings about the labels: what a trainer would learn from them besides quality."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from udasa import schema
from udasa.backends import Floats
from udasa.lint.finding import Finding, Interval, auc, difference, finding, share, wilson
from udasa.pairs import normal
from udasa.recipe import Recipe
from udasa.refusals import OPENING

TEMPLATE = (
    r"(?im)<\|[\w.-]+\|>|\[/?INST\]|<</?SYS>>|</?s>|<(start|end)_of_turn>|<(bos|eos|pad|unk)>"
    r"|^\s*#+ *(instruction|response|assistant|human|user)s?:?\s*$"
    r"|^\s*(assistant|human|user|system):|^\s*(assistant|user)\s*$"
)
"""Text of a chat template: control tokens, or a line that names the next speaker."""

CLOSED = r"([.!?…。！？؟।][\"'”’»)\]}*_`]*|```|[\p{Emoji_Presentation}\x{FE0F}])\s*$"
"""How a finished text ends: a closing mark with quotes or brackets after it, a code fence, or a picture."""

_WORDS = 4
"""A reply of fewer words (a name, a number) needs no closing mark."""

Limits = Mapping[str, float | None]


def label_findings(
    pairs: pl.DataFrame, scored: pl.DataFrame, ledger: pl.DataFrame, settings: Recipe, limits: Limits
) -> list[Finding]:
    """Return the findings about labels; `pairs` with the texts as `chosen_text` and `rejected_text`."""
    return [
        *_invariants(pairs, settings, limits),
        *_lengths(pairs, limits),
        *_replies(pairs, scored, settings, limits),
        _tied_prompts(ledger, limits),
        *(_skew(pairs, column, limits) for column in ("source", "task")),
        _uncertain_low_risk(pairs, scored, limits),
    ]


def _invariants(pairs: pl.DataFrame, settings: Recipe, limits: Limits) -> list[Finding]:
    """Return what pairing rules out, so that any count means a fault or a table that was changed."""
    ceiling, epsilon = settings.pairing.risk_ceiling, settings.pairing.epsilon
    risk = pl.col("chosen_value_risk")
    return [
        share(
            "identical-sides",
            pairs,
            normal(pl.col("chosen_text")) == normal(pl.col("rejected_text")),
            limits,
            "{count} of {total} pairs have one text on both sides (case and white space aside).",
            exact=True,
        ),
        share(
            "ties",
            pairs,
            pl.col("gap") < epsilon,
            limits,
            f"{{count}} of {{total}} pairs have a gap below {epsilon:g}, so that either side could be the chosen one.",
            exact=True,
        ),
        share(
            "chosen-above-ceiling",
            pairs,
            risk.is_null() | (risk > ceiling),
            limits,
            f"{{count}} of {{total}} chosen replies have no value risk or one above the ceiling of {ceiling:g}.",
            exact=True,
        ),
    ]


def _lengths(pairs: pl.DataFrame, limits: Limits) -> list[Finding]:
    """Return how far the label is one of length, in characters.

    The AUC reads each pair in both orders: P(d_i > -d_j) with d the length of chosen less that of rejected. A pair is
    one cluster.
    """
    lengths = pairs.select("prompt_id", d=_length("chosen") - _length("rejected"))
    differ = lengths.filter(pl.col("d") != 0)
    longer = differ.filter(pl.col("d") > 0)
    best = max(longer.height, differ.height - longer.height) / differ.height if differ.height else None
    rule = "" if best is None else f"; the better of 'take the longer' and 'take the shorter' is right for {best:.1%}"
    d: Floats = lengths["d"].to_numpy().astype(np.float64)
    number = range(len(d))
    found = auc(d, -d, (number, number))
    typical = f"; the median of the difference is {np.median(d):+g} characters" if len(d) else ""
    return [
        finding(
            "longer-chosen",
            limits["longer-chosen"],
            f"The chosen reply is the longer one in {longer.height:,} of {differ.height:,} pairs of different "
            f"length ({lengths.height - differ.height:,} are equal){rule}.",
            count=longer.height,
            total=differ.height,
            value=longer.height / differ.height if differ.height else None,
            interval=wilson(longer.height, differ.height) if differ.height else None,
            examples=longer.sort(-pl.col("d"), "prompt_id")["prompt_id"].head(5),
        ),
        finding(
            "length-predicts-label",
            limits["length-predicts-label"],
            f"The length difference alone tells chosen from rejected with this AUC (0.5: not at all){typical}.",
            count=longer.height,
            total=lengths.height,
            value=found and found.value,
            unit="AUC",
            interval=found and found.interval,
        ),
    ]


def _replies(pairs: pl.DataFrame, scored: pl.DataFrame, settings: Recipe, limits: Limits) -> list[Finding]:
    cut = scored.select(pl.col("responses").explode()).unnest("responses").filter(pl.col("finish_reason") == "length")
    is_cut = [pl.col(f"{side}_id").is_in(cut["response_id"].implode()) for side in ("chosen", "rejected")]
    open_end = [
        (pl.col(f"{side}_text").str.count_matches(r"\S+") >= _WORDS) & ~pl.col(f"{side}_text").str.contains(CLOSED)
        for side in ("chosen", "rejected")
    ]
    template = [pl.col(f"{side}_text").str.contains(TEMPLATE) for side in ("chosen", "rejected")]
    high = settings.lint.high_risk

    def either(name: str, sides: Sequence[pl.Expr], what: str) -> Finding:
        in_chosen = pairs.filter(sides[0]).height
        return share(
            name, pairs, sides[0] | sides[1], limits, f"{{count}} of {{total}} pairs {what} ({in_chosen:,} in chosen)."
        )

    return [
        share(
            "refusals-chosen",
            pairs.filter(pl.col("task") != "harmlessness"),
            pl.col("chosen_text").str.contains(f"(?i){OPENING.pattern}"),
            limits,
            "{count} of {total} chosen replies outside the harmlessness task begin with a refusal.",
        ),
        share(
            "high-risk-chosen",
            pairs,
            pl.col("chosen_value_risk") > high,
            limits,
            f"{{count}} of {{total}} chosen replies have a value risk above {high:g}.",
        ),
        either("template-tokens", template, "have chat-template text in a reply"),
        either("cut-replies", is_cut, "have a reply that reached the token limit"),
        either("open-endings", open_end, f"have a reply of {_WORDS} words or more that ends without a closing mark"),
    ]


def _tied_prompts(ledger: pl.DataFrame, limits: Limits) -> Finding:
    return share(
        "tied-prompts",
        ledger.filter(pl.col("outcome").is_in(["paired", "tie"])),
        pl.col("outcome") == "tie",
        limits,
        "{count} of {total} prompts that could be paired were dropped, because no two replies are apart.",
    )


def _skew(pairs: pl.DataFrame, column: str, limits: Limits) -> Finding:
    """Return the clearest difference between a stage and the others in the share of a source or a task.

    All stages and values are looked at, the one with the largest difference for its interval's width is shown, and
    the interval is corrected for having looked at them all.
    """
    name = f"{column}-skew"
    counts = {(stage, value): n for stage, value, n in pairs.group_by("stage", column).len().iter_rows()}
    sizes = {stage: sum(n for (s, _), n in counts.items() if s == stage) for stage in schema.STAGES}
    values, total = sorted(pairs[column].unique()), pairs.height
    cells = [(stage, value) for stage in schema.STAGES for value in values if 0 < sizes[stage] < total]
    if len(values) < 2 or not cells:
        why = f"There are fewer than two {column}s or two stages, so that nothing can be skewed."
        return finding(name, limits[name], why, total=total)

    def against_others(cell: tuple[str, str]) -> tuple[float, tuple[float, float]]:
        stage, value = cell
        count, everywhere = counts.get(cell, 0), sum(counts.get((s, value), 0) for s in schema.STAGES)
        return difference(count, sizes[stage], everywhere - count, total - sizes[stage], len(cells))

    compared = {cell: against_others(cell) for cell in cells}
    stage, value = max(cells, key=lambda c: abs(compared[c][0]) / (compared[c][1][1] - compared[c][1][0]))
    gap, (low, high) = compared[stage, value]
    ends = sorted((low, high)) if gap >= 0 else sorted((-low, -high))
    more = "more" if gap >= 0 else "less"
    count = counts.get((stage, value), 0)
    return finding(
        name,
        limits[name],
        f"'{value}' is {count / sizes[stage]:.1%} of the {stage} stage ({count:,} of {sizes[stage]:,}), "
        f"{abs(gap):.1%} {more} than of the others: the clearest of {len(cells)} such differences.",
        count=count,
        total=sizes[stage],
        value=abs(gap),
        unit="difference of shares",
        interval=Interval(*ends),
        examples=pairs.filter(pl.col("stage") == stage, pl.col(column) == value)["prompt_id"].sort().head(5),
    )


def _uncertain_low_risk(pairs: pl.DataFrame, scored: pl.DataFrame, limits: Limits) -> Finding:
    """Return the paper's failure sign: how many prompts of low risk have an uncertain chosen reply.

    Low risk: the lowest third of the pairs by the mean value risk of all K replies. Uncertain: the upper third of
    the pairs by u of the chosen reply. Thirds by rank, so that a third is what chance gives, whatever the scales.
    """
    risk = pl.col("responses").list.eval(pl.element().struct.field("value_risk")).list.mean()
    rows = pairs.select("prompt_id", "u_chosen").join(
        scored.select("prompt_id", risk=risk), on="prompt_id", how="inner"
    )
    rows = rows.filter(pl.col("risk").is_not_null())

    def third(column: str, descending: bool) -> pl.Expr:
        return pl.col(column).round(12).rank("average", descending=descending) <= pl.len() // 3

    rows = rows.with_columns(low=third("risk", False), uncertain=third("u_chosen", True))
    return share(
        "uncertain-low-risk",
        rows.filter("low"),
        pl.col("uncertain"),
        limits,
        "{count} of the {total} pairs with the least risky prompts have a chosen reply among the most uncertain third; "
        "about a third is what chance gives.",
    )


def _length(side: str) -> pl.Expr:
    return pl.col(f"{side}_text").str.len_chars().cast(pl.Int64)
