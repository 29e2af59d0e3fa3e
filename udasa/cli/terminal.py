"""The app, its two consoles, and what every command prints with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from udasa.backends import Report

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


def quiet_libraries() -> None:
    """Keep the libraries' own progress bars off the terminal; ours are shown instead."""
    import datasets

    datasets.disable_progress_bars()
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def print_loading(target: str, config: str, revision: str | None = None) -> None:
    """Print the lines that load a data set."""
    pinned = f', revision="{revision}"' if revision else ""
    out.print("Load it:", highlight=False)
    for line in (
        "from datasets import load_dataset",
        f'data = load_dataset("{target}", "{config}"{pinned})',
        'print(data["train"][0])',
    ):
        out.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)


def table(*columns: str, title: str) -> Table:
    """Return an empty table of the house form."""
    return Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, title_style="bold")
