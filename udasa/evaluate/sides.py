"""Runs to compare -> sides in order, each of one run or of several seeds; and what keeps them from being compared.

open_sides(["runs/base", "runs/s0,runs/s1,runs/s2"])    # one run before, three seeds after
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from udasa.errors import UserError
from udasa.evaluate.logs import Run, Task, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One model, or one recipe trained with several seeds."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Something that differs between runs though it should not, with the value of each."""

    what: str
    values: tuple[str, ...]
    """`value (run)`, a run each, in order; equal neighbours are told once."""

    def __str__(self) -> str:
        return f"{self.what}: {' and '.join(self.values)}"


def open_sides(paths: Sequence[str | Path], cluster: str = "cluster") -> list[Side]:
    """Read the runs of each side; a side is a path, or several joined by commas (seeds).

    Raises:
        UserError: fewer than two sides, or a path that is no evaluation.
    """
    given = [[Path(part) for part in ([p] if Path(p).exists() else str(p).split(","))] for p in paths]
    if len(given) < 2:
        raise UserError(f"There is nothing to compare with: {len(given)} evaluation was given, expected two or more.")
    names = _short([path for side in given for path in side])
    sides = []
    for side in given:
        runs = tuple(read(path, cluster) for path in side)
        sides.append(Side(name=", ".join(names[path] for path in side), runs=runs))
    return sides


def _short(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest ends of the paths that tell them apart: no page needs the rest."""
    parts = {path: Path(os.path.abspath(path)).parts for path in paths}
    for length in range(1, max(map(len, parts.values())) + 1):
        names = {path: "/".join(part[-length:]) for path, part in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return names


def mismatches(sides: Sequence[Side], tasks: Iterable[str]) -> list[Mismatch]:
    """Return what differs between the runs: setup, versions, documents, prompts, metrics; of known facts.

    `tasks`: those that are looked at.
    """
    runs = [
        (side.name if len(side.runs) == 1 else f"{side.name} #{i}", run)
        for side in sides
        for i, run in enumerate(side.runs, 1)
    ]
    found = _differing_facts([(name, run.facts) for name, run in runs])
    found += _differing_facts([(name, run.files) for name, run in runs], before="sha256 of ")
    for task in tasks:
        logged = [(name, run.tasks[task]) for name, run in runs]
        found += _differing_facts([(name, log.facts) for name, log in logged], after=f" of {task}")
        found += _differing(f"data of {task}", [(name, _data(log)) for name, log in logged])
        found += _prompts(task, logged)
        found += _differing(f"metrics of {task}", [(n, ", ".join(sorted(log.scores.values))) for n, log in logged])
    return found


def _differing_facts(
    named: Sequence[tuple[str, Mapping[str, str]]], before: str = "", after: str = ""
) -> list[Mismatch]:
    """Return the facts that differ between those that have them; `before` and `after` are put around a fact's name."""
    found = []
    for fact in dict.fromkeys(fact for _, facts in named for fact in facts):
        found += _differing(f"{before}{fact}{after}", [(name, facts[fact]) for name, facts in named if fact in facts])
    return found


def _differing(what: str, values: Sequence[tuple[str, str]]) -> list[Mismatch]:
    if len({value for _, value in values}) < 2:
        return []
    by_value: dict[str, list[str]] = {}
    for name, value in values:
        by_value.setdefault(value, []).append(name)
    return [Mismatch(what=what, values=tuple(f"{_cut(v)} ({', '.join(names)})" for v, names in by_value.items()))]


def _cut(value: str) -> str:
    """Return a value that fits into a line; of a hash, its beginning."""
    return value[:12] if len(value) == 64 and value.isalnum() else value if len(value) <= 200 else f"{value[:200]}…"


def _data(log: Task) -> str:
    documents = sorted(log.scores.prompts)
    return f"{len(documents)} documents, sha256 {hashlib.sha256(chr(10).join(documents).encode()).hexdigest()[:12]}"


def _prompts(task: str, logged: Sequence[tuple[str, Task]]) -> list[Mismatch]:
    """Hold the prompts of the shared documents against the first run's."""
    (first, reference), *others = logged
    found = []
    for name, log in others:
        shared = log.scores.prompts.keys() & reference.scores.prompts.keys()
        if other := sum(log.scores.prompts[key] != reference.scores.prompts[key] for key in shared):
            values = (f"those of {first}", f"{other} of {len(shared)} asked in other words ({name})")
            found.append(Mismatch(what=f"prompts of {task}", values=values))
    return found


def shared_tasks(sides: Sequence[Side], chosen: Sequence[str] | None) -> tuple[list[str], list[Mismatch]]:
    """Return the tasks that every run has, in the first run's order, and what the runs have besides.

    Raises:
        UserError: a chosen task is not in every run, or no task is.
    """
    runs = [run for side in sides for run in side.runs]
    everywhere = [task for task in runs[0].tasks if all(task in run.tasks for run in runs)]
    if chosen and (absent := [task for task in chosen if task not in everywhere]):
        raise UserError(
            f"{', '.join(absent)} is not in every evaluation. These are: {', '.join(everywhere) or 'none'}."
        )
    if not everywhere:
        sets = "; ".join(f"{run.path}: {', '.join(run.tasks)}" for run in runs)
        raise UserError(f"The evaluations have no task in common ({sets}). Evaluate the same tasks.")
    if chosen:
        return [task for task in everywhere if task in chosen], []
    listed = [(side.name, ", ".join(sorted(run.tasks))) for side in sides for run in side.runs]
    return everywhere, _differing("set of tasks", listed)
