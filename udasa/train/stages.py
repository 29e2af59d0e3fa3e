"""Pairs by stage -> an adapter carried through the stages, resumable.

train_stages({"random-1": pairs, "random-2": others}, Path("out"), policy=policy, training=training)
-> Staged(results=(StageResult(stage="random-1", ...), ...), adapter=Path("out/stages/2-random-2"), ...)
"""

import gc
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import TypeAdapter

from udasa import allocator, backends_hf
from udasa.backends import ModelSpec
from udasa.digests import stable_hash
from udasa.errors import UserError, changes, require
from udasa.lint import Finding
from udasa.recipe import Training
from udasa.run import Progress, silent, write_file
from udasa.train import checkpoints, models, processes, trackers
from udasa.train.data import digest, no_data_bars
from udasa.train.dpo import Run, Stage, StageResult, train_stage
from udasa.train.preflight import Fit, preflight
from udasa.train.references import Reference, reference_of, with_log_probs

if TYPE_CHECKING:
    from datasets import Dataset

Verdict = Literal["go on", "stop", "rollback"]
"""What comes after a stage: the next one; nothing more; or nothing more, and the stage itself is taken back."""

AfterStage = Callable[[str, Path], Verdict]
"""Called with a stage's name and its adapter's folder, once the stage is complete there."""

MARKER = "training.json"
"""The file of a whole run, written last of all; it goes when a run begins or goes on."""

DONE = "stage.json"
"""The file of a stage that is complete, written last."""


class Staged(NamedTuple):
    """What a run over the stages came to."""

    results: tuple[StageResult, ...]
    """Of the stages that stand, in order; one that was taken back is not among them."""
    adapter: Path
    """The folder of the last of them."""
    verdict: Verdict
    """`go on` if every stage was trained."""
    findings: tuple[Finding, ...]
    """What the preflight found about the pairs."""


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
    report_to: Sequence[str] = (),
    progress: Progress = silent,
) -> Staged:
    """Carry one LoRA adapter through stages of any names, in the order of `pairs`, with DPO (Rafailov et al. 2023).

    Args:
        pairs: stage -> its pairs, with the columns prompt_id, prompt, chosen, rejected (TRL's conversational form),
            and any others; a stage without pairs is skipped. `training.stages` is not looked at.
        output: receives `stages/<number>-<name>/`: the adapter after the stage, the log of its steps, and stage.json,
            written last. A stage that is complete there is not trained again; one that was killed goes on from its
            newest checkpoint.
        policy: the base model.
        training: reference and optimisation.
        after_stage: decides how to go on. It is called for every complete stage in order, by a run that is resumed
            too, so it must be cheap the second time; what it raises ends the run, and the stage stays complete.
        report_to: trackers that TRL knows, such as `tensorboard`, `trackio` or `wandb`.
        progress: shown the pairs that a reference reads, and the optimiser steps of each stage.

    Raises:
        DivergedError: a loss or gradient is not finite.
        UserError: `output` holds stages of other settings or pairs, pairs do not fit, the first loss is not what it
            must be where the policy is its own reference, the first stage is taken back, or `training` has an override
            for a stage that `pairs` does not have.
        MissingExtraError: the extra `train` is not installed.
    """
    for module in ("trl", "peft"):
        require(module, extra="train")
    _refuse_unknown(training, list(pairs))
    pinned = pin(policy, training) | {"order": list(pairs), "pairs": {s: digest(rows) for s, rows in pairs.items()}}
    folders = {s: output / "stages" / f"{n}-{s}" for n, s in enumerate(pairs, 1) if len(pairs[s])}
    if not folders:
        raise UserError(f"There are no training pairs in {', '.join(pairs)}. Build from more prompts.")
    _refuse_others(output, pinned)
    trackers.check_known(report_to)
    processes.from_main(lambda: (output / MARKER).unlink(missing_ok=True))
    run = Run(policy, training, report_to, progress)
    results: list[StageResult] = []
    start: Path | None = None
    verdict: Verdict = "go on"
    with backends_hf.quiet(), no_data_bars():
        tokenizer = backends_hf.load_chat_tokenizer(policy)
        checked = preflight({name: pairs[name] for name in folders}, tokenizer, training.max_length)
        for name, folder in folders.items():
            result = _read_result(folder) or _train(name, folder, checked.fits, start, run, pinned)
            if processes.is_main():
                shutil.rmtree(folder / checkpoints.FOLDER, ignore_errors=True)
            verdict = processes.from_main(partial(after_stage, name, folder))
            if verdict == "rollback":
                break
            results.append(result)
            start = folder
            if verdict == "stop":
                break
    if start is None:
        raise UserError(
            f"The first stage, '{name}', was taken back, so no adapter is left: the policy is the base model. "
            f"The stage's adapter is still in {folder}."
        )
    return Staged(tuple(results), start, verdict, checked.findings)


