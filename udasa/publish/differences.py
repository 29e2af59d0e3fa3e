"""Two releases or builds -> which pairs differ, how, and why.

diff(open_data("v1"), open_data("v2")).counts()
-> [("added", "new prompt", 12), ("moved", "thresholds changed", 3), …]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from udasa import recipe, schema
from udasa.release import Opened
from udasa.restage import RESTAGED

Level = Literal["none", "patch", "minor", "major"]

CHANGES = {
    "added": "a pair that was not there",
    "removed": "a pair that is no longer there",
    "flipped": "chosen and rejected changed places",
    "replaced": "another text is chosen or rejected",
    "moved": "another stage",
    "split": "the other split",
    "rescored": "the same two texts with other numbers",
    "relabelled": "another task, domain, source, licence or prompt",
}
"""How a pair can differ; a pair may differ in more than one way."""

REASONS = {
    "new prompt": "the prompt was not scored before",
    "prompt removed": "the prompt is no longer scored",
    "resampled": "the prompt has other responses",
    "scores changed": "the same responses have other raw scores",
    "settings changed": "weights, pairing, calibration or staging differ in the recipe",
    "other rows changed": "its own scores are the same, but u is a rank share within the build, and other rows changed",
    "thresholds changed": "the gap is the same, but the stages' bounds are not",
    "code changed": "made by another version of udasa from the same scores and settings",
    "unexplained": "nothing that decides it differs: one of the two was edited by hand",
}
"""Why it differs: the first of these that holds."""

_LABELS = ("prompt", "task", "domain", "source", "license")
_PLACES = ("stage", "split")
_UNRELATED = ("training", "name", "license", "lint", "staging.thresholds")
"""Settings that may differ without changing a pair's texts or numbers."""


@dataclass(frozen=True)
class Diff:
    """What differs between two data sets."""

    before: str
    after: str
    rows: pl.DataFrame
    """A row a pair that differs: prompt_id, changes (list), reason; stage, split, gap, ids and texts of both."""
    pairs: tuple[int, int]
    """Pairs before and after."""
    responses: dict[str, int]
    """Scored prompts: added, removed, changed."""
    ledger: dict[str, int]
    """Lines of the ledger: added, removed, changed."""
    thresholds: tuple[dict[str, float], dict[str, float]]
    """The stages' bounds, before and after."""
    schemas: list[str]
    """Columns that were added, removed or have another type."""
    settings: list[str]
    """Fields of the recipe that differ, as `field: old -> new`."""

    def counts(self) -> list[tuple[str, str, int]]:
        """Return (change, reason, pairs), a pair once for each of its changes, in the order of `CHANGES`."""
        rows = self.rows.explode("changes").group_by("changes", "reason").len().iter_rows()
        found = [(str(change), str(reason), int(count)) for change, reason, count in rows]
        order, reasons = list(CHANGES), list(REASONS)
        return sorted(found, key=lambda row: (order.index(row[0]), reasons.index(row[1])))

    def level(self) -> Level:
        """Return the part of the version that the difference asks for; `none` if no table, bound or setting differs."""
        changed = [row for row in self.rows["changes"].to_list() if row != ["added"]]
        tables = (self.responses, self.ledger)
        if changed or self.schemas or self.thresholds[0] != self.thresholds[1]:
            return "major"
        if any(table["removed"] or table["changed"] for table in tables):
            return "major"
        if self.rows.height or any(table["added"] for table in tables):
            return "minor"
        return "patch" if self.settings else "none"

    def why(self) -> str:
        """Return the difference in one line."""
        parts = [f"{count} pairs {change} ({reason})" for change, reason, count in self.counts()]
        parts += [f"schema: {line}" for line in self.schemas]
        if self.thresholds[0] != self.thresholds[1]:
            parts.append(f"thresholds {_bounds(self.thresholds[0])} -> {_bounds(self.thresholds[1])}")
        for name, table in (("scored prompts", self.responses), ("ledger lines", self.ledger)):
            parts += [f"{count} {name} {change}" for change, count in table.items() if count]
        return "; ".join(parts) or "no row, threshold or column differs"

    def summary(self) -> dict[str, Any]:
        """Return everything but the rows, as JSON values."""
        return {
            "before": self.before,
            "after": self.after,
            "level": self.level(),
            "pairs": {"before": self.pairs[0], "after": self.pairs[1], "differ": self.rows.height},
            "counts": [{"change": c, "reason": r, "pairs": n} for c, r, n in self.counts()],
            "responses": self.responses,
            "ledger": self.ledger,
            "thresholds": {"before": self.thresholds[0], "after": self.thresholds[1]},
            "schema": self.schemas,
            "settings": self.settings,
        }


