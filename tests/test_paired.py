"""Errors, tests and corrections: closed forms, invariances, and how often the intervals hold the truth."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import EXAMPLES
from udasa import paired, statistics
from udasa.paired import Variance

ANSWERS = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.5, 1.0]), min_size=2, max_size=12)


def own(deltas):
    return [str(i) for i in range(len(deltas))]


def one(before, after, clusters=None):
    """Measure one run a side."""
    a, b = np.array([before], dtype=float), np.array([after], dtype=float)
    return paired.measure(a, b, clusters or own(before), "seed")


# Errors


def test_items_that_stand_alone_have_the_usual_error() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    expected = scipy.stats.sem(values)
    assert paired.mean_error(values) == pytest.approx(expected)
    assert paired.clustered_error(values, own(values)) == pytest.approx(expected)
    assert paired.unpaired_error(values, values) == pytest.approx(expected * 2**0.5)


def test_repeating_an_item_adds_nothing() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    copies, clusters = np.repeat(values, 5), np.repeat(own(values), 5).tolist()
    assert paired.clustered_error(copies, clusters) == pytest.approx(scipy.stats.sem(values))
    assert paired.mean_error(copies) < scipy.stats.sem(values) / 2


def test_one_item_or_one_cluster_has_no_error() -> None:
    assert paired.mean_error(np.array([1.0])) is None
    assert paired.clustered_error(np.array([1.0, 2.0]), ["a", "a"]) is None
    found = one([0.5], [0.75])
    assert (found.delta, found.error, found.p, found.mde) == (0.25, None, 1.0, None)


# Exact tests


@EXAMPLES
@given(ANSWERS)
def test_flipping_single_right_and_wrong_answers_is_mcnemars_test(deltas) -> None:
    whole = np.array([d for d in deltas if abs(d) != 0.5])
    fixed, broken = int((whole > 0).sum()), int((whole < 0).sum())
    assert paired.sign_flip(whole, own(whole)) == pytest.approx(paired.mcnemar(fixed, broken))


@EXAMPLES
@given(ANSWERS, st.data())
def test_flips_of_clusters_are_counted_as_by_hand(deltas, data) -> None:
    clusters = data.draw(st.lists(st.sampled_from("abcd"), min_size=len(deltas), max_size=len(deltas)))
    sums = [sum(d for d, c in zip(deltas, clusters, strict=True) if c == name) for name in sorted(set(clusters))]
    flipped = [
        abs(sum(s * x for s, x in zip(signs, sums, strict=True))) for signs in product((1, -1), repeat=len(sums))
    ]
    expected = np.mean([value >= abs(sum(sums)) - 1e-9 for value in flipped])
    assert paired.sign_flip(np.array(deltas), clusters) == pytest.approx(expected)
    assert paired.sign_flip(-np.array(deltas), clusters) == pytest.approx(expected)
    scaled = paired.sign_flip(np.array(deltas) * np.pi, clusters, "seed")  # not halves: all patterns one by one
    assert scaled == pytest.approx(expected)


def test_drawn_flips_agree_with_the_t_test_for_normal_values() -> None:
    values = np.random.default_rng(0).normal(0.25, 1, size=100)
    found = paired.sign_flip(values, own(values), "seed")
    assert found == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, abs=0.006)
    assert paired.sign_flip(values, own(values), "seed") == found


def test_few_clusters_cannot_give_a_small_p() -> None:
    deltas, clusters = np.ones(250), [str(i % 10) for i in range(250)]
    assert paired.sign_flip(deltas, clusters) == pytest.approx(2 / 2**10)
    assert paired.sign_flip(deltas, own(deltas)) == pytest.approx(2 / 2**250)


@pytest.mark.parametrize(("fixed", "broken", "p"), [(0, 0, 1.0), (5, 0, 2 / 2**5), (3, 1, 10 / 16), (4, 4, 1.0)])
def test_mcnemar(fixed, broken, p) -> None:
    assert paired.mcnemar(fixed, broken) == pytest.approx(p)


# Power and equivalence


@pytest.mark.parametrize(("n", "points"), [(80, 12.3), (221, 7.3), (250, 6.9), (450, 5.1), (790, 3.9), (2312, 2.3)])
def test_what_a_share_can_show_if_15_percent_change(n, points) -> None:
    assert 100 * paired.minimum_detectable((0.15 / n) ** 0.5, n - 1) == pytest.approx(points, abs=0.05)


def test_the_detectable_difference_is_detected_four_times_in_five() -> None:
    """n = 60 items of sd 1: at the minimum detectable difference a t test finds it with 80 %."""
    rng, n = np.random.default_rng(0), 60
    true = paired.minimum_detectable(1 / n**0.5, n - 1)
    found = scipy.stats.ttest_1samp(rng.normal(true, 1, size=(4000, n)), 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_equivalence_is_the_90_percent_interval_within_the_margin() -> None:
    half = scipy.stats.t.ppf(0.95, 99) * 0.01
    assert paired.equivalence(0.005, 0.01, 99, 0.005 + half) == pytest.approx(0.05)
    assert paired.equivalence(-0.005, 0.01, 99, 0.005 + half) == pytest.approx(0.05)
    assert paired.equivalence(0.03, 0.01, 99, 0.02) > 0.5
    assert paired.equivalence(0.0, 0.0, 99, 0.02) == 0.0 and paired.equivalence(0.02, 0.0, 99, 0.02) == 1.0


def test_a_wide_interval_is_not_shown_to_be_equivalent() -> None:
    """The same answers twice, but only 20: no difference was seen and a small one is not ruled out."""
    found = one([1.0] * 20, [1.0] * 20)
    assert found.delta == 0.0 and found.p == 1.0 and found.mde is not None and found.mde > 0.15
    assert paired.equivalence(found.delta, found.error, found.df, 0.02) > 0.05


# Many at once


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert paired.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert paired.holm([]) == paired.benjamini_hochberg([]) == []


@EXAMPLES
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusting_keeps_the_order_and_only_raises(p) -> None:
    strict, loose = paired.holm(p), paired.benjamini_hochberg(p)
    for one_p, high, low in zip(p, strict, loose, strict=True):
        assert one_p <= low + 1e-12 and low <= high + 1e-12 and high <= 1
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(strict)[order]) >= 0) and np.all(np.diff(np.array(loose)[order]) >= -1e-12)


# Seeds


def test_additive_seeds_have_the_variance_of_their_means() -> None:
    seeds, items = np.array([0.0, 0.3, 0.9]), np.random.default_rng(0).normal(size=40)
    found = paired.seed_variance(seeds[:, None] + items)
    assert found == pytest.approx((seeds.var(ddof=1) / 3, 2))


def test_equal_seeds_add_nothing_and_one_seed_says_nothing() -> None:
    items = np.random.default_rng(0).normal(size=(1, 40))
    assert paired.seed_variance(items) is None
    assert paired.seed_variance(np.repeat(items, 3, axis=0)) == Variance(0.0, 2)


def test_equal_variances_add_their_degrees_of_freedom() -> None:
    assert paired.add_variances([Variance(0.5, 4), Variance(0.5, 4)]) == pytest.approx((1.0, 8.0))
    assert paired.add_variances([Variance(0.5, 9), Variance(0.0, 2)]) == pytest.approx((0.5, 9.0))


# How often the interval holds the truth


def coverage(draw, times=400) -> tuple[float, float]:
    """Return how often the 95 % interval holds 0 where nothing differs, and how often p is under 0.05."""
    found = [draw(np.random.default_rng(seed)) for seed in range(times)]
    return np.mean([m.low <= 0 <= m.high for m in found]), np.mean([m.p < 0.05 for m in found])


def clustered(rng):
    """Ten clusters of 20 that share half of their variance."""
    clusters = [str(i // 20) for i in range(200)]
    return one(np.zeros(200), rng.normal(size=200) + np.repeat(rng.normal(size=10), 20), clusters)


def rare(rng):
    """120 answers, of which 4 % change, either way."""
    changed = rng.random(120) < 0.04
    before = (rng.random(120) < 0.5).astype(float)
    return one(before, np.where(changed, 1 - before, before))


def skewed(rng):
    return one(np.zeros(60), rng.exponential(size=60) - 1)


def seeded(rng):
    """Three seeds a side that differ as much as 200 items do."""
    items, sides = rng.normal(size=200), []
    for _ in range(2):
        sides.append(items + rng.normal(size=(3, 200)) + 0.07 * rng.normal(size=(3, 1)))
    return paired.measure(sides[0], sides[1], own(items), "seed")


@pytest.mark.parametrize(("draw", "least"), [(clustered, 0.93), (rare, 0.95), (skewed, 0.91), (seeded, 0.93)])
def test_the_interval_holds_the_truth_as_often_as_it_says(draw, least, monkeypatch) -> None:
    monkeypatch.setattr(paired, "FLIPS", 1000)
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    covered, alarms = coverage(draw)
    assert covered >= least
    assert alarms <= 0.075


def test_an_interval_that_does_not_know_the_clusters_is_far_too_narrow() -> None:
    """The control of the test above: the same data, taken as independent."""
    held = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=200) + np.repeat(rng.normal(size=10), 20)
        low, high = paired.t_interval(values.mean(), paired.mean_error(values), 199)
        held += low <= 0 <= high
    assert held / 400 < 0.6
