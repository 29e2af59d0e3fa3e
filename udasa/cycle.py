"""A recipe -> cycles of build, train and measure: each builds from the policy that the one before it trained.

out/models.json  settings.json                what the cycles are, written first: others are refused
out/base.json                                 the first policy on the held-out items
out/1/build  out/1/training  out/1/policy     the pairs, the stages' adapters, and the adapter merged into its base
out/1/cycle.json                              what every item came to, the stages and the findings, written last
out/cycles.json  cycles.md                    cycle over cycle: drift, diversity, forgetting
"""

import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from udasa import backends_hf, flow, recipe, run
from udasa.backends import ModelSpec
from udasa.errors import UserError, require
from udasa.experiment import Outcome, arm_pairs, as_dataset, compare, plain, to_markdown
from udasa.heldout import HeldOut, held_out
from udasa.lint import Finding
from udasa.probe import Metric, Values, by_stage, probe
from udasa.recipe import Recipe
from udasa.release import Opened, open_data
from udasa.run import Progress, silent
from udasa.train import models, train_stages
from udasa.train.preflight import refuse_overlap

SAMPLED: Mapping[str, Metric] = {
    "semantic-sets": Metric("sets a prompt", None, "different meanings among the K responses"),
    "distinct-2": Metric("share", None, "different pairs of adjacent words among all of them, over the K responses"),
    "sampled-length": Metric("tokens", None, "mean length of the K responses"),
    "paired": Metric("share", None, "prompts that made a pair"),
}
"""What a cycle's build says of the policy that it sampled from, by prompt."""

NOTE = (
    f"{', '.join(SAMPLED)}: of the policy before the cycle's training, by its build: before cycle 1 that is the first "
    "policy, and after the last cycle nothing is sampled. All others: of the policy after the cycle's training; "
    "base is the first policy."
)
"""What is under the table."""


class Cycled(NamedTuple):
    """What the cycles came to."""

    outcomes: list[Outcome]
    findings: dict[str, tuple[Finding, ...]]
    """Of each cycle's pairs, before its first step."""


def cycle(
    settings: Recipe, output: Path, cycles: int, progress: Progress = silent, allow_overlap: bool = False
) -> Cycled:
    """Build, train and measure `cycles` times; the policy of each is the merged outcome of the one before.

    Every cycle asks the same prompts and holds the same ones out. What was trained is measured on the first cycle's
    held-out pairs and against the first policy, so that forgetting and drift add up over the cycles.

    Args:
        settings: the recipe; where its judge is the policy, each cycle's policy judges itself.
        output: where it goes; what is done there is not done again.
        cycles: how many.
        progress: shows how far a step is.
        allow_overlap: train in spite of an overlap beyond the recipe's limits; it is recorded.

    Raises:
        LimitError: training prompts are among those held out or in the evaluation, or a build's audit fails.
        UserError: the folder holds cycles of another recipe or other weights, or a build gives too few pairs.
    """
    if cycles < 1:
        raise UserError(f"cycles must be at least 1, got {cycles}.")
    if settings.training.tuning == "full":
        raise UserError("A cycle merges an adapter into the policy: set training.tuning to lora or qlora.")
    models.refuse_adapter(settings.policy)
    require("peft", extra="train")
    _claim(output, settings)
    policy, held, cells, findings = settings.policy, None, {}, {}
    for number in range(1, cycles + 1):
        name, folder = f"cycle {number}", output / str(number)
        opened = open_data(str(flow.build(replace(settings, policy=policy), folder / "build", progress).absolute()))
        held = held or held_out(opened, max_length=settings.training.max_length)
        base = _base(output / "base.json", settings.policy, held)
        if not (folder / "cycle.json").is_file():
            done = _train(folder, opened, policy, settings, held, progress, allow_overlap)
            run.write_file(folder / "cycle.json", _json(done))
        known = json.loads((folder / "cycle.json").read_bytes())
        cells[name, 0] = known["values"]
        findings[name] = tuple(Finding(**{**one, "examples": tuple(one["examples"])}) for one in known["findings"])
        policy = _merged(folder, policy)
    found = _compared(cells, base)
    run.write_file(output / "cycles.md", f"{to_markdown(found, 'cycle')}\n{NOTE}\n".encode())
    run.write_file(output / "cycles.json", _json(plain(found)))
    return Cycled(found, findings)


def _claim(output: Path, settings: Recipe) -> None:
    """Take the folder for this recipe and its models' weights; workers and the audit may change between cycles.

    Raises:
        UserError: other cycles are there.
    """
    path = output / "settings.json"
    if path.is_file():
        before = recipe.from_json(path.read_text(encoding="utf-8"), origin=str(path))
        before = replace(before, workers=settings.workers, lint=settings.lint, planted=settings.planted)
        if changed := recipe.differences(before, settings):
            raise UserError(
                f"{output} holds the cycles of another recipe; these fields differ: {'; '.join(changed)}. "
                "Use a new folder, or the recipe that began this one."
            )
    elif (output / "1").exists():
        raise UserError(
            f"{output} holds cycles, and no settings.json that says what they are: an earlier version of udasa wrote "
            "them. Use a new folder."
        )
    flow.pin_models(settings, output)
    run.write_file(path, recipe.to_json(settings).encode())


def _base(path: Path, policy: ModelSpec, held: HeldOut) -> Values:
    """Measure the first policy, once."""
    if not path.is_file():
        run.write_file(path, _json(by_stage(probe(policy, held), held)))
    values: Values = json.loads(path.read_bytes())
    return values


def _compared(cells: Mapping[tuple[str, int], Values], base: Values) -> list[Outcome]:
    """Return the table; the base has no row of what was sampled: it is what the first cycle's build sampled from."""
    probed = {at: {name: one for name, one in values.items() if name not in SAMPLED} for at, values in cells.items()}
    sampled = {at: {name: values[name] for name in SAMPLED} for at, values in cells.items()}
    return compare(probed, base) + compare(sampled, metrics=SAMPLED)


def _merged(folder: Path, policy: ModelSpec) -> ModelSpec:
    """Return the trained policy of a finished cycle as a model of its own."""
    return replace(policy, model=str((folder / "policy").absolute()), revision=None, package=None)


def _train(
    folder: Path,
    opened: Opened,
    policy: ModelSpec,
    settings: Recipe,
    held: HeldOut,
    progress: Progress,
    allow_overlap: bool,
) -> dict[str, Any]:
    """Train a cycle's policy on its build, merge it, and measure it against the first policy."""
    pairs = arm_pairs("staged", opened, replace(settings, policy=policy))
    test = {"held out": as_dataset(pl.DataFrame(list(held.pairs)))}
    overlap = refuse_overlap(pairs, test, settings.lint, settings.near_duplicate, allow_overlap)
    trained = train_stages(pairs, folder / "training", policy=policy, training=settings.training, progress=progress)
    _merge(policy, trained.adapter, folder / "policy")
    measured = probe(_merged(folder, policy), held, base=settings.policy)
    return {
        "values": by_stage(measured, held) | _sampled(opened),
        "stages": [asdict(result) for result in trained.results],
        "findings": [finding.to_json() for finding in (*overlap, *trained.findings)],
    }


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


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
