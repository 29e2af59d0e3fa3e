"""The settings of staged training: the whole run's, and what a stage does otherwise."""

import dataclasses
from typing import Literal

from pydantic.dataclasses import dataclass

from udasa.backends import STRICT, ModelSpec

Stage = Literal["conservative", "moderate", "exploratory"]
Reference = Literal["base", "previous", "fixed"]
Loss = Literal["sigmoid", "cdpo", "robust", "hinge", "ipo", "sft"]
"""DPO (arXiv 2305.18290); conservative DPO (Mitchell 2023, ericmitchell.ai/cdpo.pdf) and robust DPO (2403.00409), which
know `label_smoothing`; SLiC (2305.10425); IPO (2310.12036); and maximum likelihood of the chosen side alone."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Override:
    """What one stage does otherwise; None: as the run does."""

    stage: Stage
    """The stage."""
    learning_rate: float | None = None
    epochs: float | None = None
    """In the place of the run's `max_steps`, too."""
    max_steps: int | None = None
    beta: float | None = None
    loss: Loss | None = None
    label_smoothing: float | Literal["gap"] | None = None
    reference: Reference | None = None
    replay: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Training:
    """Staged DPO (Rafailov et al. 2023) with one LoRA adapter, or of all weights."""

    stages: tuple[Stage, ...] = ("conservative", "moderate", "exploratory")
    """The stages, in training order."""
    reference: Reference = "base"
    """Reference policy of a stage: the base model, the policy at the stage's start, or `fixed_reference`."""
    fixed_reference: ModelSpec | None = None
    """The reference model where `reference` is `fixed`."""
    loss: Loss = "sigmoid"
    """The loss; `sigmoid` is DPO's."""
    beta: float = 0.1
    """DPO's inverse temperature."""
    label_smoothing: float | Literal["gap"] = 0.0
    """The share of labels taken to be wrong, for `cdpo` and `robust`; `gap`: (1 - mean gap of the stage) / 2."""
    learning_rate: float = 5e-6
    """Peak learning rate of every stage."""
    epochs: float = 1.0
    """Passes over each stage."""
    max_steps: int | None = None
    """Optimiser steps of each stage, in the place of `epochs`."""
    replay: float = 0.0
    """Share of every earlier stage's pairs that a stage trains on again: those with the smallest hash of their id."""
    batch_size: int = 8
    """Pairs per optimiser step, over all processes."""
    device_batch_size: int = 4
    """Pairs per forward pass; divides `batch_size`."""
    max_length: int = 1024
    """Longest prompt + response in tokens."""
    tuning: Literal["lora", "qlora", "full"] = "lora"
    """An adapter; an adapter on a base model of 4 bits (bitsandbytes, a GPU); or all weights, and no adapter."""
    lora_rank: int = 16
    """Rank of the adapter."""
    lora_alpha: int = 32
    """Scale of the adapter."""
    lora_targets: str | tuple[str, ...] = "all-linear"
    """Modules that get an adapter."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Gradient checkpointing: less memory for about a third more time; `auto`: on a GPU."""
    save_steps: int = 50
    """Steps between checkpoints inside a stage: a run that is killed repeats fewer than that."""
    overrides: tuple[Override, ...] = ()
    """What single stages do otherwise."""
    seed: int = 0
    """Seed of initialisation and shuffling."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.stages or len(set(self.stages)) < len(self.stages):
            raise ValueError(f"stages must be one or more different stages, got {self.stages}.")
        named = [override.stage for override in self.overrides]
        if len(set(named)) < len(named) or set(named) - set(self.stages):
            raise ValueError(f"overrides must name different stages among {self.stages}, got {tuple(named)}.")
        if self.device_batch_size < 1 or self.batch_size % self.device_batch_size:
            raise ValueError(
                f"device_batch_size must divide batch_size, got {self.device_batch_size} and {self.batch_size}."
            )
        if self.save_steps < 1:
            raise ValueError(f"save_steps must be at least 1, got {self.save_steps}.")
        references = {self.reference, *(override.reference for override in self.overrides)}
        if ("fixed" in references) != (self.fixed_reference is not None):
            raise ValueError("fixed_reference belongs to reference='fixed', and only to it.")
        for stage in self.stages:
            _check(self.of(stage))

    def of(self, stage: str) -> "Training":
        """Return the settings of one stage, without overrides."""
        if not self.overrides:
            return self
        fields = next((dataclasses.asdict(given) for given in self.overrides if given.stage == stage), {})
        changed = {name: value for name, value in fields.items() if value is not None and name != "stage"}
        if "epochs" in changed:
            changed.setdefault("max_steps", None)
        fixed = changed.get("reference", self.reference) == "fixed"
        changed["fixed_reference"] = self.fixed_reference if fixed else None
        return dataclasses.replace(self, overrides=(), **changed)


def _check(training: Training) -> None:
    """Check the values that a stage may change."""
    if min(training.beta, training.learning_rate, training.epochs) <= 0:
        raise ValueError("beta, learning_rate and epochs must be above 0.")
    if training.max_steps is not None and training.max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {training.max_steps}.")
    if not 0 <= training.replay <= 1:
        raise ValueError(f"replay must be in [0, 1], got {training.replay}.")
    smoothing = training.label_smoothing
    if smoothing != "gap" and not 0 <= smoothing < 0.5:
        raise ValueError(f"label_smoothing must be 'gap', or in [0, 0.5), got {smoothing}.")
    if smoothing != 0 and training.loss not in ("cdpo", "robust"):
        raise ValueError(f"label_smoothing belongs to the losses cdpo and robust, not to {training.loss}.")
