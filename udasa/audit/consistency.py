"""The responses of a build, scored again -> how far every number and pair comes out the same."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from udasa import flow, maps, recipe, run, schema, uncertainty
from udasa.audit.changes import PairChanges, Row, Side, changes, correlation, finished, paired_values
from udasa.digests import stable_hash
from udasa.recipe import Recipe
from udasa.run import Progress, silent
from udasa.statistics import Estimate

PROMPT_NUMBERS = ("semantic_entropy",)
"""Numbers of a prompt, not of a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One second scoring against the first."""

    name: str
    varied: str
    """What was different, as a sentence."""
    spearman: Mapping[str, Estimate]
    """Rank correlation of every number that both have, resampled by prompt: of a response's numbers over responses, of
    a prompt's over prompts, of the gap over prompts with a pair in both."""
    largest_difference: Mapping[str, float]
    """Largest absolute difference of each, in its own unit."""
    pairs: PairChanges


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """The same inputs scored again."""

    recipe: str
    prompts: int
    responses: int
    seed: int
    comparisons: tuple[Comparison, ...]


def to_json(found: Consistency) -> str:
    """Return the audit as JSON."""
    return json.dumps(dataclasses.asdict(found), indent=2, allow_nan=False) + "\n"


def consistency(build: Path, output: Path, seed: int = 1, progress: Progress = silent) -> Consistency:
    """Score the responses of a finished build twice, and with less evidence, and compare.

    Everything is made from `responses/` alone. `rescored` runs the models again with all that should not matter
    changed: prompts in another order and other shards, the responses of each prompt in another order, the models'
    batches half as large, another seed (it decides where pairing is random). The other comparisons leave out a piece of
    evidence and need no model, since the first scoring has stored what they are made of: `one-response-fewer` scores
    every response without what one other, drawn for it, says about it; `one-principle-fewer` without one principle (or
    one member of a trained judge), drawn for each prompt. Only the columns that this can change are compared.

    `output` keeps both scorings, each with its own answers of the entailer; an audit that was stopped goes on.

    Raises:
        UserError: the build is not finished, or `output` holds something else.
    """
    settings = finished(build)
    again = second_settings(settings, seed)
    for name, arm in (("first", settings), ("second", again)):
        _prepare(output / name, build, arm, seed if name == "second" else None)
        steps = flow.steps(arm, output / name)
        source, step = next(one for one in steps if one[1].name == "scored")
        run.run_local(output / name, source, step, _named(progress, f"score {name}"))
    first, second = (run.read(output / name, "scored") for name in ("first", "second"))
    fitted = maps.load(settings.calibration, settings.measures, settings.weights)
    again_is = "The models ran again: prompts and responses in another order, batches half as large, another seed."
    arms: list[tuple[str, str, tuple[str, ...], pa.Table, Recipe]] = [
        ("rescored", again_is, (*schema.SCORES, *PROMPT_NUMBERS), second, again)
    ]
    fewer_is = "Of every response, one other response, drawn for it, is not heard."
    columns: tuple[str, ...] = ("semantic_uncertainty", "factual_uncertainty")
    arms.append(("one-response-fewer", fewer_is, columns, _fewer_responses(first, seed), settings))
    if len(settings.judge_answers) > 1:
        fewer_is = "One principle (of a trained judge: one member), drawn for each prompt, is not asked."
        columns = ("value_uncertainty", "value_disagreement", "value_risk")
        arms.append(("one-principle-fewer", fewer_is, columns, _fewer_principles(first, seed), settings))
    found = Consistency(
        recipe=recipe.digest(settings),
        prompts=first.num_rows,
        responses=int(pl.DataFrame(pl.from_arrow(first.select(["responses"])))["responses"].list.len().sum()),
        seed=seed,
        comparisons=tuple(
            _compare(name, varied, columns, Side.made(first, settings, fitted), Side.made(table, arm, fitted))
            for name, varied, columns, table, arm in arms
        ),
    )
    run.write_file(output / "consistency.json", to_json(found).encode())
    return found


