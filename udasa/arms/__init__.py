"""A release -> the pairs that each arm of an experiment trains on, in ordered stages.

arm = ARMS["no-value"]
rows = arm.pair(open_data("./dataset"), policy)    # pairs by u without the value dimension
arm.arrange(rows, ("conservative", "moderate", "exploratory"), seed=0)    # {"conservative": rows, "moderate": ...}

An arm is which pairs there are, in which stages they come, and what is minimised. Everything else is held.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from udasa.arms.budget import level
from udasa.arms.contrast import contrasted
from udasa.arms.order import ONE_STAGE, Stages, as_one, at_random, backwards, in_order
from udasa.arms.repair import Pair, extreme, judged, published, self_rewarded, weighted
from udasa.backends import ModelSpec
from udasa.errors import UserError
from udasa.recipe import Training
from udasa.release import Opened

__all__ = ["ARMS", "ONE_STAGE", "Arm", "Pair", "Stages", "find", "level", "train_pairs", "training_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train on what was sampled."""

    meaning: str
    """What is different, in one line."""
    source: str
    """Where the idea is from."""
    pair: Pair = published
    """Which pairs there are."""
    arrange: Callable[[pl.DataFrame, Sequence[str], int], Stages] = in_order
    """Pairs, the recipe's stages in their order, and the run's seed -> the stages in training order."""
    loss: Literal["sft"] | None = None
    """TRL's name of the loss, in the place of the recipe's."""


_OURS = "ours: a control of this project"
_ABLATION = "ours: an ablation, re-paired and re-staged from the stored scores as `udasa restage` would"

ARMS: Mapping[str, Arm] = {
    "staged": Arm(
        meaning="the published stages, largest gaps first",
        source="Sun et al. 2025 (arXiv 2507.17477); Pattnaik et al. 2024, Curri-DPO (arXiv 2403.07230)",
    ),
    "single": Arm(
        meaning="all pairs of staged in one shuffled stage",
        source="Rafailov et al. 2023, DPO (arXiv 2305.18290)",
        arrange=as_one,
    ),
    "reversed": Arm(meaning="the published stages, smallest gaps first", source=_OURS, arrange=backwards),
    "random": Arm(
        meaning="stages of the same sizes, filled by a hash of seed and prompt id", source=_OURS, arrange=at_random
    ),
    "semantic-only": Arm(
        meaning="u is the semantic dimension alone",
        source=_ABLATION,
        pair=weighted(semantic=1.0, factual=0.0, value=0.0),
    ),
    "factual-only": Arm(
        meaning="u is the factual dimension alone",
        source=_ABLATION,
        pair=weighted(semantic=0.0, factual=1.0, value=0.0),
    ),
    "value-only": Arm(
        meaning="u is the value dimension alone", source=_ABLATION, pair=weighted(semantic=0.0, factual=0.0, value=1.0)
    ),
    "no-semantic": Arm(meaning="u without the semantic dimension", source=_ABLATION, pair=weighted(semantic=0.0)),
    "no-factual": Arm(meaning="u without the factual dimension", source=_ABLATION, pair=weighted(factual=0.0)),
    "no-value": Arm(meaning="u without the value dimension", source=_ABLATION, pair=weighted(value=0.0)),
    "max-pairs": Arm(
        meaning="rejected is the most uncertain response",
        source="the extreme that arXiv 2502.16825 finds to get worse as K grows",
        pair=extreme,
    ),
    "sft": Arm(
        meaning="supervised on the chosen responses of staged, in one shuffled stage",
        source="the baseline of Rafailov et al. 2023 (arXiv 2305.18290, section 6)",
        arrange=as_one,
        loss="sft",
    ),
    "judge-only": Arm(
        meaning="two of the K responses by hash; chosen is the one of less risk to the judge",
        source="AI labels in the manner of Lee et al. 2023, RLAIF (arXiv 2309.00267)",
        pair=judged,
        arrange=as_one,
    ),
    "self-rewarding": Arm(
        meaning="least against most risk among the K, by the policy as its own judge",
        source="Yuan et al. 2024 (arXiv 2401.10020), with our judge in the place of their scale of five points",
        pair=self_rewarded,
        arrange=as_one,
    ),
    "rlcd": Arm(
        meaning="sampled anew: told to keep the constitution against told to break it",
        source="Yang et al. 2023 (arXiv 2307.12950), with DPO in the place of their PPO",
        pair=contrasted,
        arrange=as_one,
    ),
    "context-distillation": Arm(
        meaning="supervised on responses that were told to keep the constitution, without telling it",
        source="Askell et al. 2021 (arXiv 2112.00861), on samples in the place of their KL",
        pair=contrasted,
        arrange=as_one,
        loss="sft",
    ),
}
"""Every arm by its name; the first is what the others are compared with."""


def find(names: Sequence[str]) -> dict[str, Arm]:
    """Return the arms of these names, in this order.

    Raises:
        UserError: a name is unknown or stands twice, or there is none.
    """
    if unknown := [name for name in names if name not in ARMS]:
        raise UserError(f"There is no arm {', '.join(unknown)}. The arms are {', '.join(ARMS)}.")
    if not names or len(set(names)) < len(names):
        raise UserError(f"Name one or more different arms, got {', '.join(names) or 'none'}.")
    return {name: ARMS[name] for name in names}


def train_pairs(arm: Arm, opened: Opened, policy: ModelSpec, stages: Sequence[str]) -> pl.DataFrame:
    """Return the arm's training pairs of the recipe's stages, sorted by prompt id.

    Raises:
        UserError: the release does not fit the arm, or there are none.
    """
    rows = arm.pair(opened, policy).filter((pl.col("split") == "train") & pl.col("stage").is_in([*stages, ONE_STAGE]))
    if rows.is_empty():
        raise UserError(f"{opened.target} gives no training pairs to this arm: {arm.meaning}. Build from more prompts.")
    return rows.sort("prompt_id")


def training_of(arm: Arm, training: Training) -> Training:
    """Return the recipe's training with the arm's loss, which takes no label to be wrong.

    Raises:
        UserError: the recipe has settings for single stages, and the arm does not have these.
    """
    if training.overrides and arm.arrange in (as_one, at_random):
        raise UserError(
            f"training.overrides are for {', '.join(override.stage for override in training.overrides)}, and this arm "
            f"has other stages: {arm.meaning}. Leave them out of the recipe."
        )
    return training if arm.loss is None else replace(training, loss=arm.loss, label_smoothing=0.0)
