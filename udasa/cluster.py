"""The same steps on Ray: shards are handed to actors, each of which holds the step's models and writes its shards.

The driver and every node see one build folder (a shared file system). A shard is read, worked on and written by the
same function as in a local run, so the bytes do not depend on the runner, the number of workers or their order. Ray
Data keeps the actors busy, and gives the shard of one that dies to another.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from udasa import run
from udasa.errors import UserError, require
from udasa.recipe import Workers
from udasa.run import Progress, Step, silent


class Worker:
    """One actor: loads the step once, then works on the shards that it is given."""

    def __init__(self, folder: Path, source: str, step: Step) -> None:
        self.folder, self.source, self.step = folder, source, step
        self.apply = step.make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Work on shards, by name; returns their names and rows."""
        rows = [run.work(self.folder, self.source, self.step.name, self.apply, str(name)) for name in batch["item"]]
        return {"item": batch["item"], "rows": rows}


def connect(address: str | None) -> None:
    """Start Ray on this machine, or join the cluster at `address`.

    Raises:
        UserError: there is no cluster at the address.
        MissingExtraError: Ray is not installed.
    """
    ray = require("ray", extra="ray")
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except ConnectionError as error:
            raise UserError(
                f"There is no Ray cluster at {address}: {error}. Start one with `ray start --head`."
            ) from error


def run_ray(folder: Path, source: str, step: Step, workers: Workers, progress: Progress = silent) -> None:
    """Apply a step to every shard of `source` that is not done yet, on the connected cluster.

    Raises:
        UserError: the cluster is too small for the workers.
    """
    todo = run.unfinished_shards(folder, source, step.name)
    if not todo:
        return
    count = min(workers.count, len(todo))
    _check(count, workers)
    with progress(step.name, sum(run.num_rows(shard) for shard in todo)) as report:
        started = time.perf_counter()
        for row in _done([shard.name for shard in todo], folder.absolute(), source, step, count, workers):
            report(row["rows"])
            ended = time.perf_counter()
            step.check(run.Done(step.name, str(row["item"]), int(row["rows"]), ended - started, 0.0))
            started = ended


def _done(names: Sequence[str], folder: Path, source: str, step: Step, count: int, workers: Workers) -> Any:
    """Yield a row for each shard as it is done, in any order."""
    data = require("ray.data", extra="ray")
    data.DataContext.get_current().enable_progress_bars = False
    return (
        data.from_items(list(names), override_num_blocks=len(names))
        .map_batches(
            Worker,
            fn_constructor_args=(folder, source, run.Step(step.name, step.make)),
            compute=data.ActorPoolStrategy(size=count),
            batch_size=1,
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
        )
        .iter_rows()
    )


def _check(count: int, workers: Workers) -> None:
    """Refuse what the cluster can never place: Ray would wait for ever."""
    found = require("ray", extra="ray").cluster_resources()
    for name, needed in (("CPU", count * workers.cpus), ("GPU", count * workers.gpus)):
        if needed > found.get(name, 0):
            raise UserError(
                f"{count} workers need {needed:g} {name}s and the Ray cluster has {found.get(name, 0):g}. "
                "Lower `count` or the resources of the recipe's workers, or add nodes."
            )
