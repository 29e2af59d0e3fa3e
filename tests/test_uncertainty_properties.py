"""What holds for every estimator on any input: bounds, order, repeats, equal responses, one response."""

from collections.abc import Callable, Mapping
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.groups import Group, array, groups, judgements, log_likelihoods, sets_of, unit
from tests.tables import EXAMPLES
from udasa import uncertainty as u
from udasa.backends import Floats

LN2 = log(2)


@EXAMPLES
@given(groups())
def test_semantic_values_are_finite_and_in_bounds(group: Any) -> None:
    entail, neutral, contra, likelihood = group
    k = len(entail)
    sets = u.semantic_sets(entail, neutral, contra)
    entropy = u.semantic_entropy(sets, likelihood)
    assert 0 <= entropy <= log(sets.max() + 1) + 1e-12
    values = u.semantic_uncertainty(u.semantic_kernel(neutral, contra), likelihood)
    assert values.shape == (k,)
    assert ((values >= 0) & (values <= 1)).all()


@EXAMPLES
@given(groups(), st.randoms(use_true_random=False))
def test_another_order_of_the_responses_changes_nothing_but_the_order(group: Any, random: Any) -> None:
    entail, neutral, contra, likelihood = group
    order = list(range(len(entail)))
    random.shuffle(order)
    moved = [matrix[np.ix_(order, order)] for matrix in (entail, neutral, contra)]
    shares = None if likelihood is None else likelihood[order]
    sets, moved_sets = u.semantic_sets(entail, neutral, contra), u.semantic_sets(*moved)
    assert (moved_sets[:, None] == moved_sets).tolist() == (sets[order][:, None] == sets[order]).tolist()
    assert u.semantic_entropy(moved_sets, shares) == pytest.approx(u.semantic_entropy(sets, likelihood), abs=1e-9)
    before = u.semantic_uncertainty(u.semantic_kernel(neutral, contra), likelihood)
    after = u.semantic_uncertainty(u.semantic_kernel(*moved[1:]), shares)
    assert after == pytest.approx(before[order], abs=1e-9)


@EXAMPLES
@given(groups())
def test_sets_are_numbered_by_first_appearance(group: Any) -> None:
    sets = u.semantic_sets(*group[:3]).tolist()
    assert list(dict.fromkeys(sets)) == list(range(max(sets) + 1))


@EXAMPLES
@given(st.lists(log_likelihoods, min_size=1, max_size=8))
def test_equal_responses_have_no_uncertainty(likelihood: list[float]) -> None:
    k, ones, none = len(likelihood), np.ones((len(likelihood),) * 2), np.zeros((len(likelihood),) * 2)
    sets = u.semantic_sets(ones, none, none)
    assert sets.tolist() == [0] * k
    for l_i in (None, array(*likelihood)):
        assert u.semantic_entropy(sets, l_i) == pytest.approx(0.0, abs=1e-12)
        assert u.semantic_uncertainty(u.semantic_kernel(none, none), l_i) == pytest.approx(np.zeros(k), abs=1e-12)


@EXAMPLES
@given(groups())
def test_repeating_every_response_changes_nothing(group: Any) -> None:
    entail, neutral, contra, likelihood = group
    twice = [np.tile(matrix, (2, 2)) for matrix in (entail, neutral, contra)]
    shares = None if likelihood is None else np.tile(likelihood, 2)
    sets = u.semantic_sets(entail, neutral, contra)
    assert u.semantic_sets(*twice).tolist() == [*sets, *sets]
    expected = u.semantic_entropy(sets, likelihood)
    assert u.semantic_entropy(np.tile(sets, 2), shares) == pytest.approx(expected, abs=1e-9)
    before = u.semantic_uncertainty(u.semantic_kernel(neutral, contra), likelihood)
    after = u.semantic_uncertainty(u.semantic_kernel(*twice[1:]), shares)
    assert after == pytest.approx(np.tile(before, 2), abs=1e-9)


@EXAMPLES
@given(groups(), st.floats(-1e4, 0))
def test_only_relative_likelihood_counts(group: Any, shift: float) -> None:
    entail, neutral, contra, likelihood = group
    if likelihood is None:
        likelihood = np.zeros(len(entail))
    sets = u.semantic_sets(entail, neutral, contra)
    expected = u.semantic_entropy(sets, likelihood)
    assert u.semantic_entropy(sets, likelihood + shift) == pytest.approx(expected, abs=1e-8)


