"""Entailment between K responses -> which of them share a meaning, by one of four rules."""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from udasa.backends import Floats

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Rule = Literal["components", "first-representative", "strict", "loose"]

RULES: tuple[Rule, ...] = get_args(Rule)
"""The clustering rules; only `components` does not depend on the order of the responses."""

ENTAILS, NEUTRAL, CONTRADICTS = range(3)


def semantic_sets(entail: Floats, neutral: Floats, contra: Floats, rule: Rule = "components") -> Ints:
    """Return the semantic set of each response, shape (K,), numbered by first appearance; column `cluster`.

    Two responses share a meaning if each entails the other: of the three labels entailment is the likeliest in both
    directions (a tie counts as the earlier of entailment, neutral, contradiction). The rules:

    - `components`: the connected components of that relation (our choice: the order of the responses is nothing);
    - `first-representative`: each response joins the first set whose first member it shares a meaning with, else it
      opens a set (the algorithm as printed in Kuhn et al. 2023);
    - `strict`: each response without a set opens one and takes every later one that shares its meaning, even out of
      an earlier set (the released code of Farquhar et al. 2024, strict entailment);
    - `loose`: the same with a wider relation, no contradiction in either direction and not neutral in both (the
      default of that code).

    K = 1 gives one set; equal responses give one set.
    """
    label = np.stack([entail, neutral, contra]).argmax(axis=0)
    same = (label == ENTAILS) & (label.T == ENTAILS)
    if rule == "loose":
        no_contradiction = (label != CONTRADICTS) & (label.T != CONTRADICTS)
        same = no_contradiction & ~((label == NEUTRAL) & (label.T == NEUTRAL))
    return _by_first_appearance(_PROCEDURES[rule](same))


def order_effect(
    entail: Floats, neutral: Floats, contra: Floats, rule: Rule, permutations: int = 200, seed: int = 0
) -> float:
    """Return the share, 0 .. 1, of random orders of the responses in which `rule` finds another partition than here.

    0 for `components`, whatever the responses. A measurement of the rule on these responses, not a score of them.
    """
    rng = np.random.default_rng(seed)
    here = semantic_sets(entail, neutral, contra, rule)
    together = here[:, None] == here
    changed = 0
    for _ in range(permutations):
        order = rng.permutation(len(here))
        entail_, neutral_, contra_ = (matrix[np.ix_(order, order)] for matrix in (entail, neutral, contra))
        moved = semantic_sets(entail_, neutral_, contra_, rule)
        changed += not np.array_equal(moved[:, None] == moved, together[np.ix_(order, order)])
    return changed / permutations


def _components(same: Flags) -> Ints:
    sets = np.arange(len(same))
    for i in range(len(same)):
        for j in np.flatnonzero(same[i, :i]):
            sets[sets == sets[i]] = sets[j]
    return sets


def _first_representative(same: Flags) -> Ints:
    sets = np.arange(len(same))
    representatives: list[int] = []
    for i in range(len(same)):
        sets[i] = next((r for r in representatives if same[r, i]), i)
        if sets[i] == i:
            representatives.append(i)
    return sets


def _seeds(same: Flags) -> Ints:
    sets = np.full(len(same), -1)
    for i in range(len(same)):
        if sets[i] < 0:
            sets[i] = i
            sets[i + 1 :][same[i, i + 1 :]] = i
    return sets


_PROCEDURES: Mapping[Rule, Callable[[Flags], Ints]] = {
    "components": _components,
    "first-representative": _first_representative,
    "strict": _seeds,
    "loose": _seeds,
}


def _by_first_appearance(sets: Ints) -> Ints:
    _, first, inverse = np.unique(sets, return_index=True, return_inverse=True)
    rank: Ints = np.argsort(np.argsort(first))
    return rank[inverse]
