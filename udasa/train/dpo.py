"""The pairs of one stage -> its adapter, by one DPOTrainer as TRL has it: no subclass, no copy.

stage = Stage("moderate", Path("out/stages/2-moderate"), pairs)
train_stage(stage, fit, start=Path("out/stages/1-conservative"), policy, training, progress)  ->  StageResult
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from udasa import backends_hf
from udasa.backends import ModelSpec, Report
from udasa.errors import UserError
from udasa.recipe import Training
from udasa.run import Progress
from udasa.train.data import Fit

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl.trainer.dpo_config import DPOConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What one stage of training did. Losses are DPO's, in nats; rewards are beta x log-ratio to the reference."""

    stage: str
    reference: str
    """`base`, `previous` or `fixed`."""
    pairs: int
    """Pairs trained on."""
    truncated: int
    """Of these, pairs of which a side was cut to max_length."""
    dropped: int
    """Pairs left out: within max_length, chosen and rejected do not differ (the prompt alone may fill it)."""
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


class Stage(NamedTuple):
    """A stage of a run: its name, its folder and its pairs."""

    name: str
    folder: Path
    pairs: "Dataset"

    @property
    def marker(self) -> Path:
        """The file that is written last."""
        return self.folder / "stage.json"


def train_stage(
    stage: Stage, fit: Fit, start: Path | None, policy: ModelSpec, training: Training, progress: Progress
) -> StageResult:
    """Train one stage from the adapter in `start` and save its adapter."""
    shutil.rmtree(stage.folder, ignore_errors=True)  # what an interrupted run left
    trainer = _make_trainer(stage, fit, start, policy, training)
    if len(trainer.train_dataset) != len(fit.pairs):
        raise UserError(
            f"TRL kept {len(trainer.train_dataset)} of the {len(fit.pairs)} pairs of stage '{stage.name}'; all should "
            f"be used. Raise max_length, now {training.max_length}."
        )
    is_reference = training.reference == "previous" or (training.reference == "base" and start is None)
    with progress(f"train {stage.name}", _num_steps(len(fit.pairs), training)) as report:
        trainer.add_callback(_make_watch(stage.name, is_reference, start, report))
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    _save_adapter(trainer.model, stage.folder, policy)
    return _summarise(stage.name, fit, training.reference, seconds, trainer.state.log_history)


def _num_steps(num_pairs: int, training: Training) -> int:
    """Return the optimiser steps of a stage, as the trainer counts them: a last, smaller step closes each epoch."""
    per_epoch = math.ceil(
        math.ceil(num_pairs / training.device_batch_size) * training.device_batch_size / training.batch_size
    )
    return math.ceil(training.epochs * per_epoch)


