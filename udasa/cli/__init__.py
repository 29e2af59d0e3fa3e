"""The one console script: every command is a thin call of a function of the package."""

import logging
import os
import sys

from rich.logging import RichHandler
from rich.markup import escape

from udasa import allocator
from udasa.cli import audit, build, classifiers, evaluate, experiment, inspect, judge, lint, release, train
from udasa.cli.terminal import app, err
from udasa.errors import LimitError, MissingExtraError, UserError
from udasa.log import BudgetError

__all__ = [
    "app", "audit", "build", "classifiers", "evaluate", "experiment", "inspect", "judge", "lint", "main", "release",
    "train",
]  # fmt: skip

_ORDER = (
    "demo", "plan", "build", "restage", "calibrate", "lint", "inspect", "publish", "verify", "diff", "rebuild", "card",
    "train", "experiment", "cycle", "eval", "compare", "where",
)  # fmt: skip
"""The commands as `udasa --help` lists them: along the flow."""
app.registered_commands.sort(key=lambda made: _ORDER.index(made.name or getattr(made.callback, "__name__", "")))


def main() -> None:
    """Run the command line; exit 2 on the user's mistakes, 1 if the machine or a limit fails, 3 at a budget."""
    logging.getLogger("udasa").addHandler(RichHandler(console=err, show_path=False, show_time=False, show_level=False))
    logging.getLogger("udasa").setLevel(logging.INFO)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL has no argument for it
    allocator.allow_huge_pages()
    try:
        app()
    except BudgetError as error:
        err.print(escape(str(error)), soft_wrap=True, highlight=False)
        sys.exit(3)
    except LimitError as error:
        _fail(str(error), 1)
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
