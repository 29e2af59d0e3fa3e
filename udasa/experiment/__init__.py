"""A release x arms x seeds -> an adapter a cell under one budget, and one table with paired intervals.

out/experiment.json           what the experiment is, written before anything else: another one is refused
out/pairs/<arm>.parquet       the pairs of each arm, cut to the budget
out/budget.json               what each arm comes to, and what was found about its pairs
out/base.json                 the base model on the held-out items
out/cells/<arm>-<seed>/       the stages' adapters; cell.json, written last, holds every item's value
out/results.json  results.md  the table, written last of all
"""

from udasa.experiment.outcomes import Outcome, cells_of, compare, first_of, plain, to_markdown
from udasa.experiment.pairs import arm_pairs, as_dataset
from udasa.experiment.run import DEFAULT_ARMS, Plan, experiment

__all__ = [
    "DEFAULT_ARMS", "Outcome", "Plan", "arm_pairs", "as_dataset", "cells_of", "compare", "experiment", "first_of",
    "plain", "to_markdown",
]  # fmt: skip
