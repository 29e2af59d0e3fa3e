"""Staged pairs -> one LoRA adapter, one DPOTrainer run a stage.

out/stages/1-conservative/       the adapter after the stage; its stage.json, written last, marks it complete
out/adapter_model.safetensors    the adapter after the last stage, with its adapter_config.json
out/training.json                what was trained on what, written last of all
"""

import gc
import importlib.metadata
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter

from udasa import __version__, backends_hf
from udasa.backends import Identity, ModelSpec, Report
from udasa.errors import UserError, require
from udasa.recipe import Training
from udasa.run import Progress, silent, write_file
from udasa.train.data import Fit, digest, no_data_bars, preflight, read, release

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl.trainer.dpo_config import DPOConfig

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets")
"""Packages whose versions a training run records."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What was trained on what: the content of training.json."""

    license: str
    base_model: str
    base_revision: str | None
    base_identity: Identity
    data: str
    data_revision: str | None
    """The commit of a Hub data set, if it has a manifest; else the revision that was asked for."""
    data_digest: str | None
    """sha256 of the data set's manifest.json; None without one."""
    settings: dict[str, Any]
    """The recipe's `Training`."""
    stages: tuple[StageResult, ...]
    skipped: tuple[str, ...]
    """Stages without pairs."""
    versions: dict[str, str]


class _Stage(NamedTuple):
    name: str
    folder: Path
    pairs: "Dataset"

    @property
    def marker(self) -> Path:
        return self.folder / "stage.json"


def train(
    data: str,
    output: Path,
    *,
    policy: ModelSpec,
    training: Training,
    revision: str | None = None,
    license: str = "unknown",
    progress: Progress = silent,
) -> Trained:
    """Carry one LoRA adapter through the stages of a published data set with DPO (Rafailov et al. 2023).

    Args:
        data: a folder or Hub id of a udasa data set, with a config a stage; a stage without pairs is skipped.
        output: receives the adapter, the adapter after each stage, and training.json. A stage that is complete
            there is not trained again.
        policy: the base model.
        training: stages, reference and optimisation.
        revision: tag or commit of a Hub data set.
        license: licence of the adapter, as the Hub writes it; for its card.
        progress: shown the optimiser steps of each stage.

    Raises:
        UserError: the data set does not fit, `output` holds stages of other settings, the first loss is not ln 2
            where the policy is its own reference, or a loss or gradient is not finite.
        MissingExtraError: the extra `train` is not installed.
    """
    for module in ("trl", "peft"):
        require(module, extra="train")
    run = {
        "base_model": policy.model,
        "base_revision": policy.revision,
        "base_identity": backends_hf.identity(policy),
        "settings": TypeAdapter(Training).dump_python(training, mode="json"),
    }
    with backends_hf.quiet(), no_data_bars(), TemporaryDirectory(prefix="udasa-", ignore_cleanup_errors=True) as cache:
        pairs = read(data, training.stages, revision, cache)
        stages = [_Stage(s, output / "stages" / f"{n}-{s}", pairs[s]) for n, s in enumerate(pairs, 1) if len(pairs[s])]
        pinned = run | {"pairs": {name: digest(rows) for name, rows in pairs.items()}}
        results = _finished(stages, output, pinned)
        (output / "training.json").unlink(missing_ok=True)
        results += _train_stages(stages, len(results), policy, training, pinned, progress)
    for name in ADAPTER_FILES:
        shutil.copyfile(stages[-1].folder / name, output / name)
    commit, manifest = release(data, revision)
    trained = Trained(
        **run,
        license=license,
        data=data,
        data_revision=commit,
        data_digest=manifest,
        stages=tuple(results),
        skipped=tuple(name for name, rows in pairs.items() if not len(rows)),
        versions={"udasa": __version__} | {name: importlib.metadata.version(name) for name in PACKAGES},
    )
    write_file(output / "training.json", _json(asdict(trained)))
    return trained


def _finished(stages: Sequence[_Stage], output: Path, pinned: Mapping[str, Any]) -> list[StageResult]:
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


def _json(value: Mapping[str, Any]) -> bytes:
    """Return JSON; a number that is not finite is a ValueError."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _train_stages(
    stages: Sequence[_Stage],
    num_done: int,
    policy: ModelSpec,
    training: Training,
    pinned: Mapping[str, Any],
    progress: Progress,
) -> list[StageResult]:
    """Check the pairs of every stage that is left, before any step; then train them in order."""
    left = stages[num_done:]
    if not left:
        return []
    tokenizer = backends_hf.load_causal_lm(policy)[1]
    fits = [preflight(stage.name, stage.pairs, tokenizer, training.max_length) for stage in left]
    start = stages[num_done - 1].folder if num_done else None
    results = []
    for stage, fit in zip(left, fits, strict=True):
        result = _train_stage(stage, fit, start, policy, training, progress)
        write_file(stage.marker, _json({"run": pinned, "result": asdict(result)}))
        results.append(result)
        start = stage.folder
        gc.collect()  # a trainer is a reference cycle, and holds a model
    return results


def _train_stage(
    stage: _Stage, fit: Fit, start: Path | None, policy: ModelSpec, training: Training, progress: Progress
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


def _make_trainer(stage: _Stage, fit: Fit, start: Path | None, policy: ModelSpec, training: Training) -> Any:
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
