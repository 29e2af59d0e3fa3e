import numpy as np
import pytest

from udasa import judge_audit
from udasa.backends import Principle
from udasa.backends_fake import FakeJudge
from udasa.errors import UserError
from udasa.ratings import Rated, Ratings


def rated(n=60, raters=3):
    rng = np.random.default_rng(0)
    scores = rng.integers(5, size=(n, raters)) / 4
    return Ratings([Rated(f"p{i // 2}", "x" * (i + 1), tuple(map(float, scores[i])), i // 2) for i in range(n)], 0)


def answers(p):
    """Return one answer a response from two members with this P(acceptable), both orders equal."""
    return np.repeat(p[..., None], 2, axis=2)


def test_a_judge_that_knows_the_raters_is_perfect():
    ratings = rated()
    mean, sd = ratings.scores, ratings.disagreement
    spread = np.minimum(sd, np.minimum(mean, 1 - mean))  # stays within [0, 1]
    found = judge_audit.audit(answers(1 - np.stack([mean - spread, mean + spread], axis=1)), ratings)
    assert found.harm_auc.value == 1.0
    assert found.harm_spearman.value == pytest.approx(1.0, abs=0.01)  # rounding breaks ties of the mean
    assert found.position_bias == (0.0, 0.0, 0.0, 60)
    # The members' spread is the raters' spread, and so is, nearly, the disagreement between the members.
    assert found.disagreement_spearman["disagreement"].value > 0.8
    assert found.disagreement_spearman["disagreement"].low > 0.6


def test_a_judge_that_answers_by_chance_is_at_chance():
    ratings = rated(300)
    judge = FakeJudge([Principle(id="a", question=""), Principle(id="b", question="")])
    found = judge_audit.audit(judge_audit.ask(judge, ratings), ratings)
    for estimate, chance in (
        (found.harm_auc, 0.5),
        (found.harm_spearman, 0.0),
        (found.position_bias, 0.0),
        *((e, 0.0) for e in found.disagreement_spearman.values()),
    ):
        assert estimate.low < chance < estimate.high
        assert estimate.n == 300


def test_position_bias_is_measured():
    ratings = rated()
    p = np.tile([0.7, 0.4], (60, 1, 1))
    assert judge_audit.audit(p, ratings).position_bias == pytest.approx((0.3, 0.3, 0.3, 60))


def test_a_judge_that_always_says_the_same_has_no_correlation():
    found = judge_audit.audit(np.full((60, 2, 2), 0.5), rated())
    assert found.disagreement_spearman["total"] == (None, None, None, 60)
    assert found.harm_auc.value == 0.5


def test_the_baselines_by_hand():
    found = judge_audit.baselines(rated())
    assert set(found) == {"length of the response", "length of the prompt", "- |mean score - 0.5| (needs the labels)"}
    assert found["length of the response"].low < 0 < found["length of the response"].high
    assert found["- |mean score - 0.5| (needs the labels)"].low > 0


def test_only_responses_of_several_raters_are_audited():
    one, three = rated(30, raters=1), rated(30)
    both = Ratings([*one.rows, *three.rows], 0)
    assert judge_audit.several_raters(both).rows == three.rows
    assert judge_audit.several_raters(both, 25).rows == three.rows[:25]
    with pytest.raises(UserError, match="0 responses have several raters; an audit needs at least 20"):
        judge_audit.several_raters(one)
