"""The formulas by hand: closed forms and edges."""

from itertools import permutations
from math import exp, log
from typing import Any

import numpy as np
import pytest

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


def test_surprisal_by_hand() -> None:
    likelihood = array(log(0.1), log(0.2), log(0.3), log(0.2))
    value = u.cluster_surprisal(np.array([0, 0, 1, 1]), likelihood)
    assert value == pytest.approx(-np.log([3 / 8, 3 / 8, 5 / 8, 5 / 8]), rel=1e-14)
    assert u.cluster_surprisal(np.array([0, 0, 1]), None) == pytest.approx(-np.log([2 / 3, 2 / 3, 1 / 3]))
    assert u.cluster_surprisal(np.array([0, 1]), array(-1000.0, -1.0)) == pytest.approx([999.0, 0.0])


def test_sar_by_hand() -> None:
    similarity, likelihood = array([1.0, 0.5], [0.5, 1.0]), array(log(0.2), log(0.4))
    expected = -(log(0.2 + 0.4 * 0.5 / 0.001) + log(0.4 + 0.2 * 0.5 / 0.001)) / 2
    assert u.sar(similarity, likelihood) == pytest.approx(expected, rel=1e-14)
    assert u.sar(np.eye(2), likelihood) == pytest.approx(-(log(0.2) + log(0.4)) / 2), "unlike texts lend nothing"
    assert u.sar(np.eye(2), likelihood, temperature=1.0) == u.sar(np.eye(2), likelihood)
    assert u.sar(np.eye(2), array(-1000.0, -2000.0)) == 1500.0
    assert u.sar(np.ones((1, 1)), array(-3.0)) == 3.0


def test_eigenscore_by_hand() -> None:
    z = array([1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 2.0, -2.0])
    assert u.eigenscore(z) == pytest.approx((log(2.001) + log(8.001)) / 2)
    assert u.eigenscore(z[:1]) == pytest.approx(log(2.001))


# --- clustering rules


@pytest.mark.parametrize(
    ("rows", "sets"),
    [
        (("een", "eee", "nee"), {"components": [0, 0, 0], "first-representative": [0, 0, 1], "strict": [0, 0, 1]}),
        (("ene", "nee", "eee"), {"components": [0, 0, 0], "first-representative": [0, 1, 0], "strict": [0, 1, 1]}),
        (("en", "ee"), {"components": [0, 1], "strict": [0, 1], "loose": [0, 0]}),
        (("en", "ne"), {"components": [0, 1], "strict": [0, 1], "loose": [0, 1]}),
        (("ee", "ce"), {"components": [0, 1], "strict": [0, 1], "loose": [0, 1]}),
    ],
    ids=["chain", "bridge", "one-way", "neutral", "one-way-contra"],
)
def test_the_rules_by_hand(rows: tuple[str, ...], sets: dict[u.Rule, list[int]]) -> None:
    assert {rule: u.semantic_sets(*labels(*rows), rule).tolist() for rule in sets} == sets


def test_the_order_effect_of_a_chain_by_hand() -> None:
    """Only the two orders of six that begin in the middle find all three together."""
    chain = labels("een", "eee", "nee")
    exact = {
        rule: sum(_differs(chain, rule, order) for order in permutations(range(3))) / 6
        for rule in ("first-representative", "strict")
    }
    assert exact == {"first-representative": 2 / 3, "strict": 2 / 3}
    for rule, share in exact.items():
        assert u.order_effect(*chain, rule, permutations=600) == pytest.approx(share, abs=0.06)  # type: ignore[arg-type]


def _differs(chain: tuple[Floats, Floats, Floats], rule: Any, order: tuple[int, ...]) -> bool:
    here, moved = (u.semantic_sets(*(m[np.ix_(o, o)] for m in chain), rule=rule) for o in ((0, 1, 2), order))
    together = np.equal.outer(here, here)[np.ix_(order, order)]
    return not np.array_equal(np.equal.outer(moved, moved), together)


# --- graphs


def test_graph_of_two_separate_pairs() -> None:
    w = np.kron(np.eye(2), np.ones((2, 2)))
    assert u.degree(w).tolist() == [0.5] * 4
    assert u.degree_matrix(w) == 0.5
    assert u.eigenvalue_laplacian(w) == pytest.approx(2.0)
    assert u.eccentricity(w) == pytest.approx([0.5] * 4)
    assert u.kernel_language_entropy(u.heat_kernel(w, time=100.0)) == pytest.approx(LN2)


