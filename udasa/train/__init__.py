"""Staged pairs -> one LoRA adapter (or, with `tuning="full"`, a model), one DPOTrainer run a stage.

out/stages/1-conservative/       the adapter after the stage, steps.jsonl, and stage.json, written last: it is complete
out/adapter_model.safetensors    the adapter after the last stage, with its adapter_config.json
out/merged/                      base model and adapter as one model, if asked for
out/steps.jsonl                  what was logged at every step; drawn in figures/training.svg
out/training.json                what was trained on what, written last of all
"""

import importlib.metadata
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from udasa import __version__, backends_hf, schema
from udasa.backends import Identity, ModelSpec
from udasa.errors import require
from udasa.limits import Lint
from udasa.lint import Finding
from udasa.recipe import Training
from udasa.run import Progress, silent, write_file
from udasa.train import curves, models, processes
from udasa.train.data import no_data_bars, read, release
from udasa.train.dpo import STEPS, StageResult
from udasa.train.preflight import refuse_overlap
from udasa.train.stages import DONE, MARKER, AfterStage, Staged, Verdict, go_on, pin, to_json, train_stages

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["AfterStage", "StageResult", "Staged", "Trained", "Verdict", "go_on", "pin", "train", "train_stages"]

MERGED = "merged"
"""The folder of base model and adapter as one model."""

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets")
"""Packages whose versions a training run records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What was trained on what: the content of training.json."""

    license: str
    base_model: str
    base_revision: str | None
    base_dtype: str
    """As the policy names it; `auto`: float32 on a CPU, bfloat16 on a GPU."""
    base_identity: Identity
    arm: str = "staged"
    """Which pairs in which stages, of docs/experiments.md."""
    data: str
    data_revision: str | None
    """The commit of a Hub data set, found before it was read; None: a folder."""
    data_digest: str | None
    """sha256 of the data set's manifest.json; None without one."""
    settings: dict[str, Any]
    """The recipe's `Training`."""
    stages: tuple[StageResult, ...]
    skipped: tuple[str, ...]
    """Stages without pairs."""
    verdict: Verdict
    """`go on` if every stage was trained; else how the run was ended after a stage."""
    findings: tuple[Finding, ...]
    """What was found about the pairs before the first step."""
    merged: bool
    """Whether the folder holds base model and adapter as one model too."""
    versions: dict[str, str]


def train(
    data: str,
    output: Path,
    *,
    policy: ModelSpec,
    training: Training,
    revision: str | None = None,
    license: str = "unknown",
    arm: str = "staged",
    pairs: "Mapping[str, Dataset] | None" = None,
    lint: Lint = Lint(),  # noqa: B008
    near_duplicate: float = 0.8,
    allow_overlap: bool = False,
    merge: bool = False,
    report_to: Sequence[str] = (),
    after_stage: AfterStage = go_on,
    progress: Progress = silent,
) -> Trained:
    """Carry one LoRA adapter through the stages of a published data set with DPO (Rafailov et al. 2023).

    Args:
        data: a folder or Hub id of a udasa data set, with a config a stage; a stage without pairs is skipped.
        output: receives the adapter, the adapter after each stage, and training.json. A stage that is complete
            there is not trained again, and one that was killed goes on from its newest checkpoint.
        policy: the base model.
        training: stages, reference and optimisation.
        revision: tag or commit of a Hub data set.
        license: licence of the adapter, as the Hub writes it; for its card.
        arm: the name of what is trained, as `udasa.arms` has it; it is recorded.
        pairs: the arm's pairs by stage, made from `data`, in the place of the data set's own stages.
        lint: what overlaps with held-out prompts and evaluation data is, and its limits.
        near_duplicate: the recipe's.
        allow_overlap: train in spite of an overlap beyond those limits; it is recorded.
        merge: write base model and adapter as one model, too; not with `tuning="full"`, which writes one anyway.
        report_to: trackers that TRL knows, such as `tensorboard`, `trackio` or `wandb`.
        after_stage: decides how to go on after a stage; see `train_stages`.
        progress: shown the pairs that a reference reads, and the optimiser steps of each stage.

    Raises:
        LimitError: training prompts are in the data set's own test split or in the evaluation.
        UserError: the data set does not fit, or `train_stages` refuses.
        MissingExtraError: the extra `train` is not installed.
    """
    for module in ("trl", "peft"):
        require(module, extra="train")
    commit, manifest = release(data, revision)
    with backends_hf.quiet(), no_data_bars(), TemporaryDirectory(prefix="udasa-", ignore_cleanup_errors=True) as cache:
        pairs = read(data, training.stages, commit, cache) if pairs is None else pairs
        test = read(data, schema.STAGES, commit, cache, split="test")
        overlap = refuse_overlap(pairs, test, lint, near_duplicate, allow_overlap)
        staged = train_stages(
            pairs,
            output,
            policy=policy,
            training=training,
            after_stage=after_stage,
            report_to=report_to,
            progress=progress,
        )
    trained = Trained(
        **pin(policy, training),
        license=license,
        arm=arm,
        data=data,
        data_revision=commit,
        data_digest=manifest,
        stages=staged.results,
        skipped=tuple(name for name, rows in pairs.items() if not len(rows)),
        verdict=staged.verdict,
        findings=(*overlap, *staged.findings),
        merged=merge and training.tuning != "full",
        versions={"udasa": __version__} | {name: importlib.metadata.version(name) for name in PACKAGES},
    )
    if processes.is_main():
        _write(trained, staged, output, policy)
    processes.wait()
    return trained


def _write(trained: Trained, staged: Staged, output: Path, policy: ModelSpec) -> None:
    """Write what came out beside the stages, and training.json last."""
    for path in staged.adapter.iterdir():
        if path.is_file() and path.name not in (DONE, STEPS):
            shutil.copyfile(path, output / path.name)
    curves.write(staged, output)
    shutil.rmtree(output / MERGED, ignore_errors=True)  # of an earlier run
    if trained.merged:
        with backends_hf.quiet():
            models.merge(output, policy, output / MERGED)
    write_file(output / MARKER, to_json(asdict(trained)))
