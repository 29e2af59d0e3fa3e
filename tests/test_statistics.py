"""Estimates and their intervals."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import EXAMPLES
from udasa import statistics
from udasa.statistics import Estimate, share, spearman


def keyed(values):
    return {f"{i:04}": float(value) for i, value in enumerate(values)}


def own(values):
    return {key: key for key in values}


def test_equal_values_have_an_interval_of_width_zero():
    values = keyed([0.25] * 30)
    assert statistics.interval(values, own(values), "t", "m") == (0.25, 0.25)


def test_interval_of_known_data():
    values = keyed([1, -1] * 200)
    low, high = statistics.interval(values, own(values), "t", "m")
    assert low == pytest.approx(-1.96 / 20, abs=0.006)
    assert high == pytest.approx(1.96 / 20, abs=0.006)


def test_clusters_widen_the_interval():
    values = keyed(np.repeat([1, -1] * 25, 4))
    clusters = {key: str(int(key) // 4) for key in values}
    narrow, wide = (np.diff(statistics.interval(values, of, "t", "m"))[0] for of in (own(values), clusters))
    assert wide == pytest.approx(2 * narrow, rel=0.05)


def test_interval_depends_on_the_seed_and_not_on_the_order():
    values = keyed(np.random.default_rng(0).normal(size=300))
    shuffled = dict(sorted(values.items(), key=lambda item: item[1]))
    clusters = {key: str(int(key) % 40) for key in values}
    expected = statistics.interval(values, clusters, "t", "m")
    assert statistics.interval(shuffled, clusters, "t", "m") == expected
    assert statistics.interval(values, clusters, "t", "other") != expected


# Shares


def test_a_share_has_a_width_where_nothing_was_seen() -> None:
    none, every = share(0, 50), share(50, 50)
    assert (none.value, none.low, every.value, every.high) == (0.0, 0.0, 1.0, 1.0)
    assert none.high == pytest.approx(1 - every.low) and 0 < none.high < 0.1


@EXAMPLES
@given(st.integers(1, 400), st.integers(0, 400))
def test_the_interval_of_a_share_holds_it(n: int, count: int) -> None:
    found = share(min(count, n), n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.low, found.high) == statistics.proportion_interval(
        [1.0] * min(count, n) + [0.0] * (n - min(count, n))
    )


def test_a_share_of_nothing_is_not_defined() -> None:
    assert share(0, 0) == Estimate(value=None, low=None, high=None, n=0)


# Rank correlation

pairs_of_values = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=30)


def correlation(rows, clusters=None):
    x, y = (np.array([row[i] for row in rows], dtype=float) for i in (0, 1))
    return spearman(x, y, clusters or [str(i) for i in range(len(rows))], "seed")


@EXAMPLES
@given(pairs_of_values)
def test_spearman_is_scipys_with_ties_and_its_interval_holds_it(rows) -> None:
    found = correlation(rows)
    if len({a for a, _ in rows}) == 1 or len({b for _, b in rows}) == 1:
        assert found == Estimate(value=None, low=None, high=None, n=len(rows))
    else:
        assert found.value == pytest.approx(scipy.stats.spearmanr(*zip(*rows, strict=True)).statistic, abs=1e-12)
        assert -1 <= found.low <= found.value <= found.high <= 1


@EXAMPLES
@given(pairs_of_values, st.data())
def test_a_resample_is_ranked_as_if_its_rows_were_repeated(rows, data) -> None:
    counts = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    repeated = [row for row, times in zip(rows, counts, strict=True) for _ in range(times)]
    groups = [np.unique([row[i] for row in rows], return_inverse=True)[1] for i in (0, 1)]
    found = statistics._weighted_spearman(groups, np.array([counts], dtype=float))[0] if repeated else np.nan
    if len({a for a, _ in repeated}) < 2 or len({b for _, b in repeated}) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(scipy.stats.spearmanr(*zip(*repeated, strict=True)).statistic, abs=1e-9)


def test_equal_orders_correlate_fully_and_opposite_ones_not_at_all() -> None:
    up, down = ([(i, sign * i**3) for i in range(20)] for sign in (1, -1))
    assert correlation(up) == Estimate(value=1.0, low=1.0, high=1.0, n=20)
    assert correlation(down) == Estimate(value=-1.0, low=-1.0, high=-1.0, n=20)


def test_the_interval_of_a_correlation_is_fishers_for_normal_values() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    found = correlation(np.stack([x, x + rng.normal(size=400)], axis=1).tolist())
    reach = 1.96 * np.sqrt((1 + found.value**2 / 2) / 397)  # Bonett and Wright 2000
    assert np.arctanh(found.high) - np.arctanh(found.low) == pytest.approx(2 * reach, rel=0.12)


def test_clusters_widen_the_interval_of_a_correlation() -> None:
    rng = np.random.default_rng(1)
    rows = np.repeat(rng.normal(size=(60, 2)), 5, axis=0) + rng.normal(scale=0.01, size=(300, 2))
    wide, narrow = (correlation(rows.tolist(), clusters) for clusters in ([str(i // 5) for i in range(300)], None))
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)


# --- items x runs


def change(values):
    return statistics.crossed_change(np.zeros_like(values), values)


def test_one_run_has_students_interval_over_the_items():
    values = np.random.default_rng(0).normal(size=(12, 1))
    found = change(values)
    wanted = scipy.stats.t.interval(0.95, 11, loc=values.mean(), scale=scipy.stats.sem(values[:, 0]))
    assert (found.low, found.high) == pytest.approx(wanted) and found.n == 12


def test_runs_that_differ_alone_have_students_interval_over_the_runs():
    runs = np.array([0.1, 0.4, 0.7])
    found = statistics.crossed_level(np.tile(runs, (50, 1)) + 0.01)
    wanted = scipy.stats.t.interval(0.95, 2, loc=0.41, scale=scipy.stats.sem(runs))
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-6)


def test_items_and_runs_in_any_order_give_one_interval():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(9, 3))
    turned = values[rng.permutation(9)][:, [2, 0, 1]]
    for function in (statistics.crossed_level, change):
        a, b = function(values), function(turned)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))


def test_counts_that_do_not_change_still_have_an_interval():
    still = change(np.zeros((8, 3)))
    assert still.value == 0 and still.low < -0.1 and still.high > 0.1
    right = statistics.crossed_level(np.ones((8, 3)))
    assert right.value == right.high == 1 and right.low < 0.8
    lengths = np.full((8, 3), 20.0)
    assert statistics.crossed_change(lengths, lengths).high == 0, "a length is no count of right answers"
    equal = change(np.full((8, 3), 0.3))
    assert equal.low == pytest.approx(0.3) and equal.high == pytest.approx(0.3)
    assert statistics.crossed_level(np.ones((1, 3))) == Estimate(value=None, low=None, high=None, n=1)


@pytest.mark.parametrize(("item", "run"), [(1.0, 0.0), (1.0, 0.3), (0.3, 1.0), (0.0, 0.0)])
def test_the_crossed_interval_covers_the_truth(item, run):
    """Simulated: 12 items, 3 runs, noise of 0.5 and a mean of 0."""
    rng, n, s, held = np.random.default_rng(5), 12, 3, 0
    for _ in range(800):
        values = item * rng.normal(size=(n, 1)) + run * rng.normal(size=(1, s)) + 0.5 * rng.normal(size=(n, s))
        found = change(values)
        held += found.low <= 0 <= found.high
    assert held / 800 >= 0.93, held / 800
