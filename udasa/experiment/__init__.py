"""A release x arms x seeds -> an adapter a cell under one budget, and one table with paired intervals.

out/experiment.json           what the experiment is, written first: another one is refused
out/pairs/<arm>.parquet       the pairs of each arm, cut to the budget; out/budget.json says what each comes to
out/base.json                 the base model on the held-out items
out/cells/<arm>-<seed>/       the stages' adapters; cell.json, written last, holds every item's value
out/results.json  results.md  the table, written last of all
"""

from udasa.experiment.outcomes import Outcome, cells_of, compare, plain, to_markdown
from udasa.experiment.run import DEFAULT_ARMS, Plan, arm_pairs, experiment

__all__ = [
    "DEFAULT_ARMS", "Outcome", "Plan", "arm_pairs", "cells_of", "compare", "experiment", "plain", "to_markdown",
]  # fmt: skip