def test_separate_responses_are_as_many_meanings() -> None:
    assert u.eigenvalue_laplacian(np.eye(5)) == pytest.approx(5.0)
    assert u.degree_matrix(np.eye(5)) == pytest.approx(0.8)
    assert u.kernel_language_entropy(u.heat_kernel(np.eye(5))) == pytest.approx(log(5))
    assert u.kernel_language_entropy(u.matern_kernel(np.zeros((5, 5)))) == pytest.approx(log(5))


def test_affinity_takes_both_directions_and_no_copy_is_unlike_itself() -> None:
    assert u.affinity(array([0.2, 0.4], [0.8, 0.1])) == pytest.approx(array([1.0, 0.6], [0.6, 1.0]))


def test_the_heat_kernel_is_a_matrix_exponential() -> None:
    """In closed form on two nodes: exp(-t L) = [[1 + e, 1 - e], [1 - e, 1 + e]] / 2, e = exp(-2 w t)."""
    e = exp(-2 * 0.7 * 0.3)
    expected = array([1 + e, 1 - e], [1 - e, 1 + e]) / 2
    assert u.heat_kernel(array([0.0, 0.7], [0.7, 0.0])) == pytest.approx(expected, abs=1e-15)
    assert u.heat_kernel(array([9.0, 0.7], [0.7, 5.0])) == pytest.approx(expected, abs=1e-15), "no self-loops"
    two = u.matern_kernel(array([0.0, 0.7], [0.7, 0.0]), kappa=1.0, nu=1.0)
    assert two == pytest.approx(np.linalg.inv(array([2.7, -0.7], [-0.7, 2.7])), abs=1e-15)


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


def test_claims_by_hand() -> None:
    assert u.unsupported(array([1.0, 0.5], [0.0, 0.1])) == pytest.approx([0.25, 0.95])


def test_selfcheck_by_hand() -> None:
    assert u.selfcheck_nli(array([0.2, 0.4], [0.0, 0.2])) == pytest.approx(0.2)
    assert u.selfcheck_nli(np.ones((0, 3))) is None
    assert u.selfcheck_nli(np.ones((2, 0))) is None


def test_cocoa_by_hand() -> None:
    similarity = array([1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.0])
    assert u.cocoa(array(2.0, 1.0, 4.0), similarity) == pytest.approx([2 * 0.75, 0.625, 4 * 0.875])
    assert u.cocoa(array(2.0), np.ones((1, 1))) is None


def test_p_true_by_hand() -> None:
    assert u.p_true(array(0.6, 0.1), array(0.2, 0.3)) == pytest.approx((0.25 + 0.75) / 2)
    assert u.p_true(array(0.6), array(0.0)) == 0.0
    assert u.p_true(array(0.6, 0.0), array(0.2, 0.0)) is None


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


def test_attribution_by_hand() -> None:
    """One principle is sure of yes and one of no: each has half of the disagreement, ln 2 in all."""
    within, disagreement = u.value_attribution(array([1.0, 1.0], [0.0, 0.0]))
    assert within.tolist() == [0.0, 0.0]
    assert disagreement == pytest.approx([LN2 / 2, LN2 / 2])
    within, disagreement = u.value_attribution(array([0.5, 0.5], [1.0, 1.0]))
    assert within == pytest.approx([LN2 / 2, 0.0])
    assert disagreement == pytest.approx([(0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25)) / 2, log(1 / 0.75) / 2])


# --- wording


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n", []),
        ("Hello, World's 42!", ["hello", "world", "s", "42"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("今天 很好。", ["今", "天", "很", "好"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("?! ...", ["?", "!", ".", ".", "."]),
        ("😀 🎉", ["😀", "🎉"]),
    ],
)
def test_words_of_any_script(text: str, found: list[str]) -> None:
    assert u.words(text) == found


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [("", "", 1.0), ("", "a", 0.0), ("a", "a", 1.0), ("a b c d", "a c", 2 / 3), ("a b", "b a", 0.5)],
)
def test_rouge_l_by_hand(a: str, b: str, value: float) -> None:
    assert u.rouge_l(a.split(), b.split()) == pytest.approx(value)


def test_lexical_dissimilarity_by_hand() -> None:
    value = u.lexical_dissimilarity(u.lexical_similarity(["a b", "A b!", "c d"]))
    assert value is not None
    assert value.tolist() == [0.5, 0.5, 1.0]
    assert u.lexical_dissimilarity(u.lexical_similarity(["a"])) is None


def test_negative_log_probability() -> None:
    assert u.negative_logprob(-1.5) == 1.5
    assert u.negative_logprob(None) is None
    assert str(u.negative_logprob(0.0)) == "0.0"