def pin(policy: ModelSpec, training: Training) -> dict[str, Any]:
    """Return what a run must be the same in to go on: the base model's weights and precision, and the settings.

    Raises:
        UserError: the policy has an adapter.
    """
    models.refuse_adapter(policy)
    return {
        "base_model": policy.model,
        "base_revision": policy.revision,
        "base_dtype": policy.dtype,
        "base_identity": backends_hf.identity(policy),
        "settings": TypeAdapter(Training).dump_python(training, mode="json"),
    }


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return JSON; a number that is not finite is a ValueError."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _train(
    name: str,
    folder: Path,
    fits: Mapping[str, Fit],
    start: Path | None,
    run: Run,
    pinned: Mapping[str, Any],
) -> StageResult:
    """Train one stage, with the pairs that it replays, and mark it as complete."""
    kept = folder / checkpoints.FOLDER
    if processes.is_main():
        checkpoints.drop_unfinished(kept)
        write_file(kept / checkpoints.RUN, to_json({"run": pinned}))
    processes.wait()
    training = run.training.of(name)
    rows = _with_replay(name, fits, training.replay)
    reference = reference_of(run.policy, training, start)
    among = [rows] if training.reference == "previous" else [fit.pairs for fit in fits.values()]
    rows = with_log_probs(rows, among, reference, run.policy, training, run.progress)
    _release_memory()
    own = fits[name]
    at_reference = reference == Reference(run.policy, start)
    stage = Stage(name, folder, rows, at_reference, len(rows) - len(own.pairs), own.truncated, own.dropped)
    result = train_stage(stage, start, run)
    if processes.is_main():
        write_file(folder / DONE, to_json({"run": pinned, "result": asdict(result)}))
    processes.wait()
    _release_memory()
    return result


def _release_memory() -> None:
    """Let go of the models of a stage, and of what the next one's need not fit into."""
    gc.collect()  # a trainer is a reference cycle, and holds a model
    allocator.give_back()


def _with_replay(name: str, fits: Mapping[str, Fit], share: float) -> "Dataset":
    """Return a stage's pairs, and after them the share of every earlier stage's: those with the smallest hash."""
    from datasets import concatenate_datasets

    parts = [fits[name].pairs]
    for earlier in list(fits)[: list(fits).index(name)] if share else ():
        pairs = fits[earlier].pairs
        hashes = [stable_hash("replay", prompt_id) for prompt_id in pairs["prompt_id"]]
        chosen = sorted(range(len(hashes)), key=hashes.__getitem__)[: round(share * len(hashes))]
        parts.append(pairs.select(sorted(chosen)))
    return concatenate_datasets(parts)


def _refuse_unknown(training: Training, names: Sequence[str]) -> None:
    """Refuse settings for stages that are not there."""
    if unknown := [override.stage for override in training.overrides if override.stage not in names]:
        raise UserError(
            f"The settings have overrides for {', '.join(unknown)}, and the stages are {', '.join(names)}. "
            "Leave these overrides out, or train pairs that have these stages."
        )


def _refuse_others(output: Path, pinned: Mapping[str, Any]) -> None:
    """Refuse a folder with stages, finished or begun, of another run."""
    for path in sorted([*output.glob(f"stages/*/{DONE}"), *output.glob(f"stages/*/*/{checkpoints.RUN}")]):
        if changed := changes(json.loads(path.read_bytes())["run"], pinned):
            raise UserError(
                f"{output} holds stages of another run; these differ (there -> now): {'; '.join(changed)}. "
                "Train into a new folder, or with the settings and data that began this one."
            )


def _read_result(folder: Path) -> StageResult | None:
    """Return the result of a stage that is complete."""
    marker = folder / DONE
    return StageResult(**json.loads(marker.read_bytes())["result"]) if marker.is_file() else None
