"""One experiment: the pairs of its arms, its cells, its table; see `udasa.experiment`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from udasa import arms, backends_hf, run
from udasa.backends import Floats
from udasa.errors import UserError, require
from udasa.evaluate import evaluate, results
from udasa.experiment.outcomes import Outcome, compare, plain, to_markdown
from udasa.heldout import HeldOut, held_out, is_held_out
from udasa.probe import Values, base_logprobs, by_stage, probe
from udasa.recipe import Recipe, Training
from udasa.release import Opened, open_data
from udasa.run import Progress, silent
from udasa.train import train_stages
from udasa.train.data import COLUMNS
from udasa.train.preflight import pair_tokens, preflight

if TYPE_CHECKING:
    from datasets import Dataset

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
    data: str, output: Path, *, settings: Recipe, plan: Plan | None = None, progress: Progress = silent
) -> list[Outcome]:
    """Train every arm with every seed under one budget, measure each on the same held-out items, and compare.

    Args:
        data: a release (folder, or Hub id with `@revision`) or a finished build.
        output: where it goes; what is done there is not done again.
        settings: the policy and its training.
        plan: arms, seeds and measurements.
        progress: shown the optimiser steps.

    Raises:
        UserError: the folder holds another experiment, the data are too few for the budget, or training fails.
    """
    plan = plan or Plan()
    for module in ("trl", "peft"):
        require(module, extra="train")
    opened = open_data(data)
    _claim(output, opened, settings, plan)
    held = held_out(opened, max_length=settings.training.max_length, share=plan.holdout)
    work = _Work(output, settings, plan, held, progress)
    rows = _pairs(work, opened)
    base = _base(work)
    cells = {}
    for seed in plan.seeds:  # seed by seed, so that a run cut short has tried every arm
        for name in plan.arms:
            cells[name, seed] = _cell(work, name, seed, rows[name], base.logprobs)
    found = compare(cells, base.values)
    run.write_file(output / "results.md", to_markdown(found).encode())
    run.write_file(output / "results.json", _json(plain(found)))
    return found


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


def _claim(output: Path, opened: Opened, settings: Recipe, plan: Plan) -> None:
    """Take the folder for this experiment; seeds may be added later.

    Raises:
        UserError: another experiment is there.
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
    now = json.loads(
        _json(
            {
                "data": opened.facts.get("recipe_digest"),
                "pairs": _digest(opened.frame("pairs")),
                "policy": backends_hf.identity(settings.policy),
                "training": TypeAdapter(Training).dump_python(settings.training, mode="json"),
                **{name: value for name, value in asdict(plan).items() if name != "seeds"},
            }
        )
    )
    path = output / "experiment.json"
    if path.is_file():
        before = json.loads(path.read_bytes())
        if changed := [name for name in now if before.get(name) != now[name]]:
            raise UserError(
                f"{output} holds another experiment; these differ: "
                + "; ".join(f"{name} is {before.get(name)!r} there and {now[name]!r} now" for name in changed)
                + ". Use a new folder, or what began this one."
            )
    run.write_file(path, _json(now))


def _pairs(work: _Work, opened: Opened) -> dict[str, pl.DataFrame]:
    """Return the pairs of every arm, level; made once."""
    paths = {name: work.output / "pairs" / f"{name}.parquet" for name in work.plan.arms}
    if not (work.output / "budget.json").is_file():
        training, made = work.settings.training, {}
        tokenizer = backends_hf.load_chat_tokenizer(work.settings.policy)
        for name, arm in arms.find(work.plan.arms).items():
            if arm.pair not in made:
                rows = arms.train_pairs(arm, opened, work.settings.policy, training.stages)
                rows = rows.filter(~is_held_out(rows, opened, work.plan.holdout))
                fit = preflight({name: as_dataset(rows)}, tokenizer, training.max_length).fits[name]
                made[arm.pair] = rows.filter(pl.col("prompt_id").is_in(list(fit.pairs["prompt_id"])))
        found = {name: made[arms.ARMS[name].pair] for name in work.plan.arms}
        found = arms.level(found, training.batch_size, work.settings.seed)
        for name, rows in found.items():
            run.write_shard(paths[name], rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
        run.write_file(work.output / "budget.json", _json(_budget(found, tokenizer, training)))
    return {name: pl.DataFrame(pl.from_arrow(run.read_parquet(path))) for name, path in paths.items()}


def _budget(found: Mapping[str, pl.DataFrame], tokenizer: Any, training: Training) -> dict[str, Any]:
    """Say what each arm sees: pairs, optimiser steps, and the tokens of both sides with their prompts in an epoch."""

    def tokens(rows: pl.DataFrame) -> int:
        read = (pair_tokens(tokenizer, row) for row in rows.to_dicts())
        return sum(min(training.max_length, len(side)) for one in read for side in (one.chosen, one.rejected))

    return {
        name: {
            "pairs": rows.height,
            "steps": int(training.epochs) * rows.height // training.batch_size,
            "tokens": tokens(rows),
            "stages": dict(rows.group_by("stage").len().sort("stage").iter_rows()),
        }
        for name, rows in found.items()
    }


def as_dataset(rows: pl.DataFrame) -> "Dataset":
    """Return pairs as the trainer takes them."""
    from datasets import Dataset

    return Dataset.from_list(rows.select(COLUMNS).to_dicts())


def arm_pairs(name: str, opened: Opened, settings: Recipe) -> dict[str, "Dataset"]:
    """Return the stages of one arm with all its training pairs, as `udasa.train` takes them: no budget, no holdout.

    Raises:
        UserError: there is no such arm, or the release does not fit it.
    """
    arm, stages = arms.find([name])[name], settings.training.stages
    rows = arms.train_pairs(arm, opened, settings.policy, stages)
    return {stage: as_dataset(part) for stage, part in arm.arrange(rows, stages, settings.training.seed).items()}


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


def _cell(work: _Work, name: str, seed: int, rows: pl.DataFrame, logprobs: Floats) -> Values:
    """Train one arm with one seed and measure it, once."""
    folder, arm = work.output / "cells" / f"{name}-{seed}", arms.ARMS[name]
    path = folder / "cell.json"
    if not path.is_file():
        policy, training = work.settings.policy, replace(arms.training_of(arm, work.settings.training), seed=seed)
        staged = {s: as_dataset(part) for s, part in arm.arrange(rows, training.stages, seed).items()}
        trained = train_stages(staged, folder, policy=policy, training=training, progress=work.progress)
        steps = json.loads((work.output / "budget.json").read_bytes())[name]["steps"]
        took = sum(result.steps for result in trained.results)
        assert took == steps, f"{name} took {took} steps; its budget is {steps}"
        values = by_stage(probe(policy, work.held, adapter=trained.adapter, base_logprobs=logprobs), work.held)
        values |= _suite(work, folder, trained.adapter)
        run.write_file(path, _json({"values": values, "stages": [asdict(result) for result in trained.results]}))
    found: Values = json.loads(path.read_bytes())["values"]
    return found


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
