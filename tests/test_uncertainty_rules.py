"""What holds for clustering rules, embeddings, claims, principles and wording on any input."""

from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.groups import Group, array, groups, judgements, sets_of, unit
from tests.tables import EXAMPLES
from udasa import uncertainty as u
from udasa.backends import Floats

# --- clustering rules


@EXAMPLES
@given(groups())
@pytest.mark.parametrize("rule", u.RULES)
def test_every_rule_gives_a_partition_numbered_by_first_appearance(rule: u.Rule, group: Group) -> None:
    sets = u.semantic_sets(*group[:3], rule).tolist()
    assert len(sets) == len(group[0])
    assert list(dict.fromkeys(sets)) == list(range(max(sets) + 1))


@EXAMPLES
@given(groups())
@pytest.mark.parametrize("rule", ["strict", "first-representative"])
def test_components_merge_the_sets_of_the_strict_rules(rule: u.Rule, group: Group) -> None:
    fine, coarse = u.semantic_sets(*group[:3], rule).tolist(), sets_of(group).tolist()
    assert len(set(zip(fine, coarse, strict=True))) == max(fine) + 1


@EXAMPLES
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7))
def test_all_rules_agree_where_sharing_a_meaning_is_transitive(meanings: list[int]) -> None:
    same = np.equal.outer(meanings, meanings).astype(np.float64)
    found = {tuple(u.semantic_sets(same, np.zeros_like(same), 1 - same, rule)) for rule in u.RULES}
    (sets,) = found
    assert np.equal.outer(sets, sets).tolist() == same.astype(bool).tolist()
    assert {u.order_effect(same, np.zeros_like(same), 1 - same, rule, permutations=5) for rule in u.RULES} == {0.0}


@EXAMPLES
@given(groups())
def test_no_order_moves_the_components(group: Group) -> None:
    assert u.order_effect(*group[:3], "components", permutations=10) == 0.0


MEASURED = {
    4: {"first-representative": 0.07, "strict": 0.08, "loose": 0.36},
    8: {"first-representative": 0.53, "strict": 0.50, "loose": 0.94},
    16: {"first-representative": 0.96, "strict": 0.97, "loose": 1.00},
}
"""Share of orders that change the partition, over 1,000 matrices of uniform random probabilities; here over 200."""


@pytest.mark.parametrize("k", MEASURED)
def test_the_order_effect_is_as_documented(k: int) -> None:
    rng = np.random.default_rng(0)
    shares: dict[str, list[float]] = {rule: [] for rule in u.RULES}
    for _ in range(200):
        entail, neutral, contra = rng.dirichlet((1, 1, 1), size=(k, k)).transpose(2, 0, 1).copy()
        for matrix, diagonal in ((entail, 1.0), (neutral, 0.0), (contra, 0.0)):
            np.fill_diagonal(matrix, diagonal)
        for rule in u.RULES:
            shares[rule].append(u.order_effect(entail, neutral, contra, rule, permutations=5))
    means = {rule: float(np.mean(found)) for rule, found in shares.items()}
    assert means == pytest.approx({"components": 0.0, **MEASURED[k]}, abs=0.07)


# --- EigenScore

embeddings = st.integers(1, 5).flatmap(
    lambda k: st.lists(st.lists(st.floats(-10, 10), min_size=4, max_size=4), min_size=k, max_size=k).map(
        lambda rows: array(*rows)
    )
)


@EXAMPLES
@given(embeddings, st.randoms(use_true_random=False))
def test_eigenscore_is_finite_bounded_below_and_knows_no_order(z: Floats, random: Any) -> None:
    value = u.eigenscore(z)
    order = list(range(len(z)))
    random.shuffle(order)
    assert np.isfinite(value)
    assert value >= log(1e-3) - 1e-12
    assert u.eigenscore(z[order]) == pytest.approx(value, abs=1e-6)
    assert u.eigenscore(z + 7.0) == pytest.approx(value, abs=1e-4), "each embedding is centred over its coordinates"


@EXAMPLES
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.integers(1, 6))
def test_eigenscore_of_equal_responses_in_closed_form(z: list[float], k: int) -> None:
    length = float(np.var(z)) * 3
    expected = ((k - 1) * log(1e-3) + log(k * length + 1e-3)) / k
    assert u.eigenscore(array(*[z] * k)) == pytest.approx(expected, abs=1e-6)