@EXAMPLES
@given(st.lists(st.integers(0, 4), min_size=2, max_size=8), st.lists(log_likelihoods, min_size=8, max_size=8))
def test_merging_two_meanings_never_raises_the_entropy(sets: list[int], likelihood: list[float]) -> None:
    l_i = array(*likelihood[: len(sets)])
    merged = [0 if name == 1 else name for name in sets]
    for given_l in (None, l_i):
        apart = u.semantic_entropy(np.array(sets), given_l)
        assert u.semantic_entropy(np.array(merged), given_l) <= apart + 1e-12


@EXAMPLES
@given(groups(), unit)
def test_more_contradiction_never_lowers_the_uncertainty(group: Any, share: float) -> None:
    _, neutral, contra, likelihood = group
    more = contra + share * (1 - contra - neutral)
    before = u.semantic_uncertainty(u.semantic_kernel(neutral, contra), likelihood)
    assert (u.semantic_uncertainty(u.semantic_kernel(neutral, more), likelihood) >= before - 1e-12).all()


@EXAMPLES
@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=6), unit)
def test_support_and_factual_are_bounded_and_monotone(pairs: list[tuple[float, float]], more: float) -> None:
    entail, contra = np.array(pairs).T
    supports = u.support(entail, contra)
    assert ((supports >= 0) & (supports <= 1)).all()
    assert (u.support(entail, contra + more) <= supports + 1e-12)[entail > 0].all()
    value = u.factual_uncertainty(supports[None, :])
    assert value is not None
    assert 0 <= value <= 1
    assert u.factual_uncertainty(supports[:, None]) == pytest.approx(value)


@EXAMPLES
@given(judgements)
def test_value_entropy_splits_into_its_two_parts(acceptable: Floats) -> None:
    total, within, disagreement = u.value_uncertainty(acceptable)
    assert total == pytest.approx(within + disagreement, abs=1e-12)
    assert 0 <= within <= total + 1e-12 <= LN2 + 2e-12
    assert disagreement >= 0
    assert 0 <= u.value_risk(acceptable) <= 1
    assert -1 <= u.value_position_bias(acceptable) <= 1


@EXAMPLES
@given(judgements)
def test_value_does_not_know_the_order_of_principles_or_options(acceptable: Floats) -> None:
    before, backward, swapped = (u.value_uncertainty(p) for p in (acceptable, acceptable[::-1], acceptable[:, ::-1]))
    assert backward == pytest.approx(before, abs=1e-12)
    assert swapped == before
    assert u.value_position_bias(acceptable[:, ::-1]) == -u.value_position_bias(acceptable)


@EXAMPLES
@given(judgements)
def test_value_entropy_is_symmetric_in_yes_and_no_and_risk_is_not(acceptable: Floats) -> None:
    assert u.value_uncertainty(1 - acceptable) == pytest.approx(u.value_uncertainty(acceptable), abs=1e-9)
    assert u.value_risk(1 - acceptable) == pytest.approx(1 - u.value_risk(acceptable), abs=1e-12)


@EXAMPLES
@given(unit, st.integers(1, 5))
def test_principles_that_agree_leave_no_disagreement(p: float, num: int) -> None:
    assert u.value_uncertainty(np.full((num, 2), p)).disagreement == pytest.approx(0, abs=1e-12)


@EXAMPLES
@given(unit, unit)
def test_binary_entropy_rises_towards_one_half(p: float, q: float) -> None:
    near, far = sorted((p, q), key=lambda x: abs(x - 0.5))
    assert u.binary_entropy(array(near))[0] >= u.binary_entropy(array(far))[0] - 1e-12


# --- every estimator of a prompt, and of its responses


def likelihood_of(group: Group) -> Floats:
    """The log-likelihoods; -1 a token where the group has none, for what needs them."""
    return -np.ones(len(group[0])) if group[3] is None else group[3]


def kernel_of(group: Group) -> Floats:
    return u.semantic_kernel(*group[1:3])


