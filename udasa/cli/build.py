"""Commands that make a build: demo, build, restage."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from udasa.cli.evaluate import print_comparison
from udasa.cli.terminal import RecipeName, RecipeOption, app, bars, out, print_loading, quiet_libraries, table


class RunnerName(Enum):
    """Where steps run."""

    local = "local"
    ray = "ray"


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything goes; a demo that was stopped goes on.")] = Path(
        "runs/demo"
    ),
    recipe: RecipeOption = "demo",
) -> None:
    """Run the main job on the embedded default: a small real model on this machine's CPU, no download from a hub."""
    from udasa.demo import demo as run_demo
    from udasa.recipe import load

    quiet_libraries()
    done = run_demo(load(recipe), folder, bars)
    out.print()
    print_stages(done.manifest)
    print_comparison(done.comparison)
    costs = table("part", "wall s", "peak GB", title="Cost: wall time, peak memory so far")
    for cost in done.costs:
        costs.add_row(cost.part, f"{cost.seconds:.1f}", f"{cost.peak_gb:.2f}")
    out.print(costs)
    out.print(f"Data set: {done.dataset}", highlight=False, soft_wrap=True)
    print_loading(str(done.dataset), "exploratory")
    out.print(f"Adapter:  {done.adapter}", highlight=False, soft_wrap=True)
    out.print(f"Report:   {done.report}", highlight=False, soft_wrap=True)


@app.command()
def build(
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Build folder; a build that was stopped goes on.")],
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many prompts of each source.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="File of remembered entailment answers; by default one inside the build.")
    ] = None,
    runner: Annotated[RunnerName, typer.Option(help="Where the steps that hold models run.")] = RunnerName.local,
    ray_address: Annotated[str | None, typer.Option(help="A Ray cluster to join (host:port or auto).")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Sample shards again in which an engine gave no answer.")] = False,
) -> None:
    """Build staged pairs: prompts, responses, uncertainties, pairs, stages."""
    import dataclasses

    from udasa import flow
    from udasa.recipe import load

    quiet_libraries()
    settings = load(recipe)
    if limit is not None:
        sources = (dataclasses.replace(s, limit=min(limit, s.limit or limit)) for s in settings.sources)
        settings = dataclasses.replace(settings, sources=tuple(sources))
    if retry_failed:
        flow.forget_failures(output)
    flow.build(settings, output, bars, answers, runner.value, ray_address)
    _print_ledger(output)


@app.command()
def restage(
    source: Annotated[Path, typer.Argument(metavar="BUILD", help="A finished build.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new build.")],
    recipe: Annotated[
        str | None, typer.Option(help="With other weights, pairing, staging or training; default: the build's own.")
    ] = None,
) -> None:
    """Pair and stage anew from stored scores: a new build, and no model runs."""
    from udasa import flow
    from udasa.recipe import load

    flow.restage(source, output, None if recipe is None else load(recipe))
    _print_ledger(output)


def _print_ledger(output: Path) -> None:
    from udasa import run

    ledger = run.read_frame(output, "ledger")
    shown = table("outcome", "prompts", title=f"Ledger ({ledger.height} prompts)")
    for outcome, count in ledger.group_by("outcome").len().sort("len", "outcome", descending=[True, False]).iter_rows():
        shown.add_row(outcome, str(count))
    out.print(shown)
    out.print(f"Build: {output}", highlight=False, soft_wrap=True)


def print_stages(manifest: Any) -> None:
    """Print the pairs of each stage and split."""
    from udasa.schema import STAGES

    counts = manifest["counts"]
    shown = table("stage", "train", "test", title=f"Pairs ({counts['pairs']} of {counts['prompts']} prompts)")
    for stage in STAGES:
        splits = counts["stages"][stage]
        shown.add_row(stage, str(splits["train"]), str(splits["test"]))
    out.print(shown)
