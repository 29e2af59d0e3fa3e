"""Every item's value in every cell -> one table: each metric of each arm, and its paired difference from the first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from udasa.backends import Floats
from udasa.probe import METRICS, Metric, Values
from udasa.statistics import Estimate, crossed_change, crossed_level

BASE = "base"
"""The name of the untrained policy in the table."""


class Outcome(NamedTuple):
    """One metric of one arm, over items and seeds."""

    arm: str
    """`base`: the untrained policy."""
    metric: str
    unit: str
    items: int
    seeds: int
    value: Estimate
    difference: Estimate | None
    """Paired by item, minus the first arm; None for the base and the first arm."""


def compare(
    cells: Mapping[tuple[str, int], Values], base: Values | None = None, metrics: Mapping[str, Metric] = METRICS
) -> list[Outcome]:
    """Return every metric of every arm, and its difference from the first arm, paired by item.

    Items and seeds are both taken as drawn (`udasa.statistics.crossed_change`). Items that an arm, a seed or the base
    lacks are left out of that metric everywhere.

    Args:
        cells: (arm, seed) -> values; every arm with every seed.
        base: those of the untrained policy, shown in rows of its own where it is not the measure itself.
        metrics: what the metrics are; one that is not among them has no unit.
    """
    names, seeds = list(dict.fromkeys(name for name, _ in cells)), list(dict.fromkeys(seed for _, seed in cells))
    first, found = names[0], []
    for metric in next(iter(cells.values())):
        about = metrics.get(metric.split(" ")[0])
        alone = [base] if base is not None and not (about and about.to_base) else []
        items = sorted(set.intersection(*(set(values.get(metric, {})) for values in (*alone, *cells.values()))))
        if not items:
            continue

        def matrix(values: Sequence[Values], metric: str = metric, items: Sequence[str] = items) -> Floats:
            return np.array([[one[metric][item] for one in values] for item in items], dtype=np.float64)

        unit, n = about.unit if about else "", len(items)
        by_arm = {name: matrix([cells[name, seed] for seed in seeds]) for name in names}
        found += [Outcome(BASE, metric, unit, n, 1, crossed_level(matrix([values])), None) for values in alone]
        for name, values in by_arm.items():
            difference = None if name == first else crossed_change(by_arm[first], values)
            found.append(Outcome(name, metric, unit, n, len(seeds), crossed_level(values), difference))
    return found


def plain(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the table as JSON values."""
    return [
        outcome._asdict()
        | {"value": asdict(outcome.value), "difference": outcome.difference and asdict(outcome.difference)}
        for outcome in outcomes
    ]


def to_markdown(outcomes: Sequence[Outcome], what: str = "arm") -> str:
    """Return the table as Markdown, a row an arm and metric; `what`: the word for an arm."""
    first = first_of(outcomes)
    lines = [
        f"| metric | {what} | items x seeds | value (95 %) | minus {first} (95 %) |",
        "|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        lines.append("| " + " | ".join(cells_of(outcome)) + " |")
    return "\n".join(lines) + "\n"


def first_of(outcomes: Sequence[Outcome]) -> str:
    """Return the arm that the others are compared with."""
    return next(outcome.arm for outcome in outcomes if outcome.arm != BASE)


def cells_of(outcome: Outcome) -> tuple[str, str, str, str, str]:
    """Return a row of the table as texts: metric with its unit, arm, n, value, difference."""
    metric = f"{outcome.metric}, {outcome.unit}" if outcome.unit else outcome.metric
    change = "" if outcome.difference is None else outcome.difference.shown("+")
    return metric, outcome.arm, f"{outcome.items} x {outcome.seeds}", outcome.value.shown(), change
