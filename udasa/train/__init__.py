"""Staged pairs -> one LoRA adapter, one DPOTrainer run a stage.

out/stages/1-conservative/       the adapter after the stage; its stage.json, written last, marks it complete
out/adapter_model.safetensors    the adapter after the last stage, with its adapter_config.json
out/training.json                what was trained on what, written last of all
"""

import importlib.metadata
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from udasa import __version__, backends_hf
from udasa.backends import Identity, ModelSpec
from udasa.errors import require
from udasa.recipe import Training
from udasa.run import Progress, silent, write_file
from udasa.train.data import no_data_bars, read, release
from udasa.train.dpo import StageResult
from udasa.train.stages import MARKER, AfterStage, Staged, Verdict, go_on, pin, to_json, train_stages

__all__ = ["AfterStage", "StageResult", "Staged", "Trained", "Verdict", "train", "train_stages"]

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets")
"""Packages whose versions a training run records."""


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


def train(
    data: str,
    output: Path,
    *,
    policy: ModelSpec,
    training: Training,
    revision: str | None = None,
    license: str = "unknown",
    after_stage: AfterStage = go_on,
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
        after_stage: decides how to go on after a stage; see `train_stages`.
        progress: shown the optimiser steps of each stage.

    Raises:
        UserError: the data set does not fit, or `train_stages` refuses.
        MissingExtraError: the extra `train` is not installed.
    """
    for module in ("trl", "peft"):
        require(module, extra="train")
    with backends_hf.quiet(), no_data_bars(), TemporaryDirectory(prefix="udasa-", ignore_cleanup_errors=True) as cache:
        pairs = read(data, training.stages, revision, cache)
        skipped = tuple(name for name, rows in pairs.items() if not len(rows))
        staged = train_stages(
            pairs, output, policy=policy, training=training, after_stage=after_stage, progress=progress
        )
    for name in ADAPTER_FILES:
        shutil.copyfile(staged.adapter / name, output / name)
    commit, manifest = release(data, revision)
    trained = Trained(
        **pin(policy, training),
        license=license,
        data=data,
        data_revision=commit,
        data_digest=manifest,
        stages=staged.results,
        skipped=skipped,
        versions={"udasa": __version__} | {name: importlib.metadata.version(name) for name in PACKAGES},
    )
    write_file(output / MARKER, to_json(asdict(trained)))
    return trained
