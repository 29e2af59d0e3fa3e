"""How far a build is: a bar a step on a terminal, a plain line a finished step elsewhere, or JSON lines."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from udasa.cli.terminal import bars

if TYPE_CHECKING:
    from udasa.backends import Report
    from udasa.log import Line


class Display:
    """Shows the steps of one build."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.left: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, int] = {}

    @contextmanager
    def progress(self, name: str, total: int) -> Iterator["Report"]:
        """Show a step; a `udasa.run.Progress`."""
        self.left[name] = total
        if self.as_json:
            yield lambda _: None
            return
        with bars(name, total, lambda: self.speed(name)) as report:
            yield report

    def watch(self, line: "Line") -> None:
        """Take a finished shard, and print it if lines are JSON; the time left is that of the step, in seconds."""
        step = line.step
        self.rows[step] = self.rows.get(step, 0) + line.rows
        self.seconds[step] = self.seconds.get(step, 0.0) + (line.seconds or 0.0)
        self.tokens[step] = self.tokens.get(step, 0) + line.tokens
        self.left[step] = self.left.get(step, line.rows) - line.rows
        if self.as_json:
            eta = self.left[step] * self.seconds[step] / self.rows[step] if self.rows[step] else None
            emit(step=step, shard=line.shard, rows=line.rows, seconds=line.seconds, tokens=line.tokens, eta=eta)

    def speed(self, name: str) -> str:
        """Return the tokens a second of a step up to its last finished shard; nothing for a step without tokens."""
        seconds = self.seconds.get(name, 0.0)
        return f"{self.tokens[name] / seconds:.1f} tokens/s" if seconds and self.tokens[name] else ""


def emit(**values: Any) -> None:
    """Print one line of JSON to stdout."""
    print(json.dumps(values), flush=True)
