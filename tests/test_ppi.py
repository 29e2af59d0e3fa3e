"""A judge's bias is taken out by labels: closed forms, and coverage where the judge is biased."""

import numpy as np
import pytest

from tests import planted as mirror
from udasa.errors import UserError
from udasa.evaluate import refusal
from udasa.evaluate.ppi import corrected
from udasa.refusals import refuses


def keyed(values):
    return {f"k{i:04}": float(value) for i, value in enumerate(values)}


def alone(judged):
    return {key: key for key in judged}


def test_a_perfect_judge_keeps_its_rate():
    judged = keyed([1, 0] * 50)
    found = corrected(judged, {key: judged[key] for key in list(judged)[:40]}, alone(judged))
    assert (found.value, found.judge, found.n, found.labelled) == (0.5, 0.5, 100, 40)
    assert found.low < 0.5 < found.high and found.high - found.low < 0.35


def test_all_items_labelled_gives_the_labels_rate():
    judged, truth = keyed([1] * 60 + [0] * 40), keyed([1] * 30 + [0] * 70)
    found = corrected(judged, truth, alone(judged))
    assert (found.value, found.labels, found.judge) == (pytest.approx(0.3), 0.3, 0.6)


def test_the_value_is_the_formula():
    judged = keyed([1] * 80 + [0] * 20)
    labels = {key: 0.0 if i < 4 else judged[key] for i, key in enumerate(list(judged)[:40])}
    assert corrected(judged, labels, alone(judged)).value == pytest.approx(0.8 - 4 / 40)


def test_clusters_widen_the_interval():
    judged = keyed([1, 1, 1, 1, 1, 0, 0, 0, 0, 0] * 20)
    labels = {key: judged[key] for key in list(judged)[::2]}
    whole = {key: str(int(key[1:]) // 50) if judged[key] else f"n{int(key[1:]) // 50}" for key in judged}
    one, two = corrected(judged, labels, alone(judged)), corrected(judged, labels, whole)
    assert two.high - two.low > 1.5 * (one.high - one.low)


def test_labels_of_nothing_and_too_few_are_refused():
    judged = keyed([1] * 50)
    with pytest.raises(UserError, match="1 labels are of no judged item, the first of 'x'"):
        corrected(judged, {"x": 1.0}, alone(judged))
    with pytest.raises(UserError, match="2 items are labelled; at least 30"):
        corrected(judged, {"k0000": 1.0, "k0001": 0.0}, alone(judged))


def simulate(truth, judged, labels, draws, seed):
    rng = np.random.default_rng(seed)
    verdicts, keys = keyed(judged), list(keyed(judged))
    known = [{keys[i]: float(truth[i]) for i in rng.choice(len(truth), labels, replace=False)} for _ in range(draws)]
    return [corrected(verdicts, some, alone(verdicts), seed) for some in known]


def test_the_interval_covers_the_truth_although_the_judge_is_biased():
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.4
    judged = np.where(rng.random(300) < 0.2, True, truth)  # finds refusals that are none
    found = simulate(truth, judged, 60, 60, seed=1)
    covered = np.mean([f.low <= truth.mean() <= f.high for f in found])
    assert covered >= 0.93
    assert np.mean([f.value for f in found]) == pytest.approx(truth.mean(), abs=0.015)
    assert abs(judged.mean() - truth.mean()) > 0.05


@mirror.needs_real
def test_a_model_that_the_rules_misjudge_is_corrected_by_100_of_its_own_labels():
    rows = [row for row in refusal.read(mirror.REAL) if row.model == "gpt4"]
    truth, judged = np.array([r.refused for r in rows]), np.array([refuses(r.text) for r in rows])
    found = simulate(truth, judged, 100, 40, seed=2)
    assert np.mean([f.value for f in found]) == pytest.approx(truth.mean(), abs=0.02)
    assert np.mean([f.low <= truth.mean() <= f.high for f in found]) >= 0.9
