"""The formulas: closed forms, properties, and vectors made by other implementations."""

import json
from math import exp, inf, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import EXAMPLES
from udasa import uncertainty as u
from udasa.backends import Floats

LN2 = log(2)


def array(*values: Any) -> Floats:
    return np.array(values, dtype=np.float64)


def labels(*rows: str) -> tuple[Floats, Floats, Floats]:
    """One letter a (premise, hypothesis): e(ntails), n(eutral), c(ontradicts)."""
    grid = np.array([list(row) for row in rows])
    entail, neutral, contra = ((grid == letter).astype(np.float64) for letter in "enc")
    return entail, neutral, contra


# --- semantic sets


@pytest.mark.parametrize(
    ("rows", "sets"),
    [
        (("e",), [0]),
        (("ee", "ee"), [0, 0]),
        (("en", "ee"), [0, 1]),
        (("ec", "ee"), [0, 1]),
        (("enn", "nen", "nne"), [0, 1, 2]),
        (("ecec", "cece", "ecec", "cece"), [0, 1, 0, 1]),
        (("een", "eee", "nee"), [0, 0, 0]),
        (("ene", "nee", "eee"), [0, 0, 0]),
        (("ennn", "neen", "neen", "nnne"), [0, 1, 1, 2]),
        (("ennee", "neenn", "neenn", "ennen", "ennne"), [0, 1, 1, 0, 0]),
    ],
    ids=["one", "same", "one-way", "one-way-contra", "all-neutral", "two", "chain", "bridge", "middle", "star"],
)
def test_sets_are_the_components_of_mutual_entailment(rows: tuple[str, ...], sets: list[int]) -> None:
    assert u.semantic_sets(*labels(*rows)).tolist() == sets


def test_entailment_must_be_the_likeliest_label() -> None:
    def pair(p: float, q: float) -> list[int]:
        entail, neutral, contra = (np.eye(2) if i == 0 else np.zeros((2, 2)) for i in range(3))
        for i, j in ((0, 1), (1, 0)):
            entail[i, j], neutral[i, j], contra[i, j] = p, q, 1 - p - q
        return u.semantic_sets(entail, neutral, contra).tolist()

    assert pair(0.5, 0.3) == [0, 0]
    assert pair(0.4, 0.35) == [0, 0]
    assert pair(0.4, 0.5) == [0, 1]
    assert pair(0.4, 0.1) == [0, 1]


# --- semantic entropy


@pytest.mark.parametrize(
    ("sets", "entropy"),
    [
        ([0], 0.0),
        ([0, 0, 0, 0], 0.0),
        ([0, 0, 1, 1], LN2),
        ([0, 0, 0, 1], -(0.75 * log(0.75) + 0.25 * log(0.25))),
        ([0, 1, 2, 3], log(4)),
    ],
)
def test_discrete_entropy(sets: list[int], entropy: float) -> None:
    assert u.semantic_entropy(np.array(sets), None) == pytest.approx(entropy, abs=1e-15)
    equal = np.full(len(sets), -3.7)
    assert u.semantic_entropy(np.array(sets), equal) == pytest.approx(entropy, abs=1e-15)


def test_entropy_weighs_by_likelihood() -> None:
    likelihood = array(log(0.1), log(0.2), log(0.3), log(0.2))
    expected = -(3 / 8 * log(3 / 8) + 5 / 8 * log(5 / 8))
    assert u.semantic_entropy(np.array([0, 0, 1, 1]), likelihood) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("shift", [-1e4, -745.0, 0.0])
def test_very_unlikely_responses_do_not_underflow(shift: float) -> None:
    p = 1 / (1 + exp(-1))
    expected = -(p * log(p) + (1 - p) * log(1 - p))
    assert u.semantic_entropy(np.array([0, 1]), array(shift, shift - 1)) == pytest.approx(expected, rel=1e-9)
    kernel = array([1.0, 0.0], [0.0, 1.0])
    assert u.semantic_uncertainty(kernel, array(shift, shift - 1)) == pytest.approx([1 - p, p], rel=1e-9)