PROMPT: Mapping[str, Callable[[Group], float]] = {
    "semantic_entropy": lambda g: u.semantic_entropy(sets_of(g), g[3]),
    "discrete_semantic_entropy": lambda g: u.semantic_entropy(sets_of(g), None),
    "num_semantic_sets": lambda g: float(sets_of(g).max() + 1),
    "degree_matrix": lambda g: u.degree_matrix(u.affinity(g[0])),
    "eigenvalue_laplacian": lambda g: u.eigenvalue_laplacian(u.affinity(g[0])),
    "kernel_language_entropy": lambda g: u.kernel_language_entropy(u.heat_kernel(kernel_of(g) + kernel_of(g).T)),
    "matern": lambda g: u.kernel_language_entropy(u.matern_kernel(kernel_of(g) + kernel_of(g).T)),
    "sar": lambda g: u.sar(u.affinity(kernel_of(g)), likelihood_of(g)),
}

RESPONSE: Mapping[str, Callable[[Group], Floats]] = {
    "semantic_uncertainty": lambda g: u.semantic_uncertainty(kernel_of(g), g[3]),
    "cluster_surprisal": lambda g: u.cluster_surprisal(sets_of(g), g[3]),
    "degree": lambda g: u.degree(u.affinity(g[0])),
    "eccentricity": lambda g: u.eccentricity(u.affinity(g[0])),
}
"""`cocoa` and `lexical_dissimilarity`, which are null for one response, have their own tests."""


def equal_group(k: int, likelihood: Floats | None = None) -> Group:
    return np.ones((k, k)), np.zeros((k, k)), np.zeros((k, k)), likelihood


def away_from_the_threshold(group: Group) -> bool:
    """Say that no eigenvalue is so near 0.9 that rounding decides on which side it lies."""
    w = u.affinity(group[0])
    root = np.sqrt(w.sum(axis=1))
    return bool((abs(np.linalg.eigvalsh(w / np.outer(root, root)) - 0.1) > 1e-6).all())


def bounds(name: str, group: Group) -> tuple[float, float]:
    """Lowest and highest value of an estimator of K responses."""
    k, likelihood = len(group[0]), likelihood_of(group)
    entropy, spread = (0.0, log(k)), float(np.ptp(likelihood)) + log(k)
    return {
        "num_semantic_sets": (1.0, k),
        "eigenvalue_laplacian": (1.0, k),
        "degree_matrix": (0.0, 1 - 1 / k),
        "degree": (0.0, 1 - 1 / k),
        "semantic_uncertainty": (0.0, 1.0),
        "eccentricity": (0.0, 1.0),
        "cluster_surprisal": (0.0, spread),
        "sar": (-likelihood.max() - log(1 + 1000 * (k - 1)), -likelihood.mean()),
    }.get(name, entropy)


@EXAMPLES
@given(groups())
@pytest.mark.parametrize("name", [*PROMPT, *RESPONSE])
def test_every_value_is_finite_and_in_bounds(name: str, group: Group) -> None:
    value = np.asarray(PROMPT[name](group) if name in PROMPT else RESPONSE[name](group))
    low, high = bounds(name, group)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert np.isfinite(value).all()
    assert ((value >= low - slack) & (value <= high + slack)).all()
    assert value.shape == (() if name in PROMPT else (len(group[0]),))


