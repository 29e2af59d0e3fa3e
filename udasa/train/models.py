"""A policy's spec and a stage's start -> the model that is trained; and what is saved of it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udasa import backends_hf
from udasa.backends import ModelSpec
from udasa.errors import UserError, require
from udasa.recipe import Training

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_base(
    policy: ModelSpec, training: Training, start: Path | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load the model under the adapter: of 4 bits for QLoRA; with `full`, the weights that the stage begins with.

    All weights are trained in float32 unless the policy names a dtype; on a GPU the arithmetic is bfloat16 then.
    """
    if training.tuning == "full":
        spec = policy if start is None else ModelSpec(model=str(start), dtype=policy.dtype)
        return backends_hf.load_causal_lm(dataclasses.replace(spec, dtype="float32") if spec.dtype == "auto" else spec)
    return backends_hf.load_causal_lm(policy, _four_bits() if training.tuning == "qlora" else None)


def refuse_adapter(policy: ModelSpec) -> None:
    """Refuse to train a policy that has an adapter already."""
    if policy.adapter is not None:
        raise UserError(
            f"The policy has an adapter already ({policy.adapter}), and a trained adapter is put on the model itself. "
            "Leave the adapter out, or merge it into the weights and name those."
        )


def precision(model: "PreTrainedModel", training: Training) -> dict[str, Any]:
    """Return the settings of a DPOConfig that say where and in what precision a model runs."""
    import torch

    on_cpu = model.device.type == "cpu"
    in_half = model.dtype == torch.bfloat16 or training.tuning != "lora"
    return {"use_cpu": on_cpu, "bf16": not on_cpu and in_half and torch.cuda.is_bf16_supported()}


def _four_bits() -> Any:
    """Return NF4 with double quantisation (Dettmers et al. 2023)."""
    require("bitsandbytes", extra="qlora")
    import torch
    from transformers import BitsAndBytesConfig

    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )


def make_lora(model: "PreTrainedModel", training: Training) -> "LoraConfig":
    """Return the settings of a fresh adapter on a model.

    Raises:
        UserError: `lora_targets` names no module of it, or one whose weights another module shares: merging would
            change both.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    targets = training.lora_targets
    config = LoraConfig(
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    if targets == "all-linear":
        return config
    modules = dict(model.named_modules())
    named = [name for name in modules if check_target_module_exists(config, name)]
    if not named:
        known = sorted({name.rpartition(".")[2] for name, module in modules.items() if not list(module.children())})
        raise UserError(
            f"lora_targets {targets!r} is no module of the model. It has {', '.join(known)}, or use all-linear."
        )
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = [name for name in named if model.config.tie_word_embeddings and modules[name] in ends]
    if tied:
        raise UserError(
            f"lora_targets names {', '.join(tied)}, whose weights the model uses at both its ends, so an adapter there "
            "cannot be merged. Leave it out."
        )
    return config


def load_adapter(model: Any, start: Path) -> None:
    """Put the weights of an adapter that was saved into a model's fresh one."""
    from peft import load_peft_weights, set_peft_model_state_dict

    loaded: Any = set_peft_model_state_dict(model, load_peft_weights(str(start), device="cpu"))
    assert not loaded.unexpected_keys and not any("lora_" in key for key in loaded.missing_keys)


def check_kept(trainer: Any, num_pairs: int, training: Training) -> None:
    """Refuse a trainer that holds fewer pairs than it was given: TRL leaves some out and says nothing.

    Raises:
        UserError: how many are there, of how many.
    """
    if (kept := len(trainer.train_dataset)) != num_pairs:
        raise UserError(
            f"TRL kept {kept} of the {num_pairs} pairs that it was given; all should be used. "
            f"Raise max_length, now {training.max_length}."
        )


def save(trainer: Any, folder: Path, policy: ModelSpec) -> None:
    """Save what was trained: the adapter, or the whole model with its tokenizer.

    An adapter names the base model as the recipe does, and not where it lies on this machine.
    """
    model, sharded = trainer.model, trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    state: dict[str, Any] = {"state_dict": trainer.accelerator.get_state_dict(trainer.model_wrapped)} if sharded else {}
    if not trainer.is_world_process_zero():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not hasattr(model, "peft_config"):
        model.save_pretrained(str(folder), **state)
        trainer.processing_class.save_pretrained(str(folder))
        return
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = policy.model, policy.revision
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # a set has another order in every process
    # "auto" would ask the Hub for the base model's config; embeddings get no adapter here
    model.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False, **state)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's unfilled model card


def merge(adapter: Path, policy: ModelSpec, folder: Path) -> None:
    """Write the base model with the adapter worked into its weights, and its tokenizer, as one safetensors model.

    The weights are merged and written in the policy's own dtype, also those of an adapter on a base of 4 bits.
    """
    from peft import PeftModel

    base, tokenizer = backends_hf.load_causal_lm(policy)
    merged: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    merged.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
