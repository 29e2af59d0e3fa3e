"""Commands that measure a model: eval, compare."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from udasa.cli.terminal import RecipeName, app, bars, out, quiet_libraries, table
from udasa.errors import UserError

if TYPE_CHECKING:
    from udasa.evaluate.comparison import Difference, Forgetting


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
    judge: Annotated[
        str | None, typer.Option(help="A recipe whose policy compares the answers with the baseline's.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="An evaluation whose answers are compared with.")] = None,
    pairs: Annotated[
        str | None, typer.Option(help="The data set that the adapter was trained on, where it does not say so itself.")
    ] = None,
) -> None:
    """Score a recipe's policy, with or without an adapter, with lm-eval."""
    from udasa.evaluate import evaluate as run_evaluate
    from udasa.recipe import load

    quiet_libraries()
    settings = load(recipe)
    found = run_evaluate(
        settings.policy,
        output,
        adapter=adapter,
        tasks=tasks.split(","),
        data=data,
        profile=profile,
        limit=limit,
        recipe=settings,
        judge=load(judge).policy if judge else None,
        baseline=baseline,
        pairs=pairs,
        progress=bars,
    )
    shown = table("task", "metric", "n", "value", "95 % interval", title="Results")
    for task, result in found.tasks.items():
        for name, metric in (*result.metrics.items(), *result.totals.items()):
            shown.add_row(task, name, str(metric.n), f"{metric.value:.3f}", f"{metric.low:.3f} to {metric.high:.3f}")
    out.print(shown)
    out.print(f"Results: {output}", highlight=False, soft_wrap=True)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Two or more evaluations in order, the base first: folders of udasa eval or of lm_eval "
        "--log_samples --output_path. Join the seeds of one side by commas."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained HTML page.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")] = None,
    cluster: Annotated[str, typer.Option(help="The documents' field that says which belong together.")] = "cluster",
    margin: Annotated[
        list[str] | None,
        typer.Option(help="TASK=0.02 or TASK,METRIC=0.02: test that the difference is within this, by TOST."),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare runs whose setup differs, and say so.")] = False,
) -> None:  # fmt: skip
    """Print paired differences between evaluations, with 95 % intervals, adjusted p and what could have been seen."""
    from udasa import run
    from udasa.evaluate import compare as run_compare
    from udasa.evaluate import to_json

    found = run_compare(
        *runs, anyway=anyway, tasks=tasks.split(",") if tasks else None, cluster=cluster, margins=_margins(margin or ())
    )
    if html:
        from udasa.comparison_page import render_comparison

        run.write_file(html, render_comparison(found).encode())
    if as_json:
        print(to_json(found), end="")
        return
    for line in found.caveats:
        out.print(f"Compared anyway, though this differs: {line}", markup=False, highlight=False, soft_wrap=True)
    for names in dict.fromkeys((d.before_run, d.after_run) for d in found.differences):
        _print_pair(names, [d for d in found.differences if (d.before_run, d.after_run) == names])
    if found.forgetting:
        _print_forgetting(found.forgetting)
    for note in found.notes:
        out.print(note, markup=False, highlight=False, soft_wrap=True)
    if html:
        out.print(f"{html} opens in a browser; it needs no network.", highlight=False, soft_wrap=True)


def _margins(given: Sequence[str]) -> dict[str, float]:
    margins = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            margins[name] = float(value)
        except ValueError:
            raise UserError(
                f"--margin {text} must look like udasa_canary=0.02 or udasa_canary,exact_match=0.02."
            ) from None
    return margins


def print_comparison(differences: "Sequence[Difference]") -> None:
    """Print paired differences of the smoke tier with their intervals."""
    columns = ("task", "metric", "n", "before", "after", "change", "95 % interval")
    shown = table(*columns, title="Before and after on the smoke tier, paired by item")
    for d in differences:
        shown.add_row(_task(d).removeprefix("smoke_"), d.metric, str(d.n), *_numbers(d))
    out.print(shown)


def _task(d: "Difference | Forgetting") -> str:
    return d.task.removeprefix("udasa_")


def _numbers(d: "Difference") -> tuple[str, str, str, str]:
    return f"{d.before:.3f}", f"{d.after:.3f}", f"{d.delta:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}"


def _print_pair(names: tuple[str, str], differences: "Sequence[Difference]") -> None:
    """Print everything about two runs."""
    before, after = map(escape, names)
    shown = table(
        "task", "metric", "n", "clusters", "before", "after", "change", "95 % interval", "p (Holm)", "detectable",
        title=f"{before} -> {after}, paired by document",
    )  # fmt: skip
    for d in differences:
        more = f"{d.p_holm:.3g}", "-" if d.mde is None else f"{d.mde:.3f}"
        shown.add_row(_task(d), d.metric, str(d.n), str(d.clusters), *_numbers(d), *more)
    _print_whole(shown)
    if any(d.changes for d in differences):
        moved = table(
            "task", "metric", "fixed", "broken", "kept right", "kept wrong", "McNemar p", title="Right and wrong"
        )
        for d in differences:
            if c := d.changes:
                counts = map(str, (c.fixed, c.broken, c.kept_right, c.kept_wrong))
                moved.add_row(_task(d), d.metric, *counts, f"{c.p:.3g}")
        _print_whole(moved)
    for d in differences:
        if e := d.equivalence:
            verdict = "the same" if e.equivalent else "not shown to be the same"
            text = f"{_task(d)} {d.metric}: {verdict} within {e.margin:g} (two one-sided tests, p = {e.p:.3g})"
            out.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_forgetting(forgetting: "Sequence[Forgetting]") -> None:
    shown = table(
        "task",
        "metric",
        "n",
        "best earlier",
        "then",
        "now",
        "forgotten",
        "95 % interval",
        title="Forgetting: the best earlier run less the last",
    )
    for f in forgetting:
        numbers = f"{f.best:.3f}", f"{f.now:.3f}", f"{f.forgotten:+.3f}", f"{f.low:+.3f} to {f.high:+.3f}"
        shown.add_row(_task(f), f.metric, str(f.n), escape(f.best_run), *numbers)
    _print_whole(shown)


def _print_whole(shown: Table) -> None:
    """Print a table as wide as it is: no figure is cut off at an edge."""
    width, out.width = out.width, max(out.width, 200)
    out.print(shown, crop=False)
    out.width = width
