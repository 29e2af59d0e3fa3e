"""The pairs of one stage -> its adapter, by one DPOTrainer as TRL has it: no subclass, no copy.

train_stage(Stage("moderate", Path("out/stages/2-moderate"), pairs, ...), start=Path("out/stages/1-conservative"), run)
-> StageResult(stage="moderate", reference="base", pairs=412, steps=52, first_loss=0.66, ...)
"""

import gc
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from udasa import allocator
from udasa.backends import ModelSpec
from udasa.errors import UserError
from udasa.recipe import Training
from udasa.run import Progress, write_file
from udasa.train import checkpoints, models, processes, trackers
from udasa.train.watch import first_loss, make_watch

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel
    from trl.trainer.dpo_config import DPOConfig

STEPS = "steps.jsonl"
"""The log of a stage, a line a step: the losses, rewards and log-probabilities that TRL logs, and seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What one stage of training did. Losses are in nats for DPO; rewards are beta x log-ratio to the reference."""

    stage: str
    reference: str
    """`base`, `previous` or `fixed`."""
    pairs: int
    """Pairs trained on."""
    replayed: int
    """Of these, pairs of earlier stages."""
    truncated: int
    """Pairs of the stage of which a side was cut to max_length."""
    dropped: int
    """Pairs of the stage that were left out; the findings of the preflight say why."""
    label_smoothing: float
    """The share of labels that the loss takes to be wrong."""
    steps: int
    """Optimiser steps."""
    seconds: float
    """Wall time of the steps."""
    first_loss: float
    """At the first step, before any update."""
    last_loss: float
    """Mean over the last `last_steps` steps."""
    last_steps: int
    """A quarter of the steps, rounded up."""
    reward_accuracy: float
    """Share of pairs with the higher reward on chosen, over the same steps."""
    reward_margin: float
    """Mean reward of chosen minus rejected, over the same steps."""


class Run(NamedTuple):
    """What all stages of a run share."""

    policy: ModelSpec
    training: Training
    report_to: Sequence[str]
    progress: Progress


class Stage(NamedTuple):
    """A stage that is to be trained."""

    name: str
    folder: Path
    pairs: "Dataset"
    """With the reference's log-probabilities as columns."""
    starts_at_reference: bool
    """Whether the policy that the stage begins with is the reference."""
    replayed: int
    truncated: int
    dropped: int


def train_stage(stage: Stage, start: Path | None, run: Run) -> StageResult:
    """Train one stage from what is in `start`, going on from its newest checkpoint, and save what came out."""
    training = run.training.of(stage.name)
    smoothing = _smoothing(stage, training)
    with trackers.own_run(run.report_to, stage.folder / "runs"):
        trainer = _make_trainer(stage, start, run, training, smoothing)
        models.check_kept(trainer, len(stage.pairs), training)
        expected = first_loss(training) if stage.starts_at_reference else None
        newest = checkpoints.newest(stage.folder / checkpoints.FOLDER)
        with run.progress(f"train {stage.name}", _num_steps(len(stage.pairs), training)) as report:
            trainer.add_callback(make_watch(stage.name, expected, start, report))
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    models.save(trainer, stage.folder, run.policy)
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    if processes.is_main():
        lines = (json.dumps({"stage": stage.name, **step}, allow_nan=False) + "\n" for step in steps)
        write_file(stage.folder / STEPS, "".join(lines).encode())
    return _summarise(stage, training, smoothing, steps)


def _smoothing(stage: Stage, training: Training) -> float:
    """Return the label smoothing of a stage; from the gap, the share of wrong labels if a gap of 1 is a sure one."""
    if training.label_smoothing != "gap":
        return training.label_smoothing
    if "gap" not in stage.pairs.column_names:
        raise UserError(
            f"label_smoothing='gap' needs the column gap, and stage '{stage.name}' has "
            f"{', '.join(stage.pairs.column_names)}. Give a number, or pairs that `udasa publish` wrote."
        )
    gaps = [float(gap) for gap in stage.pairs["gap"]]
    mean = math.fsum(gaps) / len(gaps)
    if not 0 < mean <= 1:
        raise UserError(f"The mean gap of stage '{stage.name}' is {mean}; label_smoothing='gap' needs one in (0, 1].")
    return (1 - mean) / 2


def _num_steps(num_pairs: int, training: Training) -> int:
    """Return the optimiser steps of a stage, as the trainer counts them: a last, smaller step closes each epoch."""
    if training.max_steps is not None:
        return training.max_steps
    per_pass = training.device_batch_size * processes.count()
    per_epoch = math.ceil(math.ceil(num_pairs / per_pass) * per_pass / training.batch_size)
    return math.ceil(training.epochs * per_epoch)


