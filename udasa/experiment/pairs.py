"""A release -> the pairs of every arm, level, and what each arm sees; or those of one arm with no budget."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from udasa import arms, backends_hf
from udasa.errors import UserError
from udasa.heldout import HeldOut, is_held_out
from udasa.lint import Finding
from udasa.recipe import Recipe, Training
from udasa.release import Opened
from udasa.train.data import COLUMNS
from udasa.train.preflight import pair_tokens, preflight, refuse_overlap

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


class Levelled(NamedTuple):
    """What one arm trains on."""

    rows: pl.DataFrame
    budget: dict[str, Any]
    """Pairs, optimiser steps, tokens of both sides with their prompts in an epoch, pairs by stage, and findings."""


class _Usable(NamedTuple):
    """Pairs that can be trained on, and what was found about the others."""

    rows: pl.DataFrame
    findings: tuple[Finding, ...]


def level_pairs(
    opened: Opened, settings: Recipe, names: Sequence[str], held: HeldOut, holdout: float, allow_overlap: bool
) -> dict[str, Levelled]:
    """Return the training pairs of every arm that the trainer can use, cut to one budget (`udasa.arms.level`).

    Args:
        opened: where the pairs are from.
        settings: the policy and its training.
        names: the arms.
        held: what is measured on; no arm may train on its prompts.
        holdout: the share of the prompts, by hash, that are held out.
        allow_overlap: only record an overlap with these or with the evaluation.

    Raises:
        LimitError: prompts overlap beyond the recipe's limits.
        UserError: an arm has too few pairs, or lacks what its loss needs.
    """
    training, tokenizer = settings.training, backends_hf.load_chat_tokenizer(settings.policy)
    usable: dict[arms.Pair, _Usable] = {}
    for name, arm in arms.find(names).items():
        if arm.pair not in usable:
            rows = arms.train_pairs(arm, opened, settings.policy, training.stages)
            rows = rows.filter(~is_held_out(rows, opened, holdout))
            usable[arm.pair] = _usable(name, rows, settings, tokenizer, held, allow_overlap)
        _refuse_without_gap(name, usable[arm.pair].rows, training)
    made = {name: usable[arms.ARMS[name].pair] for name in names}
    level = arms.level({name: one.rows for name, one in made.items()}, training.batch_size, settings.seed)
    return {
        name: Levelled(rows, _budget(rows, made[name].findings, tokenizer, training)) for name, rows in level.items()
    }


def _usable(
    name: str, rows: pl.DataFrame, settings: Recipe, tokenizer: Any, held: HeldOut, allow_overlap: bool
) -> _Usable:
    """Leave out what the trainer cannot use, and warn of what was found; refuse an overlap."""
    pairs, test = {name: as_dataset(rows)}, {name: as_dataset(pl.DataFrame(list(held.pairs)))}
    overlap = refuse_overlap(pairs, test, settings.lint, settings.near_duplicate, allow_overlap)
    checked = preflight(pairs, tokenizer, settings.training.max_length)
    findings = (*overlap, *checked.findings)
    for finding in findings:
        if finding.count:
            log.warning("%s: %s: %s", name, finding.name, finding.detail)
    return _Usable(rows.filter(pl.col("prompt_id").is_in(list(checked.fits[name].pairs["prompt_id"]))), findings)


def _refuse_without_gap(name: str, rows: pl.DataFrame, training: Training) -> None:
    """Refuse label smoothing from gaps where there are none, before anything is trained."""
    smoothing = arms.training_of(arms.ARMS[name], training).label_smoothing
    if smoothing == "gap" and "gap" not in rows.columns:
        raise UserError(
            f"label_smoothing='gap' needs the pairs' gaps, and those of the arm {name} have none. "
            "Leave the arm out, or give a number."
        )


def _budget(rows: pl.DataFrame, findings: Sequence[Finding], tokenizer: Any, training: Training) -> dict[str, Any]:
    read = (pair_tokens(tokenizer, row) for row in rows.to_dicts())
    return {
        "pairs": rows.height,
        "steps": int(training.epochs) * rows.height // training.batch_size,
        "tokens": sum(min(training.max_length, len(side)) for one in read for side in (one.chosen, one.rejected)),
        "stages": dict(rows.group_by("stage").len().sort("stage").iter_rows()),
        "findings": [finding.to_json() for finding in findings],
    }


def as_dataset(rows: pl.DataFrame) -> "Dataset":
    """Return pairs as the trainer takes them, with their gaps where they have any."""
    from datasets import Dataset

    return Dataset.from_list(rows.select(name for name in (*COLUMNS, "gap") if name in rows.columns).to_dicts())


def arm_pairs(name: str, opened: Opened, settings: Recipe) -> dict[str, "Dataset"]:
    """Return the stages of one arm with all its training pairs, as `udasa.train` takes them: no budget, no holdout.

    Raises:
        UserError: there is no such arm, or the release does not fit it.
    """
    arm, stages = arms.find([name])[name], settings.training.stages
    rows = arms.train_pairs(arm, opened, settings.policy, stages)
    return {stage: as_dataset(part) for stage, part in arm.arrange(rows, stages, settings.training.seed).items()}
