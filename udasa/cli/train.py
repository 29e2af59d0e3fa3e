"""Commands that train: train."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from udasa.cli.terminal import RecipeOption, app, bars, out, quiet_libraries, table
from udasa.errors import UserError

if TYPE_CHECKING:
    from udasa.recipe import Recipe
    from udasa.transitions import OnForgetting, Watch

log = logging.getLogger(__name__)


class Forgetting(StrEnum):
    """What comes after a stage that forgot; `off`: it is not measured."""

    warn = "warn"
    stop = "stop"
    rollback = "rollback"
    off = "off"


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="A published data set: a folder or a Hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Adapter folder; stages that are done are kept.")],
    recipe: RecipeOption,
    revision: Annotated[str | None, typer.Option(help="Tag or commit of a Hub data set.")] = None,
    push: Annotated[str | None, typer.Option(help="Push adapter and card to this Hub model (org/name).")] = None,
    public: Annotated[bool, typer.Option("--public", help="Create the repository as public.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Write base model and adapter as one model, too.")] = False,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Train on prompts of the test split or of the evaluation.")
    ] = False,
    report_to: Annotated[
        list[str] | None, typer.Option(help="A tracker that TRL knows: tensorboard, trackio, wandb, ...")
    ] = None,
    arm: Annotated[str, typer.Option(help="An arm of docs/experiments.md: single, reversed, ...")] = "staged",
    on_forgetting: Annotated[
        Forgetting | None,
        typer.Option(
            help="What comes after a stage that forgot, by a probe of the test split after each stage; off: no probe. "
            "Default: warn, if the data set has what is needed."
        ),
    ] = None,
    forgetting_threshold: Annotated[
        float, typer.Option(help="The loss that counts: a share of the held-out pairs, or of the canary's bits.")
    ] = 0.05,
) -> None:
    """Train one LoRA adapter through the stages with DPO; a run that was killed goes on where it was."""
    from dataclasses import replace

    from udasa import arms, transitions
    from udasa.cards.markdown import check_repo
    from udasa.experiment import arm_pairs
    from udasa.publish import publish_model, write_card
    from udasa.recipe import load
    from udasa.release import open_release
    from udasa.run import silent
    from udasa.train import go_on, processes
    from udasa.train import train as run_train
    from udasa.train.data import release

    quiet_libraries()
    if push:
        check_repo(push)
    settings = load(recipe)
    chosen, pairs = arms.find([arm])[arm], None
    settings = replace(settings, training=arms.training_of(chosen, settings.training))
    commit, _ = release(data, revision)
    target = f"{data}@{commit}" if commit else data
    if arm != "staged":
        pairs = processes.from_main(lambda: arm_pairs(arm, open_release(target), settings))
    watch = _watch(
        target, output, settings, on_forgetting.value if on_forgetting else None, threshold=forgetting_threshold
    )
    trained = run_train(
        data,
        output,
        policy=settings.policy,
        training=settings.training,
        arm=arm,
        pairs=pairs,
        after_stage=watch or go_on,
        revision=commit,
        license=settings.license,
        lint=settings.lint,
        near_duplicate=settings.near_duplicate,
        allow_overlap=allow_overlap,
        merge=merge,
        report_to=report_to or (),
        progress=bars if processes.is_main() else silent,
    )
    if not processes.is_main():
        return
    write_card(output, push or f"udasa-{settings.name}-adapter")
    shown = table("stage", "pairs", "steps", "first loss", "last loss", "reward accuracy", title="Training")
    for stage in trained.stages:
        numbers = (stage.first_loss, stage.last_loss, stage.reward_accuracy)
        shown.add_row(stage.stage, str(stage.pairs), str(stage.steps), *(f"{n:.4f}" for n in numbers))
    out.print(shown)
    if watch:
        shown = table("after", "metric", "items", "before", "after", "change (95 %)", "", title="Transitions")
        for transition in watch.transitions():
            shown.add_row(*transitions.row(transition))
        out.print(shown)
    for finding in trained.findings:
        if finding.count:
            examples = f" For example {', '.join(finding.examples)}."
            out.print(f"{finding.name}: {finding.detail}{examples}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Adapter: {output}", highlight=False, soft_wrap=True)
    if push:
        out.print(f"Pushed {push}, commit {publish_model(output, push, private=not public)}", highlight=False)


def _watch(
    target: str,
    output: Path,
    settings: "Recipe",
    on_forgetting: "OnForgetting | Literal['off'] | None",
    threshold: float,
) -> "Watch | None":
    """Return what measures after each stage; None if it is off, or if it cannot be and was not asked for."""
    from udasa.heldout import held_out
    from udasa.release import open_release
    from udasa.train import processes
    from udasa.transitions import Watch

    if on_forgetting == "off":
        return None
    try:
        if on_forgetting is None and settings.training.tuning == "qlora":
            raise UserError("A probe loads the base in the policy's dtype, which takes more memory than its 4 bits.")
        held = held_out(open_release(target, only=["pairs"]), max_length=settings.training.max_length)
    except UserError as error:
        if on_forgetting:
            raise
        if processes.is_main():
            log.warning(
                "It is not measured what each stage improves and forgets. %s --on-forgetting warn insists on it, off "
                "leaves it out without this warning.",
                error,
            )
        return None
    doing = on_forgetting or "warn"
    return Watch(output, policy=settings.policy, held=held, on_forgetting=doing, threshold=threshold)
