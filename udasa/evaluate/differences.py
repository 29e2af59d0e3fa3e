"""Evaluations of the same documents, in order -> paired differences, transitions, forgetting, equivalence.

    compare("runs/base", "runs/stage-1", "runs/stage-2").differences[0]
    -> Difference(task="xstest_safe", metric="refusal", before_run="base", after_run="stage-1", n=250, clusters=10,
                  before=0.596, after=0.296, delta=-0.3, low=-0.41, high=-0.19, p=0.002, …)

Documents are joined by hash, never by position. With more than two runs each is compared with the first and with the
one before it, and p is adjusted over all metrics, tasks and pairs of runs at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from udasa.backends import Floats
from udasa.errors import UserError
from udasa.evaluate.calibrations import calibrations
from udasa.evaluate.comparison import Compared, Comparison, Difference, Equivalence, Forgetting, Level, Quartile
from udasa.evaluate.sides import Mismatch, Side, mismatches, open_sides, shared_tasks
from udasa.evaluate.transitions import Item, changed_items, changes
from udasa.paired import Paired, benjamini_hochberg, clustered_error, equivalence, holm, measure, t_interval
from udasa.statistics import hull, proportion_interval, right_or_wrong

CANARIES = {"udasa_canary_arithmetic,exact_match": 0.05, "udasa_canary_text,bits_per_byte": 0.02}
"""Differences that count as none where alignment should have changed nothing, unless other margins are given: ours."""


class _Values(NamedTuple):
    """A metric on two sides, over the documents that every run of both has it for."""

    keys: list[str]
    clusters: list[str]
    before: Floats
    """Shape (seeds, documents)."""
    after: Floats
    missing: tuple[int, int]


def compare(
    *sides: str | Path,
    anyway: bool = False,
    tasks: Sequence[str] | None = None,
    cluster: str = "cluster",
    margins: Mapping[str, float] | None = None,
) -> Comparison:
    """Return how evaluations of the same documents differ.

    Args:
        sides: two or more, in order, the base first: the folder of an evaluation, or several joined by commas (seeds).
        anyway: compare runs whose setup differs, and say so in what is returned.
        tasks: only these.
        cluster: the documents' field that says which belong together; a document without it stands alone.
        margins: `task` or `task,metric` -> the largest difference that counts as none, for tests of equivalence.

    Raises:
        UserError: an evaluation is not there or not whole, the runs are not comparable, or they share no document.
    """
    opened = open_sides(sides, cluster)
    shared, other = shared_tasks(opened, tasks)
    if (found := [*other, *mismatches(opened, shared)]) and not anyway:
        raise _incomparable(found)
    _check_margins(margins or {}, opened, shared)
    limits = CANARIES | dict(margins or {})
    pairs = [*((opened[0], after) for after in opened[1:]), *pairwise(opened[1:])]
    differences = [d for before, after in pairs for task in shared for d in _differences(before, after, task, limits)]
    if not differences:
        raise UserError(
            "The evaluations have no metric in common that is a mean over documents, so nothing can be paired."
        )
    return Comparison(
        runs=tuple(_described(side) for side in opened),
        differences=tuple(_adjusted(differences)),
        forgetting=tuple(_forgetting(opened, shared)) if len(opened) > 2 else (),
        items=tuple(item for before, after in pairs for task in shared for item in _items(before, after, task)),
        levels=tuple(_levels(opened, shared)),
        calibration=tuple(calibrations(opened, shared)),
        caveats=tuple(map(str, found)),
        notes=tuple(_notes(opened, differences)),
    )


def _incomparable(found: Sequence[Mismatch]) -> UserError:
    listed = "\n".join(f"  {line}" for line in found)
    return UserError(
        f"The evaluations cannot be compared, because they differ in more than the model:\n{listed}\nEvaluate all "
        "models in the same way; or say --anyway, and it will be said of every figure."
    )


def _check_margins(margins: Mapping[str, float], sides: Sequence[Side], tasks: Sequence[str]) -> None:
    known = {
        name for task in tasks for name in (task, *(f"{task},{m}" for m in sides[0].runs[0].tasks[task].scores.values))
    }
    for name, margin in margins.items():
        if name not in known:
            raise UserError(
                f"The margin is of {name}, which was not evaluated. Give one of: {', '.join(sorted(known))}."
            )
        if not margin > 0:
            raise UserError(
                f"The margin of {name} must be above 0, got {margin}: no test can show a difference of exactly 0."
            )


def _values(before: Side, after: Side, task: str, metric: str) -> _Values:
    """Line up a metric's values by document.

    Raises:
        UserError: no document is in both.
    """
    logs = [[run.tasks[task].scores for run in side.runs] for side in (before, after)]
    documents = set.intersection(*(set(scores.prompts) for side in logs for scores in side))
    if not documents:
        raise UserError(
            f"{before.name} and {after.name} share no document of {task}: all document hashes differ. Both must be "
            " evaluated on the same data with the same version of the task."
        )
    has = [set.intersection(documents, *(set(scores.values[metric]) for scores in side)) for side in logs]
    keys = sorted(has[0] & has[1])
    old, new = (np.array([[scores.values[metric][key] for key in keys] for scores in side]) for side in logs)
    clusters = [logs[0][0].clusters[key] for key in keys]
    return _Values(keys, clusters, old, new, (len(has[1] - has[0]), len(has[0] - has[1])))


def _metrics(*sides: Side, task: str) -> list[str]:
    logs = [run.tasks[task].scores.values for side in sides for run in side.runs]
    return [metric for metric in logs[0] if all(metric in values for values in logs)]


def _differences(before: Side, after: Side, task: str, margins: Mapping[str, float]) -> Iterator[Difference]:
    up = before.runs[0].tasks[task].higher_is_better
    for metric in _metrics(before, after, task=task):
        values = _values(before, after, task, metric)
        if not values.keys:
            continue
        paired = measure(values.before, values.after, values.clusters, task, metric)
        single = len(before.runs) == len(after.runs) == 1
        binary = single and right_or_wrong(values.before[0]) and right_or_wrong(values.after[0])
        old, new = (dict(zip(values.keys, side[0].tolist(), strict=True)) for side in (values.before, values.after))
        margin = margins.get(f"{task},{metric}", margins.get(task))
        yield Difference(
            **{field.name: getattr(paired, field.name) for field in fields(paired)},
            task=task,
            metric=metric,
            before_run=before.name,
            after_run=after.name,
            higher_is_better=up[metric],
            p_holm=paired.p,
            p_bh=paired.p,
            seeds=(len(before.runs), len(after.runs)),
            missing=values.missing,
            bounds=_bounds(before, after, task, metric, values) if binary and any(values.missing) else None,
            changes=changes(old, new, up[metric]) if binary else None,
            quartiles=_quartiles(values) if metric.rpartition("_")[2] == "margin" else (),
            equivalence=None if margin is None else _equivalence(paired, margin),
        )


def _bounds(before: Side, after: Side, task: str, metric: str, values: _Values) -> tuple[float, float]:
    """Return delta if every missing answer was wrong after and right before, and the other way round."""
    old, new = (side.runs[0].tasks[task].scores for side in (before, after))
    shared = old.prompts.keys() & new.prompts.keys()
    lost = [v for k, v in old.values[metric].items() if k in shared and k not in new.values[metric]]
    gained = [v for k, v in new.values[metric].items() if k in shared and k not in old.values[metric]]
    total, n = float((values.after - values.before).sum()), len(values.keys) + len(lost) + len(gained)
    low = total + sum(0.0 - v for v in lost) + sum(v - 1.0 for v in gained)
    high = total + sum(1.0 - v for v in lost) + sum(v - 0.0 for v in gained)
    return low / n, high / n


def _quartiles(values: _Values) -> tuple[Quartile, ...]:
    """Cut the documents into quarters by their value before, ties by their hash; too few for that give none."""
    initial, deltas = values.before.mean(axis=0), values.after.mean(axis=0) - values.before.mean(axis=0)
    if len(initial) < 8:
        return ()
    found = []
    for part in np.array_split(np.argsort(initial, kind="stable"), 4):
        delta, names = float(deltas[part].mean()), [values.clusters[i] for i in part]
        error = clustered_error(deltas[part], names)
        low, high = (delta, delta) if error is None else t_interval(delta, error, len(set(names)) - 1)
        ends = float(initial[part].min()), float(initial[part].max())
        found.append(Quartile(initial_low=ends[0], initial_high=ends[1], n=len(part), delta=delta, low=low, high=high))
    return tuple(found)


def _equivalence(paired: Paired, margin: float) -> Equivalence:
    p = 1.0 if paired.error is None else equivalence(paired.delta, paired.error, paired.df, margin)
    return Equivalence(margin=margin, p=p, equivalent=p < 0.05)


def _adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """Adjust p over all differences in which some value changed: the others cannot be false alarms (Tarone 1990)."""
    changed = [d for d in differences if d.delta or d.paired_error]
    p = [d.p for d in changed]
    found = {id(d): both for d, *both in zip(changed, holm(p), benjamini_hochberg(p), strict=True)}
    return [replace(d, p_holm=(a := found.get(id(d), (1.0, 1.0)))[0], p_bh=a[1]) for d in differences]


def _forgetting(sides: Sequence[Side], tasks: Sequence[str]) -> Iterator[Forgetting]:
    """Yield, for each metric, the best earlier run against the last one."""
    *earlier, last = sides
    for task in tasks:
        for metric in _metrics(*sides, task=task):
            up = last.runs[0].tasks[task].higher_is_better[metric]
            sign = 1.0 if up else -1.0
            found = [(side, measured) for side in earlier if (measured := _measured(side, last, task, metric))]
            if not found:
                continue
            best, paired = max(found, key=lambda pair: sign * pair[1].before)
            low, high = sorted((-sign * paired.low, -sign * paired.high))
            yield Forgetting(
                task=task, metric=metric, best_run=best.name, best=paired.before, now=paired.after,
                forgotten=-sign * paired.delta, low=low, high=high, n=paired.n,
            )  # fmt: skip


def _measured(before: Side, after: Side, task: str, metric: str) -> Paired | None:
    values = _values(before, after, task, metric)
    return measure(values.before, values.after, values.clusters, task, metric) if values.keys else None


def _items(before: Side, after: Side, task: str) -> list[Item]:
    if not len(before.runs) == len(after.runs) == 1:
        return []
    old, new = (side.runs[0].tasks[task].scores for side in (before, after))
    up, found = before.runs[0].tasks[task].higher_is_better, []
    for metric in _metrics(before, after, task=task):
        a, b = old.values[metric], new.values[metric]
        keys = [key for key in a if key in b]
        if right_or_wrong(a.values()) and right_or_wrong(b.values()):
            found.append((metric, {key: a[key] for key in keys}, {key: b[key] for key in keys}, up[metric]))
    return changed_items(task, (before.name, after.name), found, (old.samples, new.samples), old.clusters)


def _levels(sides: Sequence[Side], tasks: Sequence[str]) -> Iterator[Level]:
    """Yield each run's own value of each metric, over all its documents, with an interval by cluster."""
    for task in tasks:
        for metric in _metrics(*sides, task=task):
            for side in sides:
                yield _level(side, task, metric)


