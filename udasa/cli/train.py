"""Commands that train: train."""

from pathlib import Path
from typing import Annotated

import typer

from udasa.cli.terminal import RecipeOption, app, bars, out, quiet_libraries, table


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
) -> None:
    """Train one LoRA adapter through the stages with DPO; a run that was killed goes on where it was."""
    from udasa.publish import publish_model, write_card
    from udasa.recipe import load
    from udasa.train import processes
    from udasa.train import train as run_train

    quiet_libraries()
    settings = load(recipe)
    trained = run_train(
        data,
        output,
        policy=settings.policy,
        training=settings.training,
        revision=revision,
        license=settings.license,
        lint=settings.lint,
        near_duplicate=settings.near_duplicate,
        allow_overlap=allow_overlap,
        merge=merge,
        report_to=report_to or (),
        progress=bars,
    )
    if not processes.is_main():
        return
    write_card(output, push or f"udasa-{settings.name}-adapter")
    shown = table("stage", "pairs", "steps", "first loss", "last loss", "reward accuracy", title="Training")
    for stage in trained.stages:
        numbers = (stage.first_loss, stage.last_loss, stage.reward_accuracy)
        shown.add_row(stage.stage, str(stage.pairs), str(stage.steps), *(f"{n:.4f}" for n in numbers))
    out.print(shown)
    for finding in trained.findings:
        if finding.count:
            examples = f" For example {', '.join(finding.examples)}."
            out.print(f"{finding.name}: {finding.detail}{examples}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Adapter: {output}", highlight=False, soft_wrap=True)
    if push:
        out.print(f"Pushed {push}, commit {publish_model(output, push, private=not public)}", highlight=False)
