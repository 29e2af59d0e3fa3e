"""One experiment: the pairs of its arms, its cells, its table; see `udasa.experiment`."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from udasa import arms, run
from udasa.backends import Floats
from udasa.errors import DivergedError, UserError, changes, require
from udasa.evaluate import evaluate, results
from udasa.experiment.outcomes import Outcome, compare, plain, to_markdown
from udasa.experiment.pairs import as_dataset, level_pairs
from udasa.heldout import HeldOut, held_out
from udasa.probe import Values, base_logprobs, by_stage, probe
from udasa.recipe import Recipe
from udasa.release import Opened, open_data
from udasa.run import Progress, silent
from udasa.train import pin, train_stages

log = logging.getLogger(__name__)

CLAIM = "experiment.json"
"""What the experiment is; written once its pairs are known to be enough."""

BUDGET = "budget.json"
"""What each arm sees, and what was found about its pairs."""

DEFAULT_ARMS = ("staged", "single", "reversed", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is tried, and on what it is measured."""

    arms: tuple[str, ...] = DEFAULT_ARMS
    """The first is what the others are compared with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of initialisation, shuffling and the arm `random`."""
    holdout: float = 0.1
    """Share of the prompts, by hash, that no arm trains on; the release's test split is among them."""
    tasks: tuple[str, ...] = ()
    """lm-eval tasks that every cell is also evaluated on."""
    limit: int | None = None
    """Only the first documents of each task."""

    def __post_init__(self) -> None:
        """Check the values."""
        arms.find(self.arms)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"Give one or more different seeds, got {self.seeds}.")
        if not 0 < self.holdout < 1:
            raise UserError(f"holdout must be a share between 0 and 1, got {self.holdout}.")


def experiment(
    data: str,
    output: Path,
    *,
    settings: Recipe,
    plan: Plan | None = None,
    allow_overlap: bool = False,
    progress: Progress = silent,
) -> list[Outcome]:
    """Train every arm with every seed under one budget, measure each on the same held-out items, and compare.

    An arm that diverges with a seed is left out of the table, and named: its other seeds alone would flatter it.

    Args:
        data: a release (folder, or Hub id with `@revision`) or a finished build.
        output: where it goes; what is done there is not done again.
        settings: the policy and its training.
        plan: arms, seeds and measurements.
        allow_overlap: train in spite of prompts that are held out, or in the evaluation; they are recorded.
        progress: shown the optimiser steps.

    Raises:
        LimitError: training prompts are held out, or in the evaluation, beyond the recipe's limits.
        UserError: the folder holds another experiment, the data are too few for the budget, or training fails.
    """
    plan = plan or Plan()
    for module in ("trl", "peft"):
        require(module, extra="train")
    opened = open_data(data)
    _refuse_other(output, _claim(opened, settings, plan))
    held = held_out(opened, max_length=settings.training.max_length, share=plan.holdout)
    work = _Work(output, settings, plan, held, progress)
    rows = _pairs(work, opened, allow_overlap)
    base = _base(work)
    cells = {  # seed by seed, so that a run cut short has tried every arm
        (name, seed): _cell(work, name, seed, rows[name], base.logprobs) for seed in plan.seeds for name in plan.arms
    }
    diverged = {name: seed for (name, seed), values in cells.items() if values is None}
    stand = {at: values for at, values in cells.items() if values is not None and at[0] not in diverged}
    if not stand:
        raise UserError(f"Every arm diverged: {_said(diverged)}. Lower the learning rate, in a new folder.")
    found = compare(stand, base.values)
    table = to_markdown(found) + (f"\nLeft out, for they diverged: {_said(diverged)}.\n" if diverged else "")
    run.write_file(output / "results.md", table.encode())
    run.write_file(output / "results.json", _json(plain(found)))
    return found


def _said(diverged: Mapping[str, int]) -> str:
    return ", ".join(f"{name} with seed {seed}" for name, seed in diverged.items())


class _Work(NamedTuple):
    """What every part of the experiment is told."""

    output: Path
    settings: Recipe
    plan: Plan
    held: HeldOut
    progress: Progress


class _Base(NamedTuple):
    """The untrained policy: its values, and its log-probabilities of the held-out pairs."""

    values: Values
    logprobs: Floats


def _claim(opened: Opened, settings: Recipe, plan: Plan) -> dict[str, Any]:
    """Return what the experiment is, as JSON values; seeds may be added later.

    Raises:
        UserError: the arms would differ in more than the arm.
    """
    training = settings.training
    if training.epochs != int(training.epochs) or training.max_steps is not None:
        raise UserError(
            "An experiment counts whole epochs, so that every arm takes as many steps; got epochs "
            f"{training.epochs} and max_steps {training.max_steps}."
        )
    if training.overrides or training.replay or training.tuning == "full":
        raise UserError(
            "In an experiment the arms differ in nothing but the arm, and each is an adapter: leave out training."
            "overrides and training.replay, and set training.tuning to lora or qlora."
        )
    facts = {
        "data": opened.facts.get("recipe_digest"),
        "pairs": _digest(opened.frame("pairs")),
        **pin(settings.policy, training),
        **{name: value for name, value in asdict(plan).items() if name != "seeds"},
    }
    found: dict[str, Any] = json.loads(_json(facts))
    return found


