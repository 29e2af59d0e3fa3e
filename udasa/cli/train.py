"""Commands that train: train."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from udasa.cli.terminal import RecipeOption, app, bars, out, quiet_libraries, table


class Forgetting(StrEnum):
    """What comes after a stage that forgot."""

    warn = "warn"
    stop = "stop"
    rollback = "rollback"


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
        typer.Option(help="Probe the test split after each stage; what then comes after a stage that forgot."),
    ] = None,
    forgetting_threshold: Annotated[
        float, typer.Option(help="The loss that counts: a share of the held-out pairs, or of the canary's bits.")
    ] = 0.05,
) -> None:
    """Train one LoRA adapter through the stages with DPO; a run that was killed goes on where it was."""
    from dataclasses import replace

    from udasa import arms, transitions
    from udasa.experiment import arm_pairs
    from udasa.heldout import held_out
    from udasa.publish import publish_model, write_card
    from udasa.recipe import load
    from udasa.release import is_folder, open_release
    from udasa.run import silent
    from udasa.train import go_on, processes
    from udasa.train import train as run_train

    quiet_libraries()
    settings = load(recipe)
    chosen, watch, pairs = arms.find([arm])[arm], None, None
    settings = replace(settings, training=arms.training_of(chosen, settings.training))
    if on_forgetting or arm != "staged":
        opened = open_release(data if is_folder(data) or not revision else f"{data}@{revision}")
        pairs = arm_pairs(arm, opened, settings) if arm != "staged" else None
        if on_forgetting:
            held = held_out(opened, max_length=settings.training.max_length)
            watch = transitions.Watch(
                output,
                policy=settings.policy,
                held=held,
                on_forgetting=on_forgetting.value,
                threshold=forgetting_threshold,
            )
    trained = run_train(
        data,
        output,
        policy=settings.policy,
        training=settings.training,
        arm=arm,
        pairs=pairs,
        after_stage=watch or go_on,
        revision=revision,
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
    if watch:
        transitions.write(output, watch.transitions())
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
