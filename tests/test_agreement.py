import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from udasa import agreement

VALUES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=4, max_size=40)


@given(VALUES)
def test_auc_and_spearman_equal_the_libraries(rows):
    left, right = np.array(rows, dtype=float).T
    truth = right >= 2
    if 0 < truth.sum() < len(truth):
        assert agreement.auc(left, truth) == pytest.approx(roc_auc_score(truth, left), abs=1e-12)
    else:
        assert np.isnan(agreement.auc(left, truth))
    if np.ptp(left) and np.ptp(right):
        assert agreement.spearman(left, right) == pytest.approx(spearmanr(left, right).statistic, abs=1e-12)
    else:
        assert np.isnan(agreement.spearman(left, right))


def test_calibration_error_by_hand():
    p = np.array([0.1] * 10 + [0.8] * 10)
    share = np.array([0.0] * 10 + [1.0] * 6 + [0.0] * 4)
    bins = [0.1] * 5 + [0.2] * 3 + [0.8] * 2  # pairs of rows: |0.1 - 0|, |0.8 - 1|, |0.8 - 0|
    assert agreement.calibration_error(p, share) == pytest.approx(np.mean(bins))
    assert agreement.calibration_error(share, share) == 0


def test_the_interval_is_that_of_the_groups_and_not_of_the_rows():
    rng = np.random.default_rng(1)
    groups = np.arange(40)
    values = rng.normal(size=40)
    copied = agreement.estimate(agreement.mean, np.repeat(groups, 25), np.repeat(values, 25))
    single = agreement.estimate(agreement.mean, groups, values)
    assert copied.n == 1000
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))
    error = values.std() / np.sqrt(40)
    assert single.high - single.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert single.low < single.value < single.high


def test_what_is_not_defined_has_no_interval():
    found = agreement.estimate(agreement.spearman, np.arange(5), np.zeros(5), np.arange(5.0))
    assert found == (None, None, None, 5)
