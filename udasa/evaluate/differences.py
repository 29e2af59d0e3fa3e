"""Two evaluations of the same documents -> paired differences with intervals."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from udasa.errors import UserError
from udasa.evaluate.results import Scores, load, read_samples, scores
from udasa.statistics import hull, interval, paired_interval, right_or_wrong

_COMPARABLE = ("chat_template", "dtype", "device", "batch_size")


class Difference(NamedTuple):
    """One metric of one task before and after, over the same documents."""

    task: str
    metric: str
    n: int
    before: float
    after: float
    delta: float
    """Mean of after - before."""
    low: float
    """Lower end of the 95 % interval of delta: percentile bootstrap over clusters of documents, paired; of shares of
    right answers, its hull with Bonett and Price's."""
    high: float
    higher_is_better: bool


def compare(before: Path, after: Path) -> list[Difference]:
    """Return the paired difference of every metric of every task, joined by the documents' hashes.

    Raises:
        UserError: the evaluations are not comparable; the message names what differs.
    """
    old, new = load(before), load(after)
    for field in _COMPARABLE:
        _same(field.replace("_", " "), getattr(old.setup, field), getattr(new.setup, field))
    _same("set of tasks", sorted(old.tasks), sorted(new.tasks))
    differences = []
    for task in old.tasks:
        _same(f"version of {task}", old.tasks[task].version, new.tasks[task].version)
        _same(f"set of metrics of {task}", sorted(old.tasks[task].metrics), sorted(new.tasks[task].metrics))
        a, b = (scores(read_samples(folder, run.tasks[task])) for folder, run in ((before, old), (after, new)))
        _same(f"set of documents of {task}", a.prompts.keys(), b.prompts.keys())
        _same(f"prompts of {task}", a.prompts, b.prompts)
        for name, metric in old.tasks[task].metrics.items():
            _same(f"set of documents with {name} in {task}", a.values[name].keys(), b.values[name].keys())
            differences.append(_difference(task, name, a, b, metric.higher_is_better))
    return differences


def to_json(differences: Iterable[Difference]) -> str:
    """Return the differences as a JSON list of objects."""
    return json.dumps([difference._asdict() for difference in differences], indent=2, allow_nan=False) + "\n"


def _difference(task: str, name: str, a: Scores, b: Scores, higher_is_better: bool) -> Difference:
    old, new = a.values[name], b.values[name]
    delta = {key: new[key] - old[key] for key in old}
    low, high = interval(delta, a.clusters, task, name)
    if right_or_wrong(old.values()) and right_or_wrong(new.values()):
        low, high = hull((low, high), paired_interval(delta.values()))
    before, after, mean = (math.fsum(values.values()) / len(values) for values in (old, new, delta))
    return Difference(task, name, len(delta), before, after, mean, low, high, higher_is_better)


def _same(what: str, before: Any, after: Any) -> None:
    """Refuse a comparison over something that differs; a long value is not quoted."""
    if before != after:
        shown = f": {before!r} and {after!r}" if len(f"{before!r}{after!r}") < 300 else ""
        raise UserError(
            f"The two evaluations cannot be compared, because the {what} differs{shown}. "
            "Evaluate both models in the same way."
        )