def diff(before: Opened, after: Opened) -> Diff:
    """Compare two releases or builds, pair by pair, joined by prompt id.

    Raises:
        UserError: a table of one of them cannot be read.
    """
    old, new = before.frame("pairs"), after.frame("pairs")
    scored = before.frame("scored"), after.frame("scored")
    settings = recipe.differences(before.recipe, after.recipe)
    prompts = _prompts(*scored)
    changed = prompts.filter(pl.col("fate") != "same")
    reason = _reason(
        settings,
        others_changed=not changed.is_empty() and before.facts.get("calibration", {}).get("method") != "isotonic",
        code_changed=before.facts.get("udasa") != after.facts.get("udasa"),
        bounds_changed=before.facts["thresholds"] != after.facts["thresholds"],
    )
    rows = _pairs(old, new).join(prompts, on="prompt_id", how="left").with_columns(reason=reason)
    fates = {"added": "new prompt", "removed": "prompt removed"}
    counted = {name: prompts.filter(fate=fate).height for name, fate in fates.items()}
    keys = ["source", "source_row"]
    return Diff(
        before=before.target,
        after=after.target,
        rows=rows.select("prompt_id", "changes", "reason", *_SHOWN).sort("prompt_id"),
        pairs=(old.height, new.height),
        responses={**counted, "changed": prompts.filter(pl.col("fate").is_in(["resampled", "scores changed"])).height},
        ledger=_lines(before.frame("ledger"), after.frame("ledger"), keys),
        thresholds=(before.facts["thresholds"], after.facts["thresholds"]),
        schemas=[*_columns(old, new, "pairs"), *_columns(*scored, "responses")],
        settings=settings,
    )


_SIDES = ("stage", "split", "gap", "chosen_id", "rejected_id", "chosen", "rejected")
_SHOWN = [f"{name}_{when}" for name in _SIDES for when in ("before", "after")]


