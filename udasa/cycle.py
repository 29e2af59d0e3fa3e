"""A recipe -> cycles of build, train and measure: each builds from the policy that the one before it trained.

out/1/build  out/1/training  out/1/policy     the pairs, the stages' adapters, and the adapter merged into its base
out/1/cycle.json                              what every item came to, written last
out/cycles.json  cycles.md                    cycle over cycle: drift, diversity, forgetting
"""

import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from udasa import backends_hf, flow, run
from udasa.backends import ModelSpec
from udasa.errors import UserError, require
from udasa.experiment import Outcome, arm_pairs, compare, plain, to_markdown
from udasa.heldout import HeldOut, held_out
from udasa.probe import METRICS, Metric, Values, by_stage, probe
from udasa.recipe import Recipe
from udasa.release import Opened, open_data
from udasa.run import Progress, silent
from udasa.train import models, train_stages

SAMPLED: Mapping[str, Metric] = {
    "semantic-sets": Metric("sets a prompt", None, "different meanings among the K responses"),
    "distinct-2": Metric("share", None, "different pairs of adjacent words among all of them, over the K responses"),
    "sampled-length": Metric("tokens", None, "mean length of the K responses"),
    "paired": Metric("share", None, "prompts that made a pair"),
}
"""What a cycle's build says of the policy that it sampled from, by prompt."""


def cycle(settings: Recipe, output: Path, cycles: int, progress: Progress = silent) -> list[Outcome]:
    """Build, train and measure `cycles` times; the policy of each is the merged outcome of the one before.

    Every cycle asks the same prompts and holds the same ones out. What was trained is measured on the first cycle's
    held-out pairs and against the first policy, so that forgetting and drift add up over the cycles.

    Args:
        settings: the recipe; where its judge is the policy, each cycle's policy judges itself.
        output: where it goes; what is done there is not done again.
        cycles: how many.
        progress: shows how far a step is.

    Raises:
        UserError: the folder holds another recipe's cycles, or a cycle's build gives too few pairs.
    """
    if cycles < 1:
        raise UserError(f"cycles must be at least 1, got {cycles}.")
    if settings.training.tuning == "full":
        raise UserError("A cycle merges an adapter into the policy: set training.tuning to lora or qlora.")
    require("peft", extra="train")
    policy, first, cells = settings.policy, None, {}
    for number in range(1, cycles + 1):
        folder = output / str(number)
        opened = open_data(str(flow.build(replace(settings, policy=policy), folder / "build", progress).absolute()))
        first = first or held_out(opened, max_length=settings.training.max_length)
        if not (folder / "cycle.json").is_file():
            values = _train(folder, opened, policy, settings, first, progress)
            run.write_file(folder / "cycle.json", (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
        cells[f"cycle {number}", 0] = json.loads((folder / "cycle.json").read_bytes())
        policy = _merged(folder, policy)
    found = compare(cells, metrics={**METRICS, **SAMPLED})
    run.write_file(output / "cycles.md", to_markdown(found, "after").encode())
    run.write_file(output / "cycles.json", (json.dumps(plain(found), indent=2, allow_nan=False) + "\n").encode())
    return found


def _merged(folder: Path, policy: ModelSpec) -> ModelSpec:
    """Return the trained policy of a finished cycle as a model of its own."""
    return replace(policy, model=str((folder / "policy").absolute()), revision=None, package=None)


def _train(
    folder: Path, opened: Opened, policy: ModelSpec, settings: Recipe, held: HeldOut, progress: Progress
) -> Values:
    """Train a cycle's policy on its build, merge it, and measure it against the first policy."""
    pairs = arm_pairs("staged", opened, replace(settings, policy=policy))
    trained = train_stages(pairs, folder / "training", policy=policy, training=settings.training, progress=progress)
    _merge(policy, trained.adapter, folder / "policy")
    measured = probe(_merged(folder, policy), held, base=settings.policy)
    return by_stage(measured, held) | _sampled(opened)


def _merge(policy: ModelSpec, adapter: Path, target: Path) -> None:
    """Save the policy with the adapter's weights in its own, once; a half-written folder is never seen."""
    if not target.is_dir():
        unfinished = target.with_name(f"{run.UNFINISHED}{target.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        with backends_hf.quiet():
            models.merge(adapter, policy, unfinished)
        unfinished.rename(target)


def _sampled(opened: Opened) -> Values:
    """Return what the build says of the policy that it sampled from, by prompt (`SAMPLED`)."""
    scored = opened.frame("scored").sort("prompt_id")
    texts = pl.col("responses").list.eval(pl.element().struct.field("text"))
    tokens = pl.col("responses").list.eval(pl.element().struct.field("num_tokens"))
    rows = scored.select("prompt_id", "num_semantic_sets", texts=texts, tokens=tokens.list.mean())
    paired = set(opened.frame("pairs")["prompt_id"])
    found: Values = {name: {} for name in SAMPLED}
    for name, sets, said, length in rows.iter_rows():
        found["semantic-sets"][name] = float(sets)
        found["sampled-length"][name] = float(length)
        found["paired"][name] = float(name in paired)
        if (share := distinct_2(said)) is not None:
            found["distinct-2"][name] = share
    return found


def distinct_2(texts: list[str]) -> float | None:
    """Return different pairs of adjacent words over all such pairs (Li et al. 2016); None where there are none."""
    pairs = [pair for text in texts for words in [text.split()] for pair in itertools.pairwise(words)]
    return len(set(pairs)) / len(pairs) if pairs else None
