"""The one console script: every command is a thin call of a function of the package."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from udasa.errors import MissingExtraError, UserError

if TYPE_CHECKING:
    from udasa.backends import Report
    from udasa.evaluate import Difference


class ShelfName(Enum):
    """The shelves."""

    builders = "builders"
    eval = "eval"
    cards = "cards"


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Preference pairs without human labels: build, publish, train in stages, evaluate before and after.",
)
out = Console()
err = Console(stderr=True)

RecipeName = Annotated[str, typer.Argument(help="A recipe's name, or the path of a .py or .json recipe.")]
RecipeOption = Annotated[str, typer.Option("--recipe", help="The recipe with the policy and its settings.")]


def main() -> None:
    """Run the command line; exit 2 on the user's mistakes, 1 on a failure of the machine."""
    logging.getLogger("udasa").addHandler(RichHandler(console=err, show_path=False, show_time=False, show_level=False))
    logging.getLogger("udasa").setLevel(logging.INFO)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL has no argument for it
    try:
        app()
    except (UserError, MissingExtraError) as error:
        _fail(str(error), 2)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}. What is finished is kept; run the same command again to go on.", 1)
    except KeyboardInterrupt:
        _fail("Stopped. What is finished is kept; run the same command again to go on.", 130)


def _fail(message: str, code: int) -> None:
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(code)


@contextmanager
def bars(name: str, total: int) -> Iterator["Report"]:
    """Show one progress bar with elapsed time and ETA."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(name, total=total)
        yield lambda n: progress.advance(task, n)


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

    _quiet_libraries()
    done = run_demo(load(recipe), folder, bars)
    out.print()
    _print_stages(done.manifest)
    _print_comparison(done.comparison)
    costs = _table("part", "wall s", "peak GB", title="Cost: wall time, peak memory so far")
    for cost in done.costs:
        costs.add_row(cost.part, f"{cost.seconds:.1f}", f"{cost.peak_gb:.2f}")
    out.print(costs)
    out.print(f"Data set: {done.dataset}", highlight=False, soft_wrap=True)
    _print_loading(str(done.dataset), "exploratory")
    out.print(f"Adapter:  {done.adapter}", highlight=False, soft_wrap=True)
    out.print(f"Report:   {done.report}", highlight=False, soft_wrap=True)


@app.command()
def build(
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Build folder; a build that was stopped goes on.")],
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many prompts of each source.")] = None,
) -> None:
    """Build staged pairs: prompts, responses, uncertainties, pairs, stages."""
    import dataclasses

    from udasa import flow, run
    from udasa.recipe import load

    _quiet_libraries()
    settings = load(recipe)
    if limit is not None:
        sources = (dataclasses.replace(s, limit=min(limit, s.limit or limit)) for s in settings.sources)
        settings = dataclasses.replace(settings, sources=tuple(sources))
    flow.build(settings, output, bars)
    ledger = run.read_frame(output, "ledger")
    table = _table("outcome", "prompts", title=f"Ledger ({ledger.height} prompts)")
    for outcome, count in ledger.group_by("outcome").len().sort("len", "outcome", descending=[True, False]).iter_rows():
        table.add_row(outcome, str(count))
    out.print(table)
    out.print(f"Build: {output}", highlight=False, soft_wrap=True)


@app.command()
def publish(
    build: Annotated[Path, typer.Argument(help="A finished build.")],
    target: Annotated[str, typer.Argument(help="A folder (./name) or a Hub data set (org/name).")],
    version: Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH; the tag is v<version>.")],
    public: Annotated[bool, typer.Option("--public", help="Create the repository as public.")] = False,
) -> None:
    """Publish a build as a data set: one commit, a tag, and read back."""
    from udasa.publish import publish as run_publish

    _quiet_libraries()
    release = run_publish(build, target, version=version, private=not public)
    commit = f", commit {release.commit}" if release.commit else ""
    out.print(f"Published {release.target} {release.version}{commit}", highlight=False, soft_wrap=True)
    out.print(f"manifest sha256 {release.digest}; read back and equal", highlight=False, soft_wrap=True)
    _print_loading(release.target, "exploratory", f"v{release.version}" if release.commit else None)


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="A published data set: a folder or a Hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Adapter folder; stages that are done are kept.")],
    recipe: RecipeOption,
    revision: Annotated[str | None, typer.Option(help="Tag or commit of a Hub data set.")] = None,
    push: Annotated[str | None, typer.Option(help="Push adapter and card to this Hub model (org/name).")] = None,
    public: Annotated[bool, typer.Option("--public", help="Create the repository as public.")] = False,
) -> None:
    """Train one LoRA adapter through the stages with DPO."""
    from dataclasses import asdict

    from udasa import cards, run
    from udasa.publish import publish_model
    from udasa.recipe import load
    from udasa.train import train as run_train

    _quiet_libraries()
    settings = load(recipe)
    trained = run_train(
        data,
        output,
        policy=settings.policy,
        training=settings.training,
        revision=revision,
        license=settings.license,
        progress=bars,
    )
    card = cards.render_model_card(asdict(trained), push or f"udasa-{settings.name}-adapter")
    run.write_file(output / "README.md", card.encode())
    table = _table("stage", "pairs", "steps", "first loss", "last loss", "reward accuracy", title="Training")
    for stage in trained.stages:
        numbers = (stage.first_loss, stage.last_loss, stage.reward_accuracy)
        table.add_row(stage.stage, str(stage.pairs), str(stage.steps), *(f"{n:.4f}" for n in numbers))
    out.print(table)
    out.print(f"Adapter: {output}", highlight=False, soft_wrap=True)
    if push:
        out.print(f"Pushed {push}, commit {publish_model(output, push, private=not public)}", highlight=False)


@app.command(name="eval")
def evaluate(
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results and samples.")],
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter folder.")] = None,
    tasks: Annotated[str, typer.Option(help="Tasks or groups, separated by commas.")] = "udasa",
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many items of each task.")] = None,
) -> None:
    """Score a recipe's policy, with or without an adapter, with lm-eval."""
    from udasa.evaluate import evaluate as run_evaluate
    from udasa.recipe import load

    _quiet_libraries()
    found = run_evaluate(
        load(recipe).policy, output, adapter=adapter, tasks=tasks.split(","), limit=limit, progress=bars
    )
    table = _table("task", "metric", "n", "value", "95 % interval", title="Results")
    for task, result in found.tasks.items():
        for name, metric in result.metrics.items():
            table.add_row(task, name, str(metric.n), f"{metric.value:.3f}", f"{metric.low:.3f} to {metric.high:.3f}")
    out.print(table)
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
        _print_comparison(differences)


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="A release (manifest.json) or a training (training.json).")],
    repo: Annotated[str | None, typer.Option(help="The name that the card shows; default: the folder.")] = None,
    before: Annotated[Path | None, typer.Option(help="Evaluation of the base model, for a model card.")] = None,
    after: Annotated[Path | None, typer.Option(help="Evaluation of the adapter, for a model card.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only validate the card that is there.")] = False,
) -> None:
    """Render a card anew from its manifest or training facts, and validate it."""
    from udasa import cards, run
    from udasa.evaluate import compare as run_compare

    path = folder / "README.md"
    kind: Literal["dataset", "model"] = "dataset" if (folder / "manifest.json").is_file() else "model"
    if not check:
        if (before is None) != (after is None):
            raise UserError("--before and --after belong together: give both evaluations, or neither.")
        facts = _facts(folder, "manifest.json" if kind == "dataset" else "training.json")
        if kind == "dataset":
            pictures = [(f"figures/{p.name}", p.stem.capitalize()) for p in sorted((folder / "figures").glob("*.svg"))]
            text = cards.render_dataset_card(facts, repo, pictures)
        else:
            results = run_compare(before, after) if before and after else None
            text = cards.render_model_card(facts, repo or folder.name, results)
        run.write_file(path, text.encode())
    if not path.is_file():
        raise UserError(f"{folder} holds no README.md to check. Run `udasa card {folder}` first.")
    cards.validate(path.read_text(encoding="utf-8"), kind)
    out.print(f"{path} is a valid {kind} card.", highlight=False, soft_wrap=True)