def _make_trainer(stage: Stage, start: Path | None, run: Run, training: Training, smoothing: float) -> Any:
    """Return a DPOTrainer whose policy is what is in `start`, and whose reference is the columns of the pairs.

    TRL reads such columns once its `precompute_ref_logps` is set; asked for them by its settings, it would make them
    itself, of the model that it is given. A fresh adapter is made first and then given the weights of `start`: of an
    adapter that is there, TRL would keep a second, frozen one.
    """
    from transformers import PrinterCallback
    from trl.trainer.dpo_trainer import DPOTrainer

    base, tokenizer = models.load_base(run.policy, training, start)
    full = training.tuning == "full"
    trainer: Any = DPOTrainer(
        model=base,
        # of a model without adapter, TRL loads a reference unless it is given one; this is let go below
        ref_model=models.load_base(run.policy, training, start)[0] if full else None,
        args=_config(stage, base, run, training, smoothing),
        train_dataset=stage.pairs,
        processing_class=tokenizer,
        peft_config=None if full else models.make_lora(base, training),
    )
    trainer.precompute_ref_logps, trainer.ref_model = True, None
    if full:
        trainer.accelerator.free_memory()  # it holds the reference too
        gc.collect()  # and the reference is in a cycle
    trainer.remove_callback(PrinterCallback)
    if trainer.args.use_cpu:
        allocator.give_back_after(base.base_model)  # TRL computes the loss from what comes out of it
    if start is not None and not full:
        models.load_adapter(trainer.model, start)
    return trainer


def _config(stage: Stage, model: "PreTrainedModel", run: Run, training: Training, smoothing: float) -> "DPOConfig":
    from trl.trainer.dpo_config import DPOConfig

    per_pass = training.device_batch_size * processes.count()
    if training.batch_size % per_pass:
        raise UserError(
            f"{processes.count()} processes of {training.device_batch_size} pairs each do not divide a batch of "
            f"{training.batch_size}. Start another number of processes, or set another device_batch_size."
        )
    placed = models.precision(model, training)
    return DPOConfig(
        output_dir=str(stage.folder / checkpoints.FOLDER),
        run_name=f"{stage.folder.parent.parent.name}-{stage.name}",
        beta=training.beta,
        learning_rate=training.learning_rate,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.device_batch_size,
        gradient_accumulation_steps=training.batch_size // per_pass,
        max_length=training.max_length,
        seed=training.seed,
        activation_checkpointing={"auto": not placed["use_cpu"], "on": True, "off": False}[training.checkpointing],
        logging_steps=1,
        logging_nan_inf_filter=False,  # the default shows a mean in the place of a NaN
        disable_tqdm=True,
        report_to=list(run.report_to) or "none",
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=2,  # the one before stays until the newest is complete
        **placed,
        **_loss(training, smoothing),
    )


def _loss(training: Training, smoothing: float) -> dict[str, Any]:
    """Return TRL's names of a loss.

    Conservative DPO is -(1 - e) log s(z) - e log s(-z), with s the sigmoid and z beta x the difference of log-ratios.
    TRL 1.16 does not smooth its `sigmoid`, -log s(z). Its `robust` of 1/4 is -1.5 log s(z) + 0.5 log s(-z), so it is
    (1 + 2e) of the one less 2e of the other.
    """
    if training.loss != "cdpo":
        return {"loss_type": [training.loss], "label_smoothing": smoothing}
    weights = [1 + 2 * smoothing, -2 * smoothing]
    return {"loss_type": ["sigmoid", "robust"], "loss_weights": weights, "label_smoothing": 0.25}


def _summarise(stage: Stage, training: Training, smoothing: float, steps: Sequence[Mapping[str, float]]) -> StageResult:
    last = steps[-math.ceil(len(steps) / 4) :]

    def mean(name: str) -> float:
        return math.fsum(entry[name] for entry in last) / len(last)

    return StageResult(
        stage=stage.name,
        reference=training.reference,
        pairs=len(stage.pairs),
        replayed=stage.replayed,
        truncated=stage.truncated,
        dropped=stage.dropped,
        label_smoothing=smoothing,
        steps=len(steps),
        seconds=math.fsum(entry["seconds"] for entry in steps),
        first_loss=steps[0]["loss"],
        last_loss=mean("loss"),
        last_steps=len(last),
        reward_accuracy=mean("rewards/accuracies"),
        reward_margin=mean("rewards/margins"),
    )
