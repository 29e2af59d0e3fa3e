"""Two scorings of the same prompts -> what became of the pairs, and how far the numbers agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from udasa import maps, recipe, run, schema
from udasa.calibrate import calibrate
from udasa.errors import UserError
from udasa.pairing import of_table, pair_and_stage
from udasa.pairs import normal
from udasa.recipe import Recipe
from udasa.statistics import Estimate, share, spearman

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairChanges:
    """What became of the pairs; shares are of the first's pairs unless said otherwise."""

    before: int
    """Pairs of the first."""
    after: int
    """Pairs of the second."""
    kept: Estimate
    """The same two texts in the same roles. Kept, flipped, replaced and dropped add up to 1."""
    flipped: Estimate
    """The same two texts, the chosen one now rejected."""
    replaced: Estimate
    """A pair in the second too, but with another text on one side at least."""
    dropped: Estimate
    """No pair in the second."""
    added: Estimate
    """A pair only in the second; of the common prompts without a pair in the first."""
    reversed: Estimate
    """u of the second orders the two texts the other way; of the pairs whose texts both have a u in the second."""
    moved: Estimate
    """Another stage; of the prompts with a pair in both."""
    moves: Mapping[str, int]
    """Prompts by `<stage before> -> <stage after>`, of those with a pair in both."""
    reasons: Mapping[str, int]
    """Why the dropped ones were dropped, by outcome."""


@dataclass(frozen=True, slots=True)
class Side:
    """One scoring with its pairs, by prompt id."""

    prompts: Mapping[str, str]
    """The outcome of every prompt."""
    pairs: Mapping[str, Row]
    """prompt_id, chosen, rejected (normalised texts), gap, stage."""
    u: Mapping[tuple[str, str], float]
    """u by prompt id and normalised text: the mean where several responses have that text."""
    per_prompt: pl.DataFrame
    """prompt_id, semantic_entropy, mean_u, gap."""
    responses: pl.DataFrame

    @classmethod
    def of(cls, folder: Path, settings: Recipe) -> "Side":
        """Read a finished build; its pairs are made again from its scores."""
        return cls.made(
            run.read(folder, "scored"), settings, maps.load(settings.calibration, settings.measures, settings.weights)
        )

    @classmethod
    def made(cls, scored: pa.Table, settings: Recipe, fitted: maps.Maps | None) -> "Side":
        """Pair and stage scored rows."""
        responses = calibrate(scored, settings.weights, settings.measures, fitted)
        made: list[pa.Table] = []
        staged = pair_and_stage(of_table(scored), settings, fitted, lambda _, some: made.append(some))
        table = pl.DataFrame(pl.from_arrow(pa.concat_tables(made)))
        text = {side: pl.col(side).list.first().struct.field("content") for side in ("chosen", "rejected")}
        pairs = table.select("prompt_id", "gap", "stage", **{side: normal(expr) for side, expr in text.items()})
        known = responses.filter(pl.col("u").is_not_null()).group_by("prompt_id", text=normal(pl.col("text")))
        per_prompt = responses.group_by("prompt_id").agg(pl.col("semantic_entropy").first(), mean_u=pl.col("u").mean())
        return cls(
            prompts=dict(staged.outcomes.select("prompt_id", "outcome").iter_rows()),
            pairs={row["prompt_id"]: row for row in pairs.iter_rows(named=True)},
            u={(prompt, text): u for prompt, text, u in known.agg(pl.col("u").mean()).iter_rows()},
            per_prompt=per_prompt.join(pairs.select("prompt_id", "gap"), on="prompt_id", how="left"),
            responses=responses,
        )


def changes(a: Side, b: Side) -> PairChanges:
    """Return what became of a's pairs in b, over the prompts that both have."""
    common = a.prompts.keys() & b.prompts.keys()
    was = {name: pair for name, pair in a.pairs.items() if name in common}
    now = {name: pair for name, pair in b.pairs.items() if name in common}
    both = sorted(was.keys() & now.keys())
    roles = {
        name: ((was[name]["chosen"], was[name]["rejected"]), (now[name]["chosen"], now[name]["rejected"]))
        for name in both
    }
    kept = sum(old == new for old, new in roles.values())
    flipped = sum(old == new[::-1] for old, new in roles.values())
    comparable = [
        (b.u[name, pair["chosen"]], b.u[name, pair["rejected"]])
        for name, pair in was.items()
        if (name, pair["chosen"]) in b.u and (name, pair["rejected"]) in b.u
    ]
    moves = [(was[name]["stage"], now[name]["stage"]) for name in both]
    gone = [b.prompts[name] for name in was.keys() - now.keys()]
    return PairChanges(
        before=len(was),
        after=len(now),
        kept=share(kept, len(was)),
        flipped=share(flipped, len(was)),
        replaced=share(len(both) - kept - flipped, len(was)),
        dropped=share(len(gone), len(was)),
        added=share(len(now) - len(both), len(common) - len(was)),
        reversed=share(sum(chosen > rejected for chosen, rejected in comparable), len(comparable)),
        moved=share(sum(old != new for old, new in moves), len(both)),
        moves={f"{x} -> {y}": moves.count((x, y)) for x in schema.STAGES for y in schema.STAGES},
        reasons={reason: gone.count(reason) for reason in schema.OUTCOMES if reason in gone},
    )


def finished(build: Path) -> Recipe:
    """Return the recipe of a finished build.

    Raises:
        UserError: there is none.
    """
    if not (build / "build.json").is_file():
        raise UserError(f"{build} holds no finished build (no build.json). Run udasa build to the end first.")
    return recipe.from_json((build / "recipe.json").read_text(encoding="utf-8"), origin=str(build / "recipe.json"))


def paired_values(a: pl.DataFrame, b: pl.DataFrame, column: str, key: str = "prompt_id") -> pl.DataFrame:
    """Return prompt_id, before, after of the rows where both have a value, in the order of the key."""
    after = b.select(key, after=pl.col(column))
    rows = a.select({key, "prompt_id"}, before=pl.col(column)).join(after, on=key, validate="1:1")
    return rows.drop_nulls().sort(key).select("prompt_id", "before", "after")


def correlation(frame: pl.DataFrame, seed: str) -> Estimate:
    """Return the rank correlation of before and after, resampled by prompt; equal values as in ranks."""
    x, y = (frame[side].round(maps.DIGITS).to_numpy() for side in ("before", "after"))
    return spearman(x, y, frame["prompt_id"].to_list(), "audit", seed)
