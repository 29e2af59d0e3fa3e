"""Commands that make a build: demo, plan, build, restage."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from udasa.cli.evaluate import print_comparison
from udasa.cli.progress import Display, emit
from udasa.cli.terminal import RecipeName, RecipeOption, app, bars, out, print_loading, quiet_libraries, table

if TYPE_CHECKING:
    from udasa.recipe import Recipe


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
def plan(
    recipe: RecipeName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep it here, where the build will be.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many prompts of each source.")] = None,
    pilot: Annotated[int, typer.Option(min=2, help="Prompts of the pilot.")] = 16,
    price_in: Annotated[float | None, typer.Option(min=0, help="Money per million prompt tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="Money per million response tokens.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="What counts prompt tokens: a Hub id or a folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict what a build will cost, from a pilot of a few prompts; only sampling is priced."""
    from udasa import flow
    from udasa import plan as plans
    from udasa.cli.lint import counter
    from udasa.errors import UserError

    quiet_libraries()
    settings = _limited(recipe, limit)
    if (price_in is None) != (price_out is None):
        raise UserError("Give both --price-in and --price-out, or neither.")
    prices = (
        plans.Prices(prompt=price_in, response=price_out) if price_in is not None and price_out is not None else None
    )
    count: Any = counter(
        tokenizer or (settings.policy.model if settings.policy.backend == "hf" else None), settings.policy
    )
    if output is not None:
        flow.refuse_other(output, settings)
    found = plans.plan(settings, pilot, count, prices, Display(as_json).progress)
    if output is not None:
        plans.keep(found, output)
    if as_json:
        print(plans.to_json(found), end="")
        return
    failed = f", {found.failed} of them without responses" if found.failed else ""
    shown = table(
        "quantity",
        "predicted",
        "95 % interval",
        "unit",
        "n",
        title=f"Plan ({found.prompts} prompts, from a pilot of {found.pilot}{failed})",
    )
    for p in found.predictions:
        shown.add_row(p.name, f"{p.value:,.6g}", f"{p.low:,.6g} to {p.high:,.6g}", p.unit, str(p.n))
    out.print(shown)


@app.command()
def build(
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Build folder; a build that was stopped goes on.")],
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many prompts of each source.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="File of remembered entailment answers; by default one inside the build.")
    ] = None,
    reuse: Annotated[
        Path | None, typer.Option(help="Another build: take over every shard of it that would come out the same.")
    ] = None,
    runner: Annotated[RunnerName, typer.Option(help="Where the steps that hold models run.")] = RunnerName.local,
    ray_address: Annotated[str | None, typer.Option(help="A Ray cluster to join (host:port or auto).")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Sample shards again in which an engine gave no answer.")] = False,
    max_budget: Annotated[
        str | None, typer.Option(help="Stop when the whole build has used 30m, 500000tokens or 12.50money; exit 3.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a shard, and a summary.")] = False,
) -> None:
    """Build staged pairs: prompts, responses, uncertainties, pairs, stages."""
    from udasa import flow, log
    from udasa import plan as plans

    quiet_libraries()
    settings = _limited(recipe, limit)
    planned = plans.stored(output, settings)
    budget = log.parse_budget(max_budget, planned.rates if planned else None) if max_budget else None
    if retry_failed:
        flow.forget_failures(output)
    display = Display(as_json)
    flow.build(settings, output, display.progress, answers, runner.value, ray_address, budget, display.watch, reuse)
    actual = plans.actual(output)
    if as_json:
        emit(build=str(output), actual=actual)
        return
    _print_ledger(output)
    if planned:
        shown = table("quantity", "predicted", "95 % interval", "actual", "unit", title="Predicted and actual")
        for p in planned.predictions:
            if p.name in actual:
                interval = f"{p.low:,.6g} to {p.high:,.6g}"
                shown.add_row(p.name, f"{p.value:,.6g}", interval, f"{actual[p.name]:,.6g}", p.unit)
        out.print(shown)


def _limited(recipe: str, limit: int | None) -> "Recipe":
    """Load a recipe, with at most `limit` prompts of each source."""
    import dataclasses

    from udasa.recipe import load

    settings = load(recipe)
    if limit is None:
        return settings
    sources = (dataclasses.replace(s, limit=min(limit, s.limit or limit)) for s in settings.sources)
    return dataclasses.replace(settings, sources=tuple(sources))


@app.command()
def restage(
    source: Annotated[Path, typer.Argument(metavar="BUILD", help="A finished build.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new build.")],
    recipe: Annotated[
        str | None, typer.Option(help="With other weights, pairing, staging or training; default: the build's own.")
    ] = None,
) -> None:
    """Pair and stage anew from stored scores: a new build, and no model runs."""
    from udasa.recipe import load
    from udasa.restage import restage as run_restage

    run_restage(source, output, None if recipe is None else load(recipe))
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
