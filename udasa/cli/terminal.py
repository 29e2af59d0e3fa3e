"""The app, its two consoles, and what every command prints with."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

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


class Rate(ProgressColumn):
    """Items a second, and what else the caller says."""

    def __init__(self, more: Callable[[], str]) -> None:
        super().__init__()
        self.more = more

    def render(self, task: Task) -> Text:
        """Return the rate, or a dash before the first item."""
        speed = task.finished_speed or task.speed
        return Text(" ".join(("-" if speed is None else f"{speed:.1f}/s", self.more())).rstrip())


@contextmanager
def bars(name: str, total: int, more: Callable[[], str] = str) -> Iterator["Report"]:
    """Show one progress bar with rate and ETA; where there is no terminal, one plain line when it is finished.

    `more`: what to say beside the rate.
    """
    if not err.is_terminal:
        started = time.perf_counter()
        yield lambda _: None
        seconds = time.perf_counter() - started
        text = f"{name}: {total} in {seconds:.1f} s ({total / max(seconds, 1e-9):.1f}/s) {more()}".rstrip()
        err.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(more),
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
    """Return an empty table of the house form; where a cell is too wide, it goes on in the next line."""
    folded = [Column(name, overflow="fold") for name in columns]
    return Table(*folded, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, title_style="bold")
