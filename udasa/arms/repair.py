"""A release -> other pairs from its stored scores, by the build's own pairing and staging; no model runs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa

from udasa import maps, pairing, schema
from udasa.arms.order import ONE_STAGE
from udasa.backends import ModelSpec
from udasa.digests import stable_hash
from udasa.errors import UserError
from udasa.recipe import Calibration, Measures, Recipe, Weights, can_bound_gaps
from udasa.release import Opened

Pair = Callable[[Opened, ModelSpec], pl.DataFrame]
"""A release and the policy to be trained -> all pairs of an arm, both splits: prompt_id, prompt, chosen, rejected,
stage, split, and any others."""


def published(opened: Opened, policy: ModelSpec) -> pl.DataFrame:
    """Return the pairs of the release."""
    return opened.frame("pairs")


def weighted(**changes: float) -> Pair:
    """Return a function that pairs and stages with other weights of the dimensions, as `udasa restage` would."""

    def pair(opened: Opened, policy: ModelSpec) -> pl.DataFrame:
        found = {name: getattr(opened.recipe.weights, name) for name in schema.DIMENSIONS} | changes
        if not any(found.values()):
            raise UserError(
                f"{opened.target} weighs no dimension but {', '.join(changes)}, so nothing is left without it. "
                "Choose other arms."
            )
        return _repaired(opened, with_weights(opened.recipe, Weights(**found)))

    return pair


def with_weights(settings: Recipe, weights: Weights) -> Recipe:
    """Set the weights; where no dimension is left whose gap could be bounded, do without intervals."""
    if can_bound_gaps(weights, settings.measures):
        return dataclasses.replace(settings, weights=weights)
    return dataclasses.replace(
        settings,
        weights=weights,
        pairing=dataclasses.replace(settings.pairing, gap_resamples=0),
        staging=dataclasses.replace(settings.staging, abstain=False),
    )


def extreme(opened: Opened, policy: ModelSpec) -> pl.DataFrame:
    """Pair with the most uncertain response as rejected."""
    most = dataclasses.replace(opened.recipe.pairing, rejected="max")
    return _repaired(opened, dataclasses.replace(opened.recipe, pairing=most))


def judged(opened: Opened, policy: ModelSpec) -> pl.DataFrame:
    """Take two of the K responses by a hash of their ids, and choose the one of less risk to the judge."""
    seed, table = opened.recipe.seed, _scored(opened)

    def two(responses: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(responses, key=lambda one: stable_hash(seed, "two responses", one["response_id"]))[:2]

    place = table.schema.get_field_index("responses")
    field = table.schema.field(place)
    taken = pa.array([two(row) for row in table[place].to_pylist()], field.type)
    return _by_risk(opened, table.set_column(place, field, taken))


def self_rewarded(opened: Opened, policy: ModelSpec) -> pl.DataFrame:
    """Pair the responses of least and of most risk to the judge, which is the policy itself.

    Raises:
        UserError: the judge was another model.
    """
    if opened.recipe.judge_model != opened.recipe.policy:
        raise UserError(
            f"The arm self-rewarding needs a policy that judged itself; in {opened.target} the judge is "
            f"{opened.recipe.judge_model.model}. Leave the arm out, or build with judging.model None."
        )
    return _by_risk(opened, _scored(opened))


def _by_risk(opened: Opened, scored: pa.Table) -> pl.DataFrame:
    """Pair by the judge's risk alone: least against most, with no ceiling, in one stage."""
    settings = dataclasses.replace(
        opened.recipe,
        weights=Weights(semantic=0.0, factual=0.0, value=1.0),
        measures=Measures(value="value_risk"),
        calibration=Calibration(),
        pairing=dataclasses.replace(opened.recipe.pairing, rejected="max", risk_ceiling=1.0, gap_resamples=0),
        staging=dataclasses.replace(opened.recipe.staging, thresholds=None, abstain=False),
    )
    return _paired(scored, settings, None).with_columns(stage=pl.lit(ONE_STAGE))


def _repaired(opened: Opened, settings: Recipe) -> pl.DataFrame:
    return _paired(_scored(opened), settings, maps.recorded(opened.facts))


def _paired(scored: pa.Table, settings: Recipe, fitted: maps.Maps | None) -> pl.DataFrame:
    tables: list[pa.Table] = []
    pairing.pair_and_stage(pairing.of_table(scored), settings, fitted, lambda _, table: tables.append(table))
    return pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))


def _scored(opened: Opened) -> pa.Table:
    return schema.conform(opened.frame("scored").to_arrow(compat_level=pl.CompatLevel.oldest()), schema.SCORED)
