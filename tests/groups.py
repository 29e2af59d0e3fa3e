"""Random entailment of K responses, for properties of estimators."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from udasa import uncertainty as u
from udasa.backends import Floats

Group = tuple[Floats, Floats, Floats, Floats | None]


def array(*values: Any) -> Floats:
    return np.array(values, dtype=np.float64)


unit = st.floats(0, 1)
log_likelihoods = st.floats(-1e4, 0) | st.floats(-3, 0)


@st.composite
def groups(draw: st.DrawFn) -> tuple[Floats, Floats, Floats, Floats | None]:
    """Entailment of K responses with themselves, and their log-likelihoods or None."""
    k = draw(st.integers(1, 6))
    weights = array(*draw(st.lists(st.tuples(unit, unit, unit), min_size=k * k, max_size=k * k))) + 1e-9
    entail, neutral, contra = (weights / weights.sum(axis=1, keepdims=True)).reshape(k, k, 3).transpose(2, 0, 1).copy()
    for matrix, diagonal in ((entail, 1.0), (neutral, 0.0), (contra, 0.0)):
        np.fill_diagonal(matrix, diagonal)
    likelihood = draw(st.none() | st.lists(log_likelihoods, min_size=k, max_size=k))
    return entail, neutral, contra, None if likelihood is None else array(*likelihood)


judgements = st.lists(st.tuples(unit, unit), min_size=1, max_size=5).map(lambda rows: array(*rows))


def sets_of(group: Group) -> u.Ints:
    return u.semantic_sets(*group[:3])