def test_a_response_beyond_belief_counts_for_nothing() -> None:
    assert u.semantic_entropy(np.array([0, 1]), array(-1e4, -1.0)) == 0.0
    assert u.semantic_uncertainty(np.eye(2), array(-1e4, -1.0)).tolist() == [1.0, 0.0]


# --- semantic density


def test_kernel_by_hand() -> None:
    neutral = array([0.9, 0.2], [0.6, 0.0])
    contra = array([0.1, 0.5], [0.4, 1.0])
    assert u.semantic_kernel(neutral, contra) == pytest.approx(array([1.0, 0.4], [0.3, 1.0]))
    assert u.semantic_kernel(array([0.0, 0.4], [0.4, 0.0]), array([0.0, 0.9], [0.9, 0.0])).tolist() == [[1, 0], [0, 1]]


def test_density_by_hand() -> None:
    kernel = array([1.0, 0.4, 0.0], [0.3, 1.0, 0.5], [0.0, 0.5, 1.0])
    assert u.semantic_uncertainty(kernel, None) == pytest.approx(array(1.6, 1.2, 1.5) / 3)
    likelihood = array(log(0.1), log(0.2), log(0.1))
    expected = 1 - array(0.1 + 0.08, 0.03 + 0.2 + 0.05, 0.1 + 0.1) / 0.4
    assert u.semantic_uncertainty(kernel, likelihood) == pytest.approx(expected, rel=1e-14)


def test_one_response_is_certain() -> None:
    assert u.semantic_uncertainty(np.ones((1, 1)), None).tolist() == [0.0]
    assert u.semantic_uncertainty(np.ones((1, 1)), array(-1e4)).tolist() == [0.0]
    assert u.semantic_entropy(np.array([0]), array(-1e4)) == 0.0


# --- factual


def test_support_by_hand() -> None:
    assert u.support(array(0.6, 0.0, 0.7, 0.0), array(0.2, 0.5, 0.0, 0.0)).tolist() == pytest.approx([0.75, 0, 1, 0.5])


def test_factual_by_hand() -> None:
    assert u.factual_uncertainty(array([1.0, 0.5], [0.0, 0.1])) == pytest.approx(0.6)
    assert u.factual_uncertainty(np.ones((2, 3))) == 0.0
    assert u.factual_uncertainty(np.zeros((2, 3))) == 1.0


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_no_claim_or_no_other_response_is_null_and_never_0(shape: tuple[int, int]) -> None:
    assert u.factual_uncertainty(np.ones(shape)) is None


# --- value


def test_binary_entropy_by_hand() -> None:
    expected = [0.0, 0.0, LN2, -(0.25 * log(0.25) + 0.75 * log(0.75))]
    assert u.binary_entropy(array(0.0, 1.0, 0.5, 0.25)).tolist() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("acceptable", "total", "within", "risk", "bias"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], 0.0, 0.0, 0.0, 0.0),
        ([[0.0, 0.0], [0.0, 0.0]], 0.0, 0.0, 1.0, 0.0),
        ([[1.0, 1.0], [0.0, 0.0]], LN2, 0.0, 0.5, 0.0),
        ([[0.5, 0.5], [0.5, 0.5]], LN2, LN2, 0.5, 0.0),
        ([[1.0, 0.0], [1.0, 0.0]], LN2, LN2, 0.5, 1.0),
        ([[0.2, 0.4]], -(0.3 * log(0.3) + 0.7 * log(0.7)), -(0.3 * log(0.3) + 0.7 * log(0.7)), 0.7, -0.2),
        ([[0.5, 0.5], [1.0, 1.0]], -(0.25 * log(0.25) + 0.75 * log(0.75)), LN2 / 2, 0.25, 0.0),
    ],
)
def test_value_by_hand(acceptable: Any, total: float, within: float, risk: float, bias: float) -> None:
    p = array(*acceptable)
    assert u.value_uncertainty(p) == pytest.approx((total, within, total - within), abs=1e-15)
    assert u.value_risk(p) == pytest.approx(risk, abs=1e-15)
    assert u.value_position_bias(p) == pytest.approx(bias, abs=1e-15)


# --- properties

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


# --- other implementations