def _make_trainer(stage: Stage, fit: Fit, start: Path | None, policy: ModelSpec, training: Training) -> Any:
    """Return a DPOTrainer whose policy is the adapter in `start` and whose reference is the one `training` names.

    TRL's reference is `ref_model` if given; else, of a PeftModel, its adapter as it comes (copied to one named
    "ref"); else the model with its adapter off. So for `base` the trainer makes a fresh adapter, and the weights of
    the previous stage are loaded into that.
    """
    from peft import LoraConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
    from transformers import PrinterCallback
    from trl.trainer.dpo_trainer import DPOTrainer

    base, tokenizer = backends_hf.load_causal_lm(policy)
    config = _config(stage.folder, base, training)
    targets = training.lora_targets
    lora = LoraConfig(
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    continues = start is not None and training.reference == "previous"
    trainer: Any = DPOTrainer(
        model=PeftModel.from_pretrained(base, str(start), is_trainable=True) if continues else base,
        ref_model=_fixed_reference(training, tokenizer),
        args=config,
        train_dataset=fit.pairs,
        processing_class=tokenizer,
        peft_config=None if continues else lora,
    )
    trainer.remove_callback(PrinterCallback)
    if start is not None and not continues:
        loaded: Any = set_peft_model_state_dict(trainer.model, load_peft_weights(str(start), device="cpu"))
        assert not loaded.unexpected_keys and not any("lora_" in key for key in loaded.missing_keys)
    return trainer


def _config(folder: Path, model: "PreTrainedModel", training: Training) -> "DPOConfig":
    import torch
    from trl.trainer.dpo_config import DPOConfig

    on_cpu = model.device.type == "cpu"
    return DPOConfig(
        output_dir=str(folder),
        beta=training.beta,
        learning_rate=training.learning_rate,
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.device_batch_size,
        gradient_accumulation_steps=training.batch_size // training.device_batch_size,
        max_length=training.max_length,
        seed=training.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu and model.dtype == torch.bfloat16 and torch.cuda.is_bf16_supported(),
        activation_checkpointing=not on_cpu,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the default shows a mean in the place of a NaN
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
    )


def _fixed_reference(training: Training, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel | None":
    if training.fixed_reference is None:
        return None
    reference, its_tokenizer = backends_hf.load_causal_lm(training.fixed_reference)
    if its_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"The fixed reference {training.fixed_reference.model} has another vocabulary than the policy, so their "
            "log-probabilities cannot be compared. Name a model with the policy's tokenizer."
        )
    return reference


def _make_watch(stage: str, is_reference: bool, start: Path | None, report: Report) -> "TrainerCallback":
    """Return a callback that reports each step and stops a run that has gone wrong.

    Where the policy is its own reference (`is_reference`), every log-ratio of the first step is 0, so its loss must
    be -log sigmoid(0) = ln 2, within 1e-3 in float32 and 1e-2 else.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            report(1)

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            logs = given["logs"]
            if "loss" not in logs:  # the summary after the last step
                return
            for name in ("loss", "grad_norm"):
                if not math.isfinite(logs[name]):
                    good = f"the adapter in {start}" if start else "the base model: no stage is complete"
                    raise UserError(
                        f"{name} is {logs[name]} at step {state.global_step} of stage '{stage}'; it must be finite. "
                        f"Nothing of this stage was saved; the last good checkpoint is {good}. "
                        "Lower the learning rate, or use another dtype."
                    )
            tolerance = 1e-3 if str(given["model"].dtype) == "torch.float32" else 1e-2
            if is_reference and state.global_step == 1 and abs(logs["loss"] - math.log(2)) > tolerance:
                raise UserError(
                    f"The first loss of stage '{stage}' is {logs['loss']:.4f}; expected ln 2 = {math.log(2):.4f} "
                    f"within {tolerance:g}, for there the policy is its own reference. Likely causes: the reference is "
                    "another model, or the adapter is not off in it; policy and reference run in different dtypes, or "
                    "with dropout; the chat template gives them different tokens."
                )

    return Watch()


def _save_adapter(model: Any, folder: Path, policy: ModelSpec) -> None:
    """Save the trained adapter, naming the base model as the recipe does and not where it lies on this machine."""
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = policy.model, policy.revision
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # a set has another order in every process
    # "auto" would ask the Hub for the base model's config; embeddings get no adapter here
    model.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's unfilled model card


def _summarise(
    stage: str, fit: Fit, reference: str, seconds: float, history: Sequence[Mapping[str, float]]
) -> StageResult:
    steps = [entry for entry in history if "loss" in entry]
    last = steps[-math.ceil(len(steps) / 4) :]

    def mean(name: str) -> float:
        return math.fsum(entry[name] for entry in last) / len(last)

    return StageResult(
        stage=stage,
        reference=reference,
        pairs=len(fit.pairs),
        truncated=fit.truncated,
        dropped=fit.dropped,
        steps=len(steps),
        seconds=seconds,
        first_loss=steps[0]["loss"],
        last_loss=mean("loss"),
        last_steps=len(last),
        reward_accuracy=mean("rewards/accuracies"),
        reward_margin=mean("rewards/margins"),
    )
