"""A judge of pairs: both orders, ties on disagreement, unread replies counted, length controlled, never one's own."""

import numpy as np
import pytest

from udasa.backends import Failure, ModelSpec, Response
from udasa.errors import UserError
from udasa.evaluate import pairwise
from udasa.evaluate.pairwise import Referee, appoint, lc_win, outcome, verdict


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A", "A"),
        (" B.", "B"),
        ("Tie", "tie"),
        ("Answer: B", "B"),
        ("**A**", "A"),
        ("A, since A is right", "A"),
        ("A or B", None),
        ("Both are fine.", None),
        ("", None),
    ],
)
def test_verdicts_are_read_or_not(text, found):
    assert verdict(text) == found


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("A", "B", {"win": 1.0, "agreed": 1.0, "unread": 0.0}),
        ("B", "A", {"win": 0.0, "agreed": 1.0, "unread": 0.0}),
        ("A", "A", {"win": 0.5, "agreed": 0.0, "unread": 0.0}),
        ("tie", "tie", {"win": 0.5, "agreed": 1.0, "unread": 0.0}),
        ("tie", "B", {"win": 0.5, "agreed": 0.0, "unread": 0.0}),
        ("A", None, {"unread": 0.5}),
        (None, None, {"unread": 1.0}),
    ],
)
def test_two_orders_make_an_outcome(first, second, found):
    assert outcome(first, second) == found


class Scripted:
    """Answers by a function of the two answers that it is shown."""

    def __init__(self, choose):
        self.choose = choose

    def sample(self, prompts, seeds, report=None):
        shown = [prompt[0]["content"].split("[Answer A]\n")[1].split("\n\n[Answer B]\n") for prompt in prompts]
        said = [self.choose(a, rest.split("\n\nWhich answer")[0]) for a, rest in shown]
        return [s if isinstance(s, Failure) else [Response(s, 1, None, None, "stop", 0)] for s in said]


def judged(choose, answers, baseline):
    referee = Referee("scripted", lambda: Scripted(choose), baseline)
    return referee(dict.fromkeys(answers, "Which?"), answers)


ANSWERS, BASELINE = {"x": "long answer", "y": "s", "z": "new"}, {"x": "short", "y": "longer"}


def test_a_judge_that_looks_at_the_answers_decides_and_one_that_takes_the_first_only_ties():
    longer = judged(lambda a, b: "A" if len(a) > len(b) else "B", ANSWERS, BASELINE)
    assert {key: row["win"] for key, row in longer.items()} == {"x": 1.0, "y": 0.0}
    first = judged(lambda a, b: "A", ANSWERS, BASELINE)
    assert {(row["win"], row["agreed"]) for row in first.values()} == {(0.5, 0.0)}


def test_failures_and_chatter_are_unread():
    assert judged(lambda a, b: Failure("engine-error", ""), ANSWERS, BASELINE)["x"] == {"unread": 1.0}
    assert judged(lambda a, b: "Hm." if a == "s" else "A", ANSWERS, BASELINE)["y"] == {"unread": 0.5}


POLICY = {"model": "org/policy", "sha256": "1" * 64}


@pytest.mark.parametrize(
    ("evaluated", "builders", "role"),
    [
        ({"model": "org/judge", "sha256": None}, {}, "model under test"),
        (
            POLICY,
            {"judge that built the training pairs": {"model": "org/judge"}},
            "judge that built the training pairs",
        ),
    ],
)
def test_a_judge_that_has_a_part_in_it_is_refused(evaluated, builders, role):
    with pytest.raises(UserError, match=f"org/judge cannot judge this evaluation: it is the {role}"):
        appoint(ModelSpec(model="org/judge", backend="fake"), {}, evaluated, builders)


def test_another_judge_is_appointed_and_weights_are_told_apart_by_digest():
    assert appoint(ModelSpec(model="org/judge", backend="fake"), {}, POLICY, {"policy": POLICY}).name == "org/judge"
    assert pairwise.same_weights({"model": "a", "sha256": "1"}, {"model": "b", "sha256": "1"})
    assert not pairwise.same_weights({"model": "a", "sha256": "1"}, {"model": "a", "sha256": "2"})
    assert pairwise.same_weights({"model": "a", "sha256": "1"}, {"model": "a", "sha256": None})


def test_a_win_rate_that_is_all_length_is_a_half_at_equal_length():
    rng = np.random.default_rng(0)
    longer = rng.normal(60, 100, size=4000)
    win = rng.random(4000) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))
    documents = [[float(w), d] for w, d in zip(win, longer, strict=True)]
    assert np.mean(win) > 0.6 and lc_win(documents) == pytest.approx(0.5, abs=0.03)


def test_without_a_length_difference_it_is_the_win_rate_and_it_is_finite_when_all_win():
    assert lc_win([[1, 0], [0, 0], [0.5, 0], [1, 0]]) == pytest.approx(0.625, abs=1e-3)
    assert lc_win([[1, 5], [1, -5]]) > 0.9
