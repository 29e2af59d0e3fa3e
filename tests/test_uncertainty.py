"""The formulas by hand: closed forms and edges."""

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