# --- factual estimators and P(True)


@EXAMPLES
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_claims_average_to_the_response_and_contradiction_is_monotone(s: int, others: int, data: st.DataObject) -> None:
    shape = st.lists(unit, min_size=s * others, max_size=s * others).map(lambda x: array(*x).reshape(s, others))
    supports, contra, more = data.draw(shape), data.draw(shape), data.draw(shape)
    assert u.factual_uncertainty(supports) == pytest.approx(u.unsupported(supports).mean(), abs=1e-12)
    assert ((u.unsupported(supports) >= 0) & (u.unsupported(supports) <= 1)).all()
    low, high = u.selfcheck_nli(contra), u.selfcheck_nli(contra + more * (1 - contra))
    assert low is not None
    assert high is not None
    assert 0 <= low <= high + 1e-12 <= 1 + 2e-12
    assert u.selfcheck_nli(contra[::-1, ::-1]) == pytest.approx(low, abs=1e-12)


@EXAMPLES
@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=2), unit)
def test_p_true_is_a_share_null_without_mass_and_monotone(mass: list[tuple[float, float]], more: float) -> None:
    true, false = np.array(mass).T
    value, later = u.p_true(true, false), u.p_true(true, false + more)
    assert (value is None) == bool(((true + false) == 0).any())
    if value is not None and later is not None:
        assert 0 <= value <= later + 1e-9 <= 1 + 2e-9
        assert u.p_true(true[::-1], false[::-1]) == pytest.approx(value, abs=1e-12)
        assert u.p_true(false, true) == pytest.approx(1 - value, abs=1e-9)


# --- value, by principle


@EXAMPLES
@given(judgements)
def test_the_attribution_adds_up_to_the_entropy_and_its_parts(acceptable: Floats) -> None:
    entropy, attribution = u.value_uncertainty(acceptable), u.value_attribution(acceptable)
    assert attribution.within.sum() == pytest.approx(entropy.within, abs=1e-12)
    assert attribution.disagreement.sum() == pytest.approx(entropy.disagreement, abs=1e-12)
    assert (attribution.within >= 0).all()
    assert (attribution.disagreement >= 0).all()
    backward = u.value_attribution(acceptable[::-1])
    assert backward.within[::-1] == pytest.approx(attribution.within, abs=1e-12)
    assert backward.disagreement[::-1] == pytest.approx(attribution.disagreement, abs=1e-12)


@EXAMPLES
@given(unit, unit, st.integers(1, 5))
def test_the_odd_principle_carries_the_most_disagreement(p: float, odd: float, others: int) -> None:
    assume(others > 1)
    parts = u.value_attribution(np.array([[p, p]] * others + [[odd, odd]])).disagreement
    assert (parts[-1] >= parts[:-1] - 1e-12).all()


# --- wording

sentences = st.lists(st.sampled_from("ab c d"), max_size=12).map("".join)


@EXAMPLES
@given(st.lists(st.sampled_from("abc"), max_size=9), st.lists(st.sampled_from("abc"), max_size=9))
def test_the_common_subsequence_is_the_longest(a: list[str], b: list[str]) -> None:
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    assert u.longest_common_subsequence(a, b) == table[-1, -1]


@EXAMPLES
@given(st.lists(sentences | st.text(max_size=6), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_lexical_dissimilarity_of_any_texts(texts: list[str], random: Any) -> None:
    similarity = u.lexical_similarity(texts)
    assert similarity.tolist() == similarity.T.tolist()
    assert ((similarity >= 0) & (similarity <= 1)).all()
    assert np.diag(similarity).tolist() == [1.0] * len(texts)
    value = u.lexical_dissimilarity(similarity)
    assert (value is None) == (len(texts) == 1)
    if value is not None:
        assert ((value >= 0) & (value <= 1)).all()
        order = list(range(len(texts)))
        random.shuffle(order)
        moved = u.lexical_dissimilarity(u.lexical_similarity([texts[i] for i in order]))
        assert moved == pytest.approx(value[order], abs=1e-12)
    same = u.lexical_dissimilarity(u.lexical_similarity([texts[0]] * 3))
    assert same is not None
    assert same.tolist() == [0.0] * 3