def _refuse_other(output: Path, now: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another experiment."""
    path = output / CLAIM
    if path.is_file() and (changed := changes(json.loads(path.read_bytes()), now)):
        raise UserError(
            f"{output} holds another experiment; these differ (there -> now): {'; '.join(changed)}. "
            "Use a new folder, or what began this one."
        )


def _pairs(work: _Work, opened: Opened, allow_overlap: bool) -> dict[str, pl.DataFrame]:
    """Return the pairs of every arm, level; made once, and the folder taken for them."""
    paths = {name: work.output / "pairs" / f"{name}.parquet" for name in work.plan.arms}
    if not (work.output / BUDGET).is_file():
        plan, settings = work.plan, work.settings
        found = level_pairs(opened, settings, plan.arms, work.held, plan.holdout, allow_overlap)
        run.write_file(work.output / CLAIM, _json(_claim(opened, settings, plan)))
        for name, one in found.items():
            run.write_shard(paths[name], one.rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
        run.write_file(work.output / BUDGET, _json({name: one.budget for name, one in found.items()}))
    return {name: pl.DataFrame(pl.from_arrow(run.read_parquet(path))) for name, path in paths.items()}


def _base(work: _Work) -> _Base:
    """Measure the untrained policy, once."""
    path = work.output / "base.json"
    if not path.is_file():
        policy = work.settings.policy
        logprobs = base_logprobs(policy, work.held)
        values = by_stage(probe(policy, work.held, base_logprobs=logprobs), work.held)
        values |= _suite(work, work.output / "base", None)
        run.write_file(path, _json({"values": values, "logprobs": logprobs.tolist()}))
    known = json.loads(path.read_bytes())
    return _Base(known["values"], np.array(known["logprobs"]))


def _cell(work: _Work, name: str, seed: int, rows: pl.DataFrame, logprobs: Floats) -> Values | None:
    """Train one arm with one seed and measure it, once; None: it diverged."""
    path = work.output / "cells" / f"{name}-{seed}" / "cell.json"
    if not path.is_file():
        try:
            done = _train(work, name, seed, rows, logprobs)
        except DivergedError as error:
            done = {"diverged": str(error)}
        run.write_file(path, _json(done))
    found = json.loads(path.read_bytes())
    if "diverged" in found:
        log.warning("%s diverged with seed %d: %s", name, seed, found["diverged"])
    values: Values | None = found.get("values")
    return values


def _train(work: _Work, name: str, seed: int, rows: pl.DataFrame, logprobs: Floats) -> dict[str, Any]:
    """Return what a cell comes to: every item's values, and the stages."""
    folder, arm, policy = work.output / "cells" / f"{name}-{seed}", arms.ARMS[name], work.settings.policy
    training = replace(arms.training_of(arm, work.settings.training), seed=seed)
    staged = {s: as_dataset(part) for s, part in arm.arrange(rows, training.stages, seed).items()}
    trained = train_stages(staged, folder, policy=policy, training=training, progress=work.progress)
    steps = json.loads((work.output / BUDGET).read_bytes())[name]["steps"]
    took = sum(result.steps for result in trained.results)
    assert took == steps, f"{name} took {took} steps; its budget is {steps}"
    values = by_stage(probe(policy, work.held, adapter=trained.adapter, base_logprobs=logprobs), work.held)
    values |= _suite(work, folder, trained.adapter)
    return {"values": values, "stages": [asdict(result) for result in trained.results]}


def _suite(work: _Work, folder: Path, adapter: Path | None) -> Values:
    """Run the lm-eval tasks of the plan; an item is a cluster of documents, its value their mean."""
    if not work.plan.tasks:
        return {}
    target, found = folder / "eval", {}
    done = evaluate(
        work.settings.policy,
        target,
        adapter=adapter,
        tasks=work.plan.tasks,
        limit=work.plan.limit,
        progress=work.progress,
    )
    for task, result in done.tasks.items():
        samples = results.scores(results.read_samples(target, result))
        for metric, values in samples.values.items():
            clusters = [samples.clusters[document] for document in values]
            means = pl.DataFrame({"cluster": clusters, "value": list(values.values())}).group_by("cluster").mean()
            found[f"{task} {metric}"] = dict(means.sort("cluster").iter_rows())
    return found


def _digest(pairs: pl.DataFrame) -> str:
    """Return the sha256 of the pairs' bytes."""
    return hashlib.sha256(run.parquet_bytes(pairs.to_arrow(compat_level=pl.CompatLevel.oldest()))).hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