COINCIDE = (
    "all_entail_k3",
    "all_contradict_k3",
    "two_clusters_k4",
    "all_neutral_k3",
    "one_way_entail_neutral_back_k3",
    "entail_forward_contradict_back_k2",
    "dups_k6",
    "single_k1",
    "random_k5",
)
"""Where comparing with one representative in turn finds the connected components."""

CHAINED = ("bridge_k5", "random_k8", "random_k10")
"""Where it does not: components merge its clusters."""


def oracle(name: str) -> Any:
    """Vectors that public implementations gave; they are kept beside the project."""
    for folder in Path(__file__).resolve().parents:
        path = folder.parent / "shared" / "oracles" / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    pytest.skip("the oracle vectors are not beside the project (../shared/oracles)")


def case(name: str) -> tuple[Floats, Floats, Floats, Floats]:
    """Entailment, neutral and contradiction probabilities, and mean log-probabilities."""
    found = next(one for one in oracle("cases") if one["name"] == name)
    logits = np.array(found["nli_logits"])
    e = np.exp(logits - logits.max(axis=2, keepdims=True))
    contra, neutral, entail = (e / e.sum(axis=2, keepdims=True)).transpose(2, 0, 1)
    return entail, neutral, contra, array(*found["seq_logprob_mean"])


def vector(estimator: str, name: str) -> Any:
    return next(one for one in oracle(estimator)["vectors"] if one["case"] == name)


def test_every_oracle_case_is_used() -> None:
    assert {one["name"] for one in oracle("cases")} == {*COINCIDE, *CHAINED}


@pytest.mark.parametrize("name", COINCIDE)
def test_sets_as_farquhar(name: str) -> None:
    assert u.semantic_sets(*case(name)[:3]).tolist() == vector("semantic_entropy_farquhar", name)["strict"]["ids"]


@pytest.mark.parametrize("name", CHAINED)
def test_components_are_coarser_than_farquhars_clusters(name: str) -> None:
    sets, ids = u.semantic_sets(*case(name)[:3]).tolist(), vector("semantic_entropy_farquhar", name)["strict"]["ids"]
    assert len(set(sets)) < len(set(ids))
    assert len(set(zip(ids, sets, strict=True))) == len(set(ids)), "a cluster lies in one component"


@pytest.mark.parametrize("name", [*COINCIDE, *CHAINED])
def test_semantic_entropy_as_farquhar_on_the_same_clusters(name: str) -> None:
    expected = vector("semantic_entropy_farquhar", name)["strict"]
    ids, likelihood = np.array(expected["ids"]), case(name)[3]
    assert u.semantic_entropy(ids, likelihood) == pytest.approx(expected["se_rao_lengthnorm"], abs=1e-12)
    assert u.semantic_entropy(ids, None) == pytest.approx(expected["discrete_se"], abs=1e-12)


@pytest.mark.parametrize("name", [name for name in (*COINCIDE, *CHAINED) if name != "single_k1"])
def test_semantic_density_as_uqlm(name: str) -> None:
    """Theirs leaves the response itself out of the sum; with k_ii = 1 it can be put back."""
    _, neutral, contra, likelihood = case(name)
    without = vector("uqlm_semantic_density", name)["semantic_density"]
    own, others = exp(likelihood[0]), np.exp(likelihood[1:]).sum()
    expected = 1 - (own + others * without) / (own + others)
    value = u.semantic_uncertainty(u.semantic_kernel(neutral, contra), likelihood)[0]
    assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in (*COINCIDE, *CHAINED) if name != "single_k1"])
def test_luq_as_lm_polygraph(name: str) -> None:
    """Theirs takes a response as one sentence, and is the mean over the responses."""
    entail, _, contra, _ = case(name)
    supports = u.support(entail, contra)
    values = [u.factual_uncertainty(np.delete(supports[:, i], i)[None, :]) for i in range(len(supports))]
    assert np.mean(np.array(values)) == pytest.approx(vector("lmpolygraph_luq", name)["luq"], abs=1e-12)


def test_the_oracle_of_one_response_is_an_edge_we_define() -> None:
    assert vector("lmpolygraph_luq", "single_k1")["luq"] == "nan"
    assert u.factual_uncertainty(np.ones((1, 0))) is None
    assert -inf < u.semantic_entropy(np.array([0]), case("single_k1")[3]) == 0.0