@EXAMPLES
@given(groups(), st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", [*PROMPT, *RESPONSE])
def test_the_order_of_the_responses_is_nothing(name: str, group: Group, random: Any) -> None:
    assume(name != "eccentricity" or away_from_the_threshold(group))
    order = list(range(len(group[0])))
    random.shuffle(order)
    entail, neutral, contra = (matrix[np.ix_(order, order)] for matrix in group[:3])
    moved = (entail, neutral, contra, None if group[3] is None else group[3][order])
    if name in PROMPT:
        assert PROMPT[name](moved) == pytest.approx(PROMPT[name](group), rel=1e-9, abs=1e-7)
    else:
        assert RESPONSE[name](moved) == pytest.approx(RESPONSE[name](group)[order], rel=1e-9, abs=1e-7)


@EXAMPLES
@given(st.lists(log_likelihoods, min_size=1, max_size=8))
@pytest.mark.parametrize("name", [*PROMPT, *RESPONSE])
def test_equal_responses_are_certain_and_so_is_one(name: str, likelihood: list[float]) -> None:
    """0, but a count of meanings is 1, heat needs time to spread, and SAR is a log-likelihood."""
    k, l_i = len(likelihood), array(*likelihood)
    group = equal_group(k, l_i)
    shares = array(1.0, *[np.exp(-0.6 * k)] * (k - 1))
    matern = array(1 / 2, *[1 / (2 + 2 * k)] * (k - 1))
    mass = [np.logaddexp.reduce(np.where(np.arange(k) == i, 0.0, log(1000)) + l_i) for i in range(k)]
    expected = {
        "num_semantic_sets": 1.0,
        "eigenvalue_laplacian": 1.0,
        "kernel_language_entropy": entropy_of(shares),
        "matern": entropy_of(matern),
        "sar": -float(np.mean(mass)),
    }.get(name, 0.0)
    value = PROMPT[name](group) if name in PROMPT else RESPONSE[name](group)
    assert value == pytest.approx(np.full(np.shape(value), expected), rel=1e-9, abs=1e-7)


def entropy_of(shares: Floats) -> float:
    p = shares[shares > 0] / shares.sum()
    return float(-(p * np.log(p)).sum())


@EXAMPLES
@given(groups())
@pytest.mark.parametrize("name", ["degree_matrix", "eigenvalue_laplacian", "degree", "eccentricity"])
def test_repeating_every_response_changes_no_graph(name: str, group: Group) -> None:
    """Twice the responses spread one unit of eigenvector over twice the rows: distances shrink by the root of 2."""
    assume(name != "eccentricity" or away_from_the_threshold(group))
    estimate = getattr(u, name)
    w = u.affinity(group[0])
    before, after = estimate(w), estimate(np.tile(w, (2, 2)))
    if name in PROMPT:
        assert after == pytest.approx(before, abs=1e-7)
    else:
        assert after == pytest.approx(np.tile(before, 2) / (sqrt(2) if name == "eccentricity" else 1), abs=1e-7)


# --- how they hang together


@EXAMPLES
@given(groups())
def test_entropy_is_the_mean_surprisal_and_degree_matrix_the_mean_degree(group: Group) -> None:
    sets, likelihood = sets_of(group), likelihood_of(group)
    share = np.exp(likelihood - np.logaddexp.reduce(likelihood))
    mean = share @ u.cluster_surprisal(sets, likelihood)
    assert u.semantic_entropy(sets, likelihood) == pytest.approx(mean, abs=1e-9)
    assert PROMPT["degree_matrix"](group) == pytest.approx(RESPONSE["degree"](group).mean(), abs=1e-12)


@EXAMPLES
@given(groups(), unit)
def test_more_likeness_never_raises_degree_sar_or_cocoa(group: Group, share: float) -> None:
    entail, likelihood = group[0], likelihood_of(group)
    less, more = u.affinity(entail), u.affinity(entail + share * (1 - entail))
    assert (u.degree(more) <= u.degree(less) + 1e-12).all()
    assert u.sar(more, likelihood) <= u.sar(less, likelihood) + 1e-9
    before, after = u.cocoa(-likelihood, less), u.cocoa(-likelihood, more)
    assert (before is None) == (after is None) == (len(entail) == 1)
    if before is not None and after is not None:
        assert (after <= before + 1e-9).all()


@EXAMPLES
@given(groups(), st.randoms(use_true_random=False))
def test_cocoa_is_information_times_distance(group: Group, random: Any) -> None:
    information, k = -likelihood_of(group), len(group[0])
    value = u.cocoa(information, u.affinity(group[0]))
    assert u.cocoa(information, np.ones((k, k))) is None or not u.cocoa(information, np.ones((k, k))).any()
    if value is not None:
        assert ((value >= 0) & (value <= information + 1e-9)).all()
        order = list(range(k))
        random.shuffle(order)
        moved = u.cocoa(information[order], u.affinity(group[0])[np.ix_(order, order)])
        assert moved == pytest.approx(value[order], rel=1e-9, abs=1e-9)
