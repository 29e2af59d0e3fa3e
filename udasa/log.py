"""What a build has cost so far: a line a finished shard in `log.jsonl`, which outlives every kill.

{"load_seconds": 1.2, "rows": 256, "seconds": 31.4, "shard": "00000.parquet", "step": "responses", "tokens": 40321}

The log is not published and no row hangs on it. A shard that was cut off is not in it; one that is made twice is in it
twice, since it was paid for twice.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from udasa.errors import LimitError, UserError

LOG = "log.jsonl"
PLAN = "plan.json"
"""What `udasa plan -o` predicted for the build; as little published as the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A finished shard, or a step that has no shards."""

    step: str
    shard: str | None
    rows: int
    seconds: float | None
    """Wall time since the last shard; None: the run was killed before it was written down."""
    load_seconds: float
    """Wall time of loading the step's models, in the first shard of a run; 0 on Ray, where it is part of `seconds`."""
    tokens: int
    """Response tokens that were sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a plan expects a build to pay, in the money of its prices."""

    per_prompt: float
    """For reading one prompt: its tokens times the price of input."""
    per_token: float
    """For one response token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much the whole build may cost, over all its runs."""

    limit: float
    unit: Literal["minutes", "tokens", "money"]
    rates: Rates | None = None
    """Needed for money."""

    def spent(self, lines: Iterable[Line]) -> float:
        """Return what the lines cost, in the budget's unit."""
        lines = list(lines)
        tokens = sum(line.tokens for line in lines)
        if self.unit == "minutes":
            return sum((line.seconds or 0.0) + line.load_seconds for line in lines) / 60
        if self.unit == "tokens":
            return tokens
        assert self.rates is not None  # parse_budget sees to it
        prompts = sum(line.rows for line in lines if line.step == "responses")
        return prompts * self.rates.per_prompt + tokens * self.rates.per_token


class BudgetError(LimitError):
    """The budget is used up at a shard boundary; what is done is kept, and the command line exits with 3."""


def parse_budget(text: str, rates: Rates | None) -> Budget:
    """Read `30m`, `500000tokens` or `12.50money`.

    Raises:
        UserError: it is none of these, or money without prices.
    """
    for end, unit in (("money", "money"), ("tokens", "tokens"), ("m", "minutes")):
        number = text.removesuffix(end)
        if number != text and number.replace(".", "", 1).isdecimal() and float(number) > 0:
            if unit == "money" and rates is None:
                raise UserError(
                    "A budget in money needs prices: run `udasa plan RECIPE --price-in X --price-out Y -o BUILD` first."
                )
            return Budget(limit=float(number), unit=unit, rates=rates)  # type: ignore[arg-type]
    raise UserError(f"'{text}' is no budget; expected minutes, tokens or money above 0: 30m, 500000tokens, 12.50money.")


def append(folder: Path, line: Line) -> None:
    """Add a line; what a killed run left of one is taken away first."""
    folder.mkdir(parents=True, exist_ok=True)
    payload = (json.dumps(asdict(line), sort_keys=True) + "\n").encode()
    with (folder / LOG).open("ab+") as file:
        whole = _whole(folder)
        if whole < file.seek(0, os.SEEK_END):
            file.truncate(whole)
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> list[Line]:
    """Return the lines of a build's log, none if there is no log; a torn last line does not count.

    Raises:
        UserError: another line cannot be read.
    """
    path = folder / LOG
    if not path.is_file():
        return []
    try:
        return [Line(**json.loads(text)) for text in path.read_bytes()[: _whole(folder)].decode().splitlines()]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}. Delete it: no row hangs on it.") from error


def _whole(folder: Path) -> int:
    """Return the number of bytes up to the end of the last whole line."""
    return (folder / LOG).read_bytes().rfind(b"\n") + 1