def _level(side: Side, task: str, metric: str) -> Level:
    logs = [run.tasks[task].scores for run in side.runs]
    keys = sorted(set.intersection(*(set(scores.values[metric]) for scores in logs)))
    values = np.array([[scores.values[metric][key] for key in keys] for scores in logs]).mean(axis=0)
    names = [logs[0].clusters[key] for key in keys]
    mean, error = float(values.mean()), clustered_error(values, names)
    low, high = (mean, mean) if error is None else t_interval(mean, error, len(set(names)) - 1)
    if right_or_wrong(values):
        low, high = hull((max(low, 0.0), min(high, 1.0)), proportion_interval(values.tolist()))
    return Level(task, metric, side.name, mean, low, high, len(keys))


def _described(side: Side) -> Compared:
    return Compared(
        side.name,
        tuple(run.model for run in side.runs),
        side.runs[0].facts,
        side.runs[0].files,
        tuple(run.adapter for run in side.runs),
    )


def _notes(sides: Sequence[Side], differences: Sequence[Difference]) -> Iterator[str]:
    """Say what the figures leave open."""
    if all(len(side.runs) == 1 for side in sides):
        yield "One run a side: the intervals are for these models, and not for training again with another seed."
    for fact in dict.fromkeys(name for side in sides for run in side.runs for name in run.facts):
        lacking = [side.name for side in sides if any(fact not in run.facts for run in side.runs)]
        if lacking:
            yield f"The {fact} of {', '.join(lacking)} was not recorded, so it was not compared."
    if alone := dict.fromkeys(d.task for d in differences if d.clusters == 1 < d.n):
        yield f"Documents that are all in one cluster were taken as independent: {', '.join(alone)}."
    for d in differences:
        if any(d.missing):
            lost = f"{d.missing[0]} before and {d.missing[1]} after"
            where = f"{d.metric} of {d.task} ({d.before_run} -> {d.after_run})"
            yield f"{where} is missing for {lost}; these documents are left out of it."
