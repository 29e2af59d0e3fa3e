"""Commands that measure a model: eval, compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from udasa.cli.terminal import RecipeName, app, bars, out, quiet_libraries, table

if TYPE_CHECKING:
    from udasa.evaluate import Difference


@app.command(name="eval")
def evaluate(
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results and samples.")],
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter folder.")] = None,
    tasks: Annotated[str, typer.Option(help="Tasks or groups, separated by commas.")] = "udasa_smoke",
    data: Annotated[
        Path | None, typer.Option(help="Local mirror of the public data sets; default: UDASA_EVAL_DATA, else the Hub.")
    ] = None,
    profile: Annotated[str, typer.Option(help="full, or cpu: a sample of each public task, by hash.")] = "full",
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many items of each task.")] = None,
) -> None:
    """Score a recipe's policy, with or without an adapter, with lm-eval."""
    from udasa.evaluate import evaluate as run_evaluate
    from udasa.recipe import load

    quiet_libraries()
    found = run_evaluate(
        load(recipe).policy,
        output,
        adapter=adapter,
        tasks=tasks.split(","),
        data=data,
        profile=profile,
        limit=limit,
        progress=bars,
    )
    shown = table("task", "metric", "n", "value", "95 % interval", title="Results")
    for task, result in found.tasks.items():
        for name, metric in result.metrics.items():
            shown.add_row(task, name, str(metric.n), f"{metric.value:.3f}", f"{metric.low:.3f} to {metric.high:.3f}")
    out.print(shown)
    out.print(f"Results: {output}", highlight=False, soft_wrap=True)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="Output folder of an evaluation.")],
    after: Annotated[Path, typer.Argument(help="Output folder of another one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print paired differences between two evaluations, with 95 % intervals."""
    from udasa.evaluate import compare as run_compare
    from udasa.evaluate import to_json

    differences = run_compare(before, after)
    if as_json:
        print(to_json(differences), end="")
    else:
        print_comparison(differences)


def print_comparison(differences: "list[Difference]") -> None:
    """Print paired differences with their intervals."""
    shown = table(
        "task", "metric", "n", "before", "after", "change", "95 % interval", title="Before and after, paired by item"
    )
    for d in differences:
        numbers = (f"{d.before:.3f}", f"{d.after:.3f}", f"{d.delta:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}")
        shown.add_row(d.task.removeprefix("udasa_"), d.metric, str(d.n), *numbers)
    out.print(shown)
