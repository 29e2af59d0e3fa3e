"""Clusters in waves: the sets of comparing one after the other, and only the questions that they need."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import EXAMPLES
from udasa import uncertainty, waves
from udasa.backends import Floats, Report, ignore
from udasa.memory import Memory, Pair
from udasa.waves import Rule, semantic_entropies, semantic_sets

LABELS = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
"""Entailment, neutral, contradiction."""


class Table:
    """Answers by the first letters of two texts from a matrix of labels; keeps every question."""

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        self.labels = labels
        self.calls: list[list[Pair]] = []

    @property
    def asked(self) -> list[Pair]:
        return [pair for call in self.calls for pair in call]

    def entail(self, pairs: Sequence[Pair], report: Report = ignore) -> Floats:
        self.calls.append(list(pairs))
        return np.array([LABELS[self.labels[_place(a)][_place(b)]] for a, b in pairs]).reshape(-1, 3)

    def matrix(self, texts: Sequence[str]) -> Floats:
        of = [[LABELS[0 if a == b else self.labels[_place(a)][_place(b)]] for b in texts] for a in texts]
        return np.moveaxis(np.array(of), 2, 0)


def _place(text: str) -> int:
    return ord(text[0]) - ord("a")


def one_after_the_other(texts: Sequence[str], matrix: Floats) -> tuple[list[int], set[Pair]]:
    """First match by the textbook: each text against the first of each set, reverse only if forward entails."""
    representatives: list[int] = []
    sets, asked = [], set()
    for j, text in enumerate(texts):
        for number, i in enumerate(representatives):
            forward, backward = (matrix[:, a, b].argmax() == 0 for a, b in ((i, j), (j, i)))
            if text != texts[i]:
                asked |= {(texts[i], text), *([(text, texts[i])] if forward else [])}
            if forward and backward:
                sets.append(number)
                break
        else:
            sets.append(len(representatives))
            representatives.append(j)
    return sets, asked


relations = st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=6, max_size=6)
prompts = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8), max_size=5)


@EXAMPLES
@given(relations, prompts)
def test_waves_give_the_sets_and_the_questions_of_one_after_the_other(
    labels: list[list[int]], texts: list[list[str]]
) -> None:
    table = Table(labels)
    found = semantic_sets(texts, table, rule="first-representative")
    expected = [one_after_the_other(some, table.matrix(some)) for some in texts]
    assert [one.tolist() for one in found.sets] == [sets for sets, _ in expected]
    assert set(table.asked) == {pair for _, asked in expected for pair in asked}
    assert (found.num_waves, found.num_questions) == (len(table.calls), len(table.asked))


@EXAMPLES
@given(relations, prompts)
def test_components_are_those_of_all_pairs_and_ask_no_more(labels: list[list[int]], texts: list[list[str]]) -> None:
    table = Table(labels)
    found = semantic_sets(texts, table)
    for some, sets in zip(texts, found.sets, strict=True):
        np.testing.assert_array_equal(sets, uncertainty.semantic_sets(*table.matrix(some)))
    every = {(a, b) for some in texts for a, b in product(some, some) if a != b}
    assert set(table.asked) <= every
    for call in table.calls:
        assert len(call) == len(set(call))


@pytest.mark.parametrize(("rule", "asked"), [("components", 4), ("first-representative", 4)])
def test_texts_of_one_meaning_are_not_compared_with_each_other(rule: Rule, asked: int) -> None:
    """Three texts of one meaning: the first against both, and back; the other two are joined already."""
    table = Table([[0] * 3] * 3)
    assert semantic_sets([["a", "b", "c", "a"]], table, rule=rule).sets[0].tolist() == [0, 0, 0, 0]
    assert len(table.asked) == asked


def test_a_reverse_is_asked_only_where_the_forward_entails() -> None:
    table = Table([[0, 0, 2], [1, 0, 2], [2, 2, 0]])
    assert semantic_sets([["a", "b", "c"]], table).sets[0].tolist() == [0, 1, 2]
    assert table.calls == [[("a", "b"), ("a", "c")], [("b", "a")], [("b", "c")]]


def test_the_rules_differ_on_a_chain() -> None:
    table = Table([[0, 0, 2], [0, 0, 0], [2, 0, 0]])
    sets = {rule: semantic_sets([["a", "b", "c"]], table, rule=rule).sets[0].tolist() for rule in _RULES}
    assert sets == {"components": [0, 0, 0], "first-representative": [0, 0, 1]}


_RULES: tuple[Rule, ...] = ("components", "first-representative")


def test_a_wave_holds_the_questions_of_all_prompts() -> None:
    labels = [[0 if i % 3 == j % 3 else 2 for j in range(26)] for i in range(26)]
    texts = [[chr(ord("a") + (i + j) % 26) for j in range(6)] for i in range(20)]
    found = semantic_sets(texts, Table(labels), rule="first-representative")
    assert found.num_waves <= 2 * 3
    assert all(sets.max() == 2 for sets in found.sets)


def test_many_prompts_are_clustered_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    table, texts = Table([[0] * 26] * 26), [[chr(ord("a") + i), "z"] for i in range(25)]
    monkeypatch.setattr(waves, "PROMPTS", 4)
    assert [sets.tolist() for sets in semantic_sets(texts, table).sets] == [[0, 0]] * 25
    assert max(len(call) for call in table.calls) == 4


def test_semantic_entropies_of_texts_at_hand() -> None:
    table = Table([[0, 0, 2], [0, 0, 2], [2, 2, 0]])
    texts = [["a", "b", "c"], ["a", "a"], ["c"]]
    thirds = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert semantic_entropies(texts, table) == pytest.approx([thirds, 0.0, 0.0])
    likelihoods = [np.log([0.1, 0.3, 0.4]), None, None]
    assert semantic_entropies(texts, table, likelihoods)[0] == pytest.approx(math.log(2))
    assert semantic_entropies([], table) == []


def test_a_second_run_and_all_pairs_share_a_memory(tmp_path: Path) -> None:
    table, memory = Table([[0, 0, 2], [0, 0, 2], [2, 2, 0]]), Memory(tmp_path / "answers.sqlite", "me")
    first = semantic_entropies([["a", "b", "c"]], table, memory=memory)
    asked = len(table.asked)
    assert semantic_entropies([["a", "b", "c"], ["c", "b"]], table, rule="first-representative", memory=memory)
    assert semantic_entropies([["a", "b", "c"]], table, memory=memory) == first
    assert len(table.asked) == len(set(table.asked)) <= asked + 1
