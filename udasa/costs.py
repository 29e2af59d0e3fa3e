"""Steps -> the same steps, with what they cost written to the build's log and held to a budget between shards."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.compute as pc

from udasa import log, run
from udasa.run import Step


@contextmanager
def timed(folder: Path, name: str, watch: Callable[[log.Line], None] = lambda _: None) -> Iterator[None]:
    """Log the wall time of what has no shards; its rows are the build's prompts."""
    started = time.perf_counter()
    yield
    rows = sum(run.num_rows(shard) for shard in run.shard_paths(folder, "prompts"))
    seconds = time.perf_counter() - started
    line = log.Line(step=name, shard=None, rows=rows, seconds=seconds, load_seconds=0.0, tokens=0)
    log.append(folder, line)
    watch(line)


def logged(
    folder: Path, step: Step, budget: log.Budget | None = None, watch: Callable[[log.Line], None] = lambda _: None
) -> Step:
    """Return the step with a line in the log after every shard, and with the budget's check after its own."""

    def check(done: run.Done) -> None:
        line = log.Line(**done._asdict(), tokens=response_tokens(folder, done.step, done.shard))
        log.append(folder, line)
        watch(line)
        step.check(done)
        stop_at(budget, folder)

    return step._replace(check=check)


def response_tokens(folder: Path, step: str, shard: str) -> int:
    """Return the tokens that a shard's sampling drew; 0 for any other step."""
    if step != "responses":
        return 0
    rows = run.read_parquet(folder / step / shard, ["responses.list.element.num_tokens"])["responses"]
    return int(pc.sum(pc.struct_field(pc.list_flatten(rows), "num_tokens"), min_count=0).as_py())


def adopt(folder: Path) -> None:
    """Log the finished shards of which a killed run wrote no line; their time is not known."""
    known = {(line.step, line.shard) for line in log.read(folder)}
    for step in ("responses", "scored"):
        for path in run.shard_paths(folder, step):
            if (step, path.name) not in known:
                rows, tokens = run.num_rows(path), response_tokens(folder, step, path.name)
                missed = log.Line(step=step, shard=path.name, rows=rows, seconds=None, load_seconds=0.0, tokens=tokens)
                log.append(folder, missed)


def stop_at(budget: log.Budget | None, folder: Path) -> None:
    """Stop between shards if the budget is used up and any shard is left to sample or score.

    Raises:
        BudgetError: it is.
    """
    if budget is None or not run.unfinished_shards(folder, "prompts", "scored"):
        return
    spent = budget.spent(log.read(folder))
    if spent >= budget.limit:
        raise log.BudgetError(
            f"Stopped at the budget of {budget.limit:g} {budget.unit}: the build has used {spent:.6g}. "
            "What is done is kept; run the same command with a larger budget to go on."
        )
