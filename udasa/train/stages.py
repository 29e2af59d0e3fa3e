"""Pairs by stage -> an adapter carried through the stages, resumable.

train_stages({"random-1": pairs, "random-2": others}, Path("out"), policy=policy, training=training)
-> Staged(results=(StageResult(stage="random-1", ...), ...), adapter=Path("out/stages/2-random-2"), verdict="go on")
"""

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import TypeAdapter

from udasa import backends_hf
from udasa.backends import ModelSpec
from udasa.errors import UserError, require
from udasa.recipe import Training
from udasa.run import Progress, silent, write_file
from udasa.train.data import Fit, digest, no_data_bars, preflight
from udasa.train.dpo import Stage, StageResult, train_stage

if TYPE_CHECKING:
    from datasets import Dataset

Verdict = Literal["go on", "stop", "rollback"]
"""What comes after a stage: the next one; nothing more; or nothing more, and the stage itself is taken back."""

AfterStage = Callable[[str, Path], Verdict]
"""Called with a stage's name and its adapter's folder, once the stage is complete there."""


MARKER = "training.json"
"""The file of a whole run, written last of all; it goes when a run begins or goes on."""


class Staged(NamedTuple):
    """What a run over the stages came to."""

    results: tuple[StageResult, ...]
    """Of the stages that stand, in order; one that was taken back is not among them."""
    adapter: Path
    """The folder of the last of them."""
    verdict: Verdict
    """`go on` if every stage was trained."""


def go_on(_: str, __: Path) -> Verdict:
    """Train the next stage, whatever this one did."""
    return "go on"


def train_stages(
    pairs: "Mapping[str, Dataset]",
    output: Path,
    *,
    policy: ModelSpec,
    training: Training,
    after_stage: AfterStage = go_on,
    progress: Progress = silent,
) -> Staged:
    """Carry one LoRA adapter through stages of any names, in the order of `pairs`, with DPO (Rafailov et al. 2023).

    Args:
        pairs: stage -> its pairs, with the columns prompt_id, prompt, chosen, rejected (TRL's conversational form),
            and any others; a stage without pairs is skipped, and so is `training.stages`.
        output: receives `stages/<number>-<name>/`: the adapter after the stage, and stage.json, written last. A stage
            that is complete there is not trained again.
        policy: the base model.
        training: reference and optimisation.
        after_stage: decides how to go on. It is called for every complete stage in order, by a run that is resumed
            too, so it must be cheap the second time; what it raises ends the run, and the stage stays complete.
        progress: shown the optimiser steps of each stage.

    Raises:
        UserError: `output` holds stages of other settings or pairs, pairs do not fit, the first loss is not what it
            must be where the policy is its own reference, a loss or gradient is not finite, or the first stage is
            taken back.
        MissingExtraError: the extra `train` is not installed.
    """
    for module in ("trl", "peft"):
        require(module, extra="train")
    if policy.adapter is not None:
        raise UserError(
            f"The policy has an adapter already ({policy.adapter}), and a trained adapter is put on the model itself. "
            "Leave the adapter out, or merge it into the weights and name those."
        )
    pinned = pin(policy, training) | {"pairs": {name: digest(rows) for name, rows in pairs.items()}}
    stages = [Stage(s, output / "stages" / f"{n}-{s}", pairs[s]) for n, s in enumerate(pairs, 1) if len(pairs[s])]
    if not stages:
        raise UserError(f"There are no training pairs in {', '.join(pairs)}. Build from more prompts.")
    done = _finished(stages, output, pinned)
    (output / MARKER).unlink(missing_ok=True)
    results: list[StageResult] = []
    with backends_hf.quiet(), no_data_bars():
        fits = _preflight(stages[len(done) :], policy, training)
        for stage in stages:
            start = stages[len(results) - 1].folder if results else None
            if len(results) < len(done):
                result = done[len(results)]
            else:
                result = train_stage(stage, fits[stage.name], start, policy, training, progress)
                write_file(stage.marker, to_json({"run": pinned, "result": asdict(result)}))
                gc.collect()  # a trainer is a reference cycle, and holds a model
            verdict = after_stage(stage.name, stage.folder)
            if verdict == "rollback":
                if start is None:
                    raise UserError(
                        f"The first stage, '{stage.name}', was taken back, so no adapter is left: the policy is the "
                        f"base model. The stage's adapter is still in {stage.folder}."
                    )
                return Staged(tuple(results), start, verdict)
            results.append(result)
            if verdict == "stop":
                return Staged(tuple(results), stage.folder, verdict)
    return Staged(tuple(results), stages[-1].folder, "go on")


def pin(policy: ModelSpec, training: Training) -> dict[str, Any]:
    """Return what a run must be the same in to go on: the base model's weights and the settings."""
    return {
        "base_model": policy.model,
        "base_revision": policy.revision,
        "base_identity": backends_hf.identity(policy),
        "settings": TypeAdapter(Training).dump_python(training, mode="json"),
    }


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return JSON; a number that is not finite is a ValueError."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _preflight(stages: Sequence[Stage], policy: ModelSpec, training: Training) -> dict[str, Fit]:
    """Check the pairs of every stage that is left, before any step."""
    if not stages:
        return {}
    tokenizer = backends_hf.load_causal_lm(policy)[1]
    return {stage.name: preflight(stage.name, stage.pairs, tokenizer, training.max_length) for stage in stages}


def _finished(stages: Sequence[Stage], output: Path, pinned: Mapping[str, Any]) -> list[StageResult]:
    """Return the results of the leading stages that are complete in `output`."""
    for marker in sorted(output.glob("stages/*/stage.json")):
        before, now = _leaves(json.loads(marker.read_bytes())["run"]), _leaves(pinned)
        if changed := [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]:
            raise UserError(
                f"{output} holds stages of another run: "
                + "; ".join(f"{k} is {before.get(k)!r} there and {now.get(k)!r} now" for k in changed)
                + ". Train into a new folder, or with the settings and data that began this one."
            )
    results = []
    for stage in stages:
        if not stage.marker.is_file():
            break
        results.append(StageResult(**json.loads(stage.marker.read_bytes())["result"]))
    return results


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to `outer.inner` keys."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {k: v for key, sub in value.items() for k, v in _leaves(sub, f"{path}.{key}".lstrip(".")).items()}