@app.command()
def where(shelf: Annotated[ShelfName, typer.Argument(help="Which shelf.")]) -> None:
    """Print the folder of a shelf, to read, copy or pass on: lm_eval --include_path $(udasa where eval)."""
    from udasa import resources

    print(resources.shelf(shelf.value))


def _facts(folder: Path, name: str) -> Any:
    if not (folder / name).is_file():
        raise UserError(f"{folder} is neither a release (manifest.json) nor a training (training.json).")
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _quiet_libraries() -> None:
    """Keep the libraries' own progress bars off the terminal; ours are shown instead."""
    import datasets

    datasets.disable_progress_bars()
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _print_loading(target: str, config: str, revision: str | None = None) -> None:
    pinned = f', revision="{revision}"' if revision else ""
    out.print("Load it:", highlight=False)
    for line in (
        "from datasets import load_dataset",
        f'data = load_dataset("{target}", "{config}"{pinned})',
        'print(data["train"][0])',
    ):
        out.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)


def _print_stages(manifest: Any) -> None:
    from udasa.schema import STAGES

    counts = manifest["counts"]
    table = _table("stage", "train", "test", title=f"Pairs ({counts['pairs']} of {counts['prompts']} prompts)")
    for stage in STAGES:
        splits = counts["stages"][stage]
        table.add_row(stage, str(splits["train"]), str(splits["test"]))
    out.print(table)


def _print_comparison(differences: "list[Difference]") -> None:
    table = _table(
        "task", "metric", "n", "before", "after", "change", "95 % interval", title="Before and after, paired by item"
    )
    for d in differences:
        numbers = (f"{d.before:.3f}", f"{d.after:.3f}", f"{d.delta:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}")
        table.add_row(d.task.removeprefix("udasa_"), d.metric, str(d.n), *numbers)
    out.print(table)


def _table(*columns: str, title: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, title_style="bold")