def _pairs(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs that differ, with the list of how; `chosen` and `rejected` are the last turn's text."""
    shared = [name for name in old.columns if name in new.columns and name != "prompt_id"]
    numbers = [name for name in shared if old.schema[name].is_numeric()]

    def flat(frame: pl.DataFrame, when: str) -> pl.DataFrame:
        texts = {
            side: pl.col(side).list.last().struct.field("content").fill_null("") for side in ("chosen", "rejected")
        }
        prompt = pl.col("prompt").list.eval(pl.element().struct.json_encode()).list.join("\n")
        values = frame.with_columns(**texts, prompt=prompt)
        return values.select("prompt_id", pl.col(shared).name.suffix(f"_{when}"), pl.lit(True).alias(when))

    both = flat(old, "before").join(flat(new, "after"), on="prompt_id", how="full", coalesce=True)
    differ = {name: pl.col(f"{name}_before").ne_missing(pl.col(f"{name}_after")) for name in shared}
    swapped = (pl.col("chosen_before") == pl.col("rejected_after")) & (
        pl.col("rejected_before") == pl.col("chosen_after")
    )
    there = pl.col("before").is_not_null() & pl.col("after").is_not_null()
    texts = differ["chosen"] | differ["rejected"]
    found = {
        "added": pl.col("before").is_null(),
        "removed": pl.col("after").is_null(),
        "flipped": there & swapped & texts,
        "replaced": there & texts & ~swapped,
        "moved": there & differ["stage"],
        "split": there & differ["split"],
        "rescored": there & ~texts & pl.any_horizontal(differ[name] for name in numbers),
        "relabelled": there & pl.any_horizontal(differ[name] for name in _LABELS if name in differ),
    }
    changes = pl.concat_list(pl.when(test).then(pl.lit(name)) for name, test in found.items()).list.drop_nulls()
    return both.with_columns(changes=changes).filter(pl.col("changes").list.len() > 0)


def _prompts(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Return prompt_id, fate of every scored prompt: `same`, or the reason that its responses give."""

    def flat(frame: pl.DataFrame, when: str) -> pl.DataFrame:
        rows = frame.select("prompt_id", "responses").explode("responses").unnest("responses")
        return rows.with_columns(pl.lit(True).alias(when))

    before, after = flat(old, "before"), flat(new, "after")
    shared = [name for name in before.columns if name in after.columns and name not in ("prompt_id", "response_id")]
    joined = before.join(after, on=["prompt_id", "response_id"], how="full", coalesce=True, suffix="_after")
    differ = {name: pl.col(name).ne_missing(pl.col(f"{name}_after")) for name in shared}
    sampled = {"text", "finish_reason", "seed", "num_tokens"}
    missing = pl.col("before").is_null() | pl.col("after").is_null()
    texts = missing | pl.any_horizontal(differ[name] for name in shared if name in sampled)
    scores = pl.any_horizontal(differ[name] for name in shared if name not in sampled)
    facts = joined.group_by("prompt_id").agg(texts=texts.any(), scores=scores.any())
    where = facts.with_columns(
        is_old=pl.col("prompt_id").is_in(old["prompt_id"].implode()),
        is_new=pl.col("prompt_id").is_in(new["prompt_id"].implode()),
    )
    fate = (
        pl.when(~pl.col("is_old"))
        .then(pl.lit("new prompt"))
        .when(~pl.col("is_new"))
        .then(pl.lit("prompt removed"))
        .when("texts")
        .then(pl.lit("resampled"))
        .when("scores")
        .then(pl.lit("scores changed"))
        .otherwise(pl.lit("same"))
    )
    return where.select("prompt_id", fate=fate)


def _reason(settings: Sequence[str], *, others_changed: bool, code_changed: bool, bounds_changed: bool) -> pl.Expr:
    """Return the first reason of `REASONS` that holds for a row of `_pairs` with its prompt's fate."""
    decisive = [s for s in settings if s.startswith(RESTAGED) and not s.startswith(_UNRELATED)]
    only_moved = pl.col("changes").list.set_difference(["moved"]).list.len() == 0
    relabelled = pl.col("changes").list.contains("relabelled")
    rest = "settings changed" if decisive else "other rows changed" if others_changed else None
    unknown = "code changed" if code_changed else "unexplained"
    own_settings = any(s.startswith(("sources", "system", "license")) for s in settings)
    return (
        pl.when(pl.col("fate") != "same")
        .then(pl.col("fate"))
        .when(only_moved & (pl.col("gap_before") == pl.col("gap_after")))
        .then(pl.lit("thresholds changed" if bounds_changed else unknown))
        .when(relabelled)
        .then(pl.lit("settings changed" if own_settings else unknown))
        .otherwise(pl.lit(rest or unknown))
    )


def _lines(old: pl.DataFrame, new: pl.DataFrame, keys: list[str]) -> dict[str, int]:
    """Count the ledger's lines that were added, removed, or have another prompt or outcome."""
    joined = old.with_columns(before=True).join(
        new.with_columns(after=True), on=keys, how="full", coalesce=True, suffix="_after"
    )
    both = joined.filter(pl.col("before") & pl.col("after"))
    other = pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_after")) for c in ("prompt_id", "outcome", "detail"))
    return {
        "added": joined["before"].null_count(),
        "removed": joined["after"].null_count(),
        "changed": both.filter(other).height,
    }


def _columns(old: pl.DataFrame, new: pl.DataFrame, table: str) -> list[str]:
    """Say which columns differ; the fields of a list of structs count as columns."""
    a, b = _leaves(old.schema), _leaves(new.schema)
    return [
        f"{table}.{name}: {a.get(name, 'absent')} -> {b.get(name, 'absent')}"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def _leaves(columns: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, kind in columns.items():
        inner = kind.inner if isinstance(kind, pl.List) else kind
        if isinstance(inner, pl.Struct):
            found |= {f"{name}.{field.name}": str(field.dtype) for field in inner.fields}
        else:
            found[name] = str(kind)
    return found


def _bounds(thresholds: dict[str, float]) -> str:
    return "/".join(f"{thresholds[stage]:.6g}" for stage in schema.STAGES[:2])
