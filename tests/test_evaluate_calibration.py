"""AUROC, PRR, ECE and Brier: closed forms; probabilities are held out."""

import numpy as np
import pytest

from udasa.evaluate import calibration, totals


def documents(uncertainty, wrong):
    return [[[u, w]] for u, w in zip(uncertainty, wrong, strict=True)]


@pytest.mark.parametrize(
    ("uncertainty", "auroc", "prr"),
    [([4, 3, 2, 1], 1.0, 1.0), ([1, 1, 1, 1], 0.5, 0.0), ([1, 2, 3, 4], 0.0, None), ([4, 2, 3, 1], 0.75, None)],
)
def test_auroc_and_prr_of_two_wrong_and_two_right_answers(uncertainty, auroc, prr):
    found = documents(uncertainty, [1, 1, 0, 0])
    assert calibration.auroc(found) == auroc
    if prr is not None:
        assert calibration.prr(found) == pytest.approx(prr)


def test_prr_is_the_formula_by_hand():
    """Kept right among the 1, 2, 3, 4 least uncertain: 1, 1/2, 2/3, 1/2; best: 1, 1, 2/3, 1/2; random: 1/2."""
    found = calibration.prr(documents([4, 2, 3, 1], [1, 1, 0, 0]))
    best, here = np.mean([1, 1, 2 / 3, 1 / 2]), np.mean([1, 1 / 2, 2 / 3, 1 / 2])
    assert found == pytest.approx((here - 0.5) / (best - 0.5))


def test_ties_count_as_a_random_order():
    rng = np.random.default_rng(0)
    wrong = rng.random(60) < 0.4
    coarse = rng.integers(0, 4, size=60)
    drawn = [calibration.prr(documents(coarse + rng.random(60) * 0.1, wrong)) for _ in range(3000)]
    assert calibration.prr(documents(coarse, wrong)) == pytest.approx(np.mean(drawn), abs=0.01)


def test_one_class_is_not_defined():
    assert np.isnan(calibration.auroc(documents([1, 2], [1, 1]))) and np.isnan(
        calibration.prr(documents([1, 2], [0, 0]))
    )


def test_brier_and_ece_by_hand():
    assert calibration.brier(documents([0.8, 0.2], [1, 1])) == pytest.approx((0.04 + 0.64) / 2)
    assert calibration.ece(documents([0.7] * 10, [1] * 7 + [0] * 3)) == pytest.approx(0.0)
    assert calibration.ece(documents([0.9] * 5 + [0.1] * 5, [1] * 5 + [0] * 5)) == pytest.approx(0.1)


def test_documents_with_several_answers_and_with_none_count_by_answer():
    whole = [[[1, 0], [2, 1]], [], [[3, 1]]]
    assert calibration.auroc(whole) == calibration.auroc([whole[0] + whole[2]]) == 1.0


def test_probabilities_are_held_out_by_document():
    """With one's own document in the fit, the one wrong answer at 0.5 would raise its own probability."""
    uncertainty = {str(i): [0.1, 0.5, None] for i in range(20)}
    wrong = {str(i): [False, i == 0, False] for i in range(20)}
    found = calibration.probabilities(uncertainty, wrong)
    assert found["0"] == [0.0, 0.0, None]
    assert {row[1] for key, row in found.items() if key != "0"} <= {0.0, 1 / 16}
    assert calibration.probabilities({"a": [1.0]}, {"a": [True]}) == {}


def test_the_interval_of_a_total_is_over_clusters():
    rng = np.random.default_rng(1)
    values = [[[float(w) + rng.normal(), float(w)]] for w in rng.random(80) < 0.5]
    alone = totals.resampled(calibration.auroc, values, [str(i) for i in range(80)], "s")
    double = totals.resampled(calibration.auroc, values * 2, [str(i) for i in range(80)] * 2, "s")
    assert alone == totals.resampled(calibration.auroc, values, [str(i) for i in range(80)], "s")
    assert alone[0] < calibration.auroc(values) < alone[1]
    assert double[1] - double[0] == pytest.approx(alone[1] - alone[0], rel=0.15)
