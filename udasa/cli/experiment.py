"""Commands that train many times: experiment, cycle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from udasa.cli.terminal import RecipeName, RecipeOption, app, bars, out, quiet_libraries, table

if TYPE_CHECKING:
    from udasa.experiment import Outcome


def words(value: str) -> tuple[str, ...]:
    """Split a list that is written with commas."""
    return tuple(word for part in value.split(",") if (word := part.strip()))


def numbers(value: str) -> tuple[int, ...]:
    """Split a list of whole numbers that is written with commas."""
    try:
        return tuple(int(word) for word in words(value))
    except ValueError as error:
        raise typer.BadParameter(f"expected whole numbers with commas, such as 0,1,2; got '{value}'") from error


@app.command()
def experiment(
    data: Annotated[str, typer.Argument(help="A published data set (folder, or Hub id with @revision), or a build.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; what is done there is kept.")],
    recipe: RecipeOption,
    arms: Annotated[
        str, typer.Option(help="Arms, with commas; the others are compared with the first. docs/experiments.md.")
    ] = "staged,single,reversed,random",
    seeds: Annotated[str, typer.Option(help="Seeds of training, with commas; more can be added later.")] = "0,1,2",
    holdout: Annotated[
        float, typer.Option(help="Share of the prompts to measure on; the test split is among them.")
    ] = 0.1,
    tasks: Annotated[str, typer.Option("--eval", help="lm-eval tasks for every cell, with commas; none: ''.")] = "",
    limit: Annotated[int | None, typer.Option(help="Only the first documents of each task: for trying out.")] = None,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Train on prompts that are held out or in the evaluation.")
    ] = False,
) -> None:
    """Train arms over seeds under one budget, and compare them on held-out pairs."""
    from udasa.experiment import Plan
    from udasa.experiment import experiment as run_experiment
    from udasa.recipe import load

    quiet_libraries()
    plan = Plan(arms=words(arms), seeds=numbers(seeds), holdout=holdout, tasks=words(tasks), limit=limit)
    found = run_experiment(data, output, settings=load(recipe), plan=plan, allow_overlap=allow_overlap, progress=bars)
    _show(found, "arm", "Experiment")
    out.print(f"Table: {output / 'results.md'}", highlight=False, soft_wrap=True)


@app.command()
def cycle(
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; what is done there is kept.")],
    cycles: Annotated[int, typer.Option(help="How often to build from the policy that was just trained.")] = 3,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Train on prompts of the test split or of the evaluation.")
    ] = False,
) -> None:
    """Build, train and measure again and again, each time from the policy that the last cycle trained."""
    from udasa.cycle import NOTE
    from udasa.cycle import cycle as run_cycle
    from udasa.recipe import load

    quiet_libraries()
    found = run_cycle(load(recipe), output, cycles, bars, allow_overlap)
    _show(found.outcomes, "cycle", "Cycles")
    out.print(NOTE, highlight=False, soft_wrap=True)
    for name, findings in found.findings.items():
        for finding in findings:
            if finding.count:
                examples = f" For example {', '.join(finding.examples)}."
                said = f"{name}: {finding.name}: {finding.detail}{examples}"
                out.print(said, markup=False, highlight=False, soft_wrap=True)
    out.print(f"Table: {output / 'cycles.md'}", highlight=False, soft_wrap=True)


def _show(found: "list[Outcome]", what: str, title: str) -> None:
    from udasa.experiment import cells_of, first_of

    first = first_of(found)
    shown = table("metric", what, "items x seeds", "value (95 %)", f"minus {first} (95 %)", title=title)
    for outcome in found:
        shown.add_row(*cells_of(outcome))
    out.print(shown)
