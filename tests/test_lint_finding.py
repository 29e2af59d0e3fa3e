"""What a finding is sure of: shares, areas under the curve and differences, with their intervals."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.tables import EXAMPLES
from udasa.lint import finding


def test_wilson_at_the_ends_and_in_the_middle() -> None:
    z2 = 1.959963984540054**2
    assert finding.wilson(0, 10) == pytest.approx((0.0, z2 / (10 + z2)))
    assert finding.wilson(10, 10) == pytest.approx((10 / (10 + z2), 1.0))
    assert finding.wilson(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 5), min_size=1, max_size=30))
@EXAMPLES
def test_auc_is_that_of_scikit_learn(positive: list[int], negative: list[int]) -> None:
    found = finding.auc(np.array(positive, float), np.array(negative, float))
    assert found is not None
    labels = [1] * len(positive) + [0] * len(negative)
    assert found.value == pytest.approx(roc_auc_score(labels, positive + negative))
    assert 0 <= found.interval.low <= found.value <= found.interval.high <= 1


@pytest.mark.parametrize("clustered", [False, True])
def test_the_interval_of_auc_covers(clustered: bool) -> None:
    """Normal scores 1 apart: the AUC is Phi(1 / sqrt 2) = 0.7602; in a cluster both share a large part."""
    rng, n, hits = np.random.default_rng(0), 40, 0
    for _ in range(400):
        shared = rng.normal(size=n) * (0.9 if clustered else 0.0)
        noise = (1 - (0.81 if clustered else 0.0)) ** 0.5
        positive, negative = (shared + noise * rng.normal(size=n) + shift for shift in (1.0, 0.0))
        found = finding.auc(positive, negative, (range(n), range(n)) if clustered else None)
        assert found is not None
        hits += found.interval.low <= 0.7602 <= found.interval.high
    assert 0.92 <= hits / 400 <= 0.985


@pytest.mark.parametrize(("m", "n"), [(3, 5), (8, 10), (20, 15)])
def test_the_interval_of_a_difference_covers(m: int, n: int) -> None:
    """Every outcome of two binomials, weighed by its probability."""
    for p, q in product((0.1, 0.3, 0.5, 0.9), repeat=2):
        covered = 0.0
        for a, b in product(range(m + 1), range(n + 1)):
            _, (low, high) = finding.difference(a, m, b, n, 1)
            weight = comb(m, a) * p**a * (1 - p) ** (m - a) * comb(n, b) * q**b * (1 - q) ** (n - b)
            covered += weight * (low <= p - q <= high)
        assert covered >= 0.92, (p, q)


def test_more_comparisons_are_less_sure() -> None:
    widths = [finding.difference(5, 20, 20, 40, k)[1] for k in (1, 10, 100)]
    assert widths[0].low > widths[1].low > widths[2].low