def second_settings(settings: Recipe, seed: int) -> Recipe:
    """Return the recipe with everything changed that should not change a score: batch sizes, shards, the seed."""
    entailer = settings.entailment.model
    halved = dataclasses.replace(entailer, batch_tokens=max(1, entailer.batch_tokens // 2))
    judge = settings.judge_model
    judging = dataclasses.replace(
        settings.judging, model=dataclasses.replace(judge, batch_tokens=max(1, judge.batch_tokens // 2))
    )
    return dataclasses.replace(
        settings,
        entailment=dataclasses.replace(settings.entailment, model=halved),
        judging=judging,
        shard_size=max(1, settings.shard_size // 2 + 1),
        seed=stable_hash(settings.seed, "audit", seed),
    )


def _prepare(folder: Path, build: Path, settings: Recipe, seed: int | None) -> None:
    """Claim a folder for one scoring and put the responses there: as they are, or (with a seed) in another order."""
    flow.claim(folder, settings)
    flow.pin_models(settings, folder)
    table = run.read(build, "responses")
    for field in schema.RESPONSES:
        if field.nullable and field.name not in table.column_names:  # a build of an older version
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    table = schema.conform(table, schema.RESPONSES)
    if seed is not None:
        table = _reordered(table, seed)
    for number, start in enumerate(range(0, table.num_rows, settings.shard_size)):
        path = folder / "responses" / f"{number:05d}.parquet"
        if not run.is_done(path):
            run.write_shard(path, table.slice(start, settings.shard_size))


def _reordered(table: pa.Table, seed: int) -> pa.Table:
    """Return the rows, and the responses of each, in the order of a hash."""
    rows = [
        {**row, "responses": sorted(row["responses"], key=lambda r: stable_hash(seed, "order", r["response_id"]))}
        for row in table.to_pylist()
    ]
    rows.sort(key=lambda row: stable_hash(seed, "order", row["prompt_id"]))
    return pa.Table.from_pylist(rows, table.schema)


def _named(progress: Progress, name: str) -> Progress:
    return lambda _, total: progress(name, total)


def _fewer_responses(scored: pa.Table, seed: int) -> pa.Table:
    """Score every response again without what one other, drawn for it, says about it."""

    def change(row: Row) -> Row:
        responses = row["responses"]
        return {**row, "responses": [without(responses, i, _other(responses, i, seed)) for i in range(len(responses))]}

    return _changed(scored, change)


def _other(responses: Sequence[Row], i: int, seed: int) -> int:
    others = [j for j in range(len(responses)) if j != i]
    return others[stable_hash(seed, "response", responses[i]["response_id"]) % len(others)] if others else i


def without(responses: Sequence[Row], i: int, gone: int) -> Row:
    """Return response i as it would have scored if response `gone` had not been drawn.

    Semantic and factual uncertainty are exactly what a scoring of the others gives; the other columns stay.
    """
    response = responses[i]
    rest = [j for j in range(len(responses)) if j != gone or j == i]
    known = [responses[j]["logprob_mean"] for j in rest]
    log_likelihood = None if None in known else np.array(known, dtype=np.float64)
    kernel = np.tile([response["agreement"][j] for j in rest], (len(rest), 1))
    said = [s for s in (response["support"] or ()) if s is not None]
    if response["support"] is not None and response["support"][gone] is not None:
        said.remove(response["support"][gone])
    return {
        **response,
        "semantic_uncertainty": float(uncertainty.semantic_uncertainty(kernel, log_likelihood)[0]),
        "factual_uncertainty": uncertainty.factual_uncertainty(np.array([said])),
    }


def _fewer_principles(scored: pa.Table, seed: int) -> pa.Table:
    """Score again without one principle, drawn for each prompt."""

    def change(row: Row) -> Row:
        return {**row, "responses": [_principled(r, row["prompt_id"], seed) for r in row["responses"]]}

    return _changed(scored, change)


def _principled(response: Row, prompt_id: str, seed: int) -> Row:
    if response["acceptable"] is None:
        return response
    gone = stable_hash(seed, "principle", prompt_id) % len(response["acceptable"])
    p = np.delete(np.array(response["acceptable"]), gone)[:, None]
    entropy = uncertainty.value_uncertainty(p)
    return {
        **response,
        "value_uncertainty": entropy.total,
        "value_disagreement": entropy.disagreement,
        "value_risk": uncertainty.value_risk(p),
    }


def _changed(scored: pa.Table, change: Callable[[Row], Row]) -> pa.Table:
    return pa.Table.from_pylist([change(row) for row in scored.to_pylist()], schema.SCORED)


def _compare(name: str, varied: str, columns: Sequence[str], a: Side, b: Side) -> Comparison:
    """Compare two scorings in these columns, in u and in the gap."""
    frames = {
        column: paired_values(a.per_prompt, b.per_prompt, column)
        if column in ("gap", *PROMPT_NUMBERS)
        else paired_values(a.responses, b.responses, column, "response_id")
        for column in (*columns, "u", "gap")
    }
    frames = {column: frame for column, frame in frames.items() if not frame.is_empty()}
    largest = {c: max(abs(x - y) for _, x, y in frame.iter_rows()) for c, frame in frames.items()}
    correlations = {c: correlation(frame, f"{name} {c}") for c, frame in frames.items()}
    return Comparison(name=name, varied=varied, spearman=correlations, largest_difference=largest, pairs=changes(a, b))
