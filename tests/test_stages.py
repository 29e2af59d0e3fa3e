"""Pairs -> stage and split."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import EXAMPLES, answered, exploded, reply
from udasa import schema
from udasa.pairs import pair
from udasa.recipe import Pairing, Staging
from udasa.stages import Staged, Thresholds, split, stage, terciles


def gapped(*gaps: float) -> pl.DataFrame:
    """Pairs p000, p001, … with these gaps."""
    rows = [answered(f"p{i:03}", reply("good", 0.0), reply("poor", gap)) for i, gap in enumerate(gaps)]
    return pair(exploded(*rows, answered("dropped", reply("", 0.0))), Pairing(epsilon=0.0), 0).pairs


def stages_of(staged: Staged) -> list[str]:
    names: list[str] = staged.pairs["stage"].to_pylist()
    return names


C, M, E = schema.STAGES


@pytest.mark.parametrize(
    ("gaps", "thresholds", "stages"),
    [
        ([], (0.0, 0.0), []),
        ([0.4], (0.4, 0.4), [C]),
        ([0.4, 0.1], (0.1, 0.4), [C, M]),
        ([0.3, 0.1, 0.2], (0.2, 0.3), [C, E, M]),
        ([0.1, 0.2, 0.3, 0.4], (0.2, 0.3), [E, M, C, C]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], (0.2, 0.4), [E, M, M, C, C]),
        ([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], (0.3, 0.5), [C, C, M, M, E, E]),
        ([0.2, 0.2, 0.2], (0.2, 0.2), [C, C, C]),
    ],
)
def test_terciles_by_hand(gaps: list[float], thresholds: tuple[float, float], stages: list[str]) -> None:
    staged = stage(gapped(*gaps), Staging(), 0)
    assert staged.thresholds == Thresholds(*thresholds)
    assert stages_of(staged) == stages
    assert staged.pairs.schema == schema.PAIRS


@EXAMPLES
@given(st.lists(st.integers(1, 40), min_size=3, max_size=40, unique=True))
def test_terciles_of_different_gaps_are_of_equal_size(gaps: list[int]) -> None:
    low, high = terciles(pl.Series([gap / 40 for gap in gaps]))
    sizes = [
        sum(gap / 40 >= high for gap in gaps),
        sum(low <= gap / 40 < high for gap in gaps),
        sum(gap / 40 < low for gap in gaps),
    ]
    assert sum(sizes) == len(gaps)
    assert max(sizes) - min(sizes) <= 1


@EXAMPLES
@given(
    st.lists(st.integers(0, 20), max_size=20),
    st.none() | st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted),
)
def test_the_thresholds_hold_for_every_row(gaps: list[int], fixed: list[int] | None) -> None:
    settings = Staging(thresholds=(fixed[0] / 20, fixed[1] / 20) if fixed else None)
    staged = stage(gapped(*(gap / 20 for gap in gaps)), settings, 0)
    low, high = staged.thresholds
    for row in staged.pairs.to_pylist():
        assert row["stage"] == (C if row["gap"] >= high else M if row["gap"] >= low else E)
        assert row["gap"] == row["u_rejected"] - row["u_chosen"]


@pytest.mark.parametrize(
    ("thresholds", "stages"),
    [
        ((0.2, 0.3), [E, M, C, C]),
        ((0.0, 0.0), [C, C, C, C]),
        ((0.0, 1.0), [M, M, M, M]),
        ((0.5, 0.9), [E, E, E, E]),
    ],
)
def test_fixed_thresholds_are_kept_as_given(thresholds: tuple[float, float], stages: list[str]) -> None:
    staged = stage(gapped(0.1, 0.2, 0.3, 0.4), Staging(thresholds=thresholds), 0)
    assert staged.thresholds == thresholds
    assert stages_of(staged) == stages


def test_a_stage_is_of_the_gap_and_not_of_the_row_order() -> None:
    pairs = gapped(0.1, 0.5, 0.3, 0.2)
    forward, backward = (stage(rows, Staging(), 0) for rows in (pairs, pairs.reverse()))
    assert forward.thresholds == backward.thresholds
    assert forward.pairs.to_pylist() == backward.pairs.to_pylist()[::-1]


def test_a_pair_becomes_a_conversation() -> None:
    row = stage(gapped(0.25), Staging(), 0).pairs.to_pylist()[0]
    assert row["prompt"] == [{"role": "user", "content": "p000"}]
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["rejected"] == [{"role": "assistant", "content": "poor"}]
    assert (row["chosen_id"], row["rejected_id"], row["gap"]) == ("p000-0", "p000-1", 0.25)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_split_hangs_on_the_prompt_id_alone(share: float) -> None:
    expected = [split(f"p{i:03}", share, 3) for i in range(40)]
    small = stage(gapped(*[0.1] * 20), Staging(test_share=share), 3).pairs
    large = stage(gapped(*[0.9] * 40), Staging(test_share=share), 3).pairs
    assert large["split"].to_pylist() == expected
    assert small["split"].to_pylist() == expected[:20]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.1, 100), (0.5, 500), (0.99, 990)])
def test_the_share_held_out_is_about_the_one_asked_for(share: float, expected: int) -> None:
    held_out = sum(split(str(i), share, 0) == "test" for i in range(1000))
    assert abs(held_out - expected) <= 4 * (1000 * share * (1 - share)) ** 0.5


def test_a_larger_share_holds_out_the_same_prompts_and_more() -> None:
    held: Any = [{i for i in range(200) if split(str(i), share, 0) == "test"} for share in (0.1, 0.3)]
    assert held[0] < held[1]
    assert held[1] != {i for i in range(200) if split(str(i), 0.3, 1) == "test"}


# --- abstaining


def bounded(*intervals: tuple[float, float, float]) -> pl.DataFrame:
    """Pairs with these gaps and intervals."""
    low, high = (pl.Series([row[i] for row in intervals], dtype=pl.Float64) for i in (1, 2))
    return gapped(*(row[0] for row in intervals)).with_columns(gap_low=low, gap_high=high)


FIXED = (0.2, 0.6)


@pytest.mark.parametrize(
    ("interval", "dropped"),
    [
        ((0.3, 0.2, 0.59), False),
        ((0.3, 0.19, 0.4), True),
        ((0.3, 0.2, 0.6), True),
        ((0.3, 0.1, 0.9), True),
        ((0.7, 0.6, 1.0), False),
        ((0.1, -0.3, 0.19), False),
        ((0.1, -0.3, 0.2), True),
        ((0.3, None, None), False),
    ],
)
def test_a_pair_is_dropped_when_the_ends_of_its_interval_are_in_different_stages(interval: Any, dropped: bool) -> None:
    pairs = bounded(interval)
    staged = stage(pairs, Staging(thresholds=FIXED, abstain=True), 0)
    assert staged.pairs.num_rows == (not dropped)
    assert staged.outcomes["outcome"].to_list() == ["gap-straddles-threshold" if dropped else "paired"]
    assert stage(pairs, Staging(thresholds=FIXED), 0).pairs.num_rows == 1


intervals = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(0, 6)).map(
        lambda t: (t[0] / 20, (t[0] - t[1]) / 20, (t[0] + t[2]) / 20)
    ),
    max_size=20,
)


@EXAMPLES
@given(intervals, st.booleans())
def test_abstaining_removes_exactly_the_straddling_pairs_and_moves_no_threshold(found: Any, fixed: bool) -> None:
    pairs, thresholds = bounded(*found), FIXED if fixed else None
    plain, wary = (stage(pairs, Staging(thresholds=thresholds, abstain=abstain), 0) for abstain in (False, True))
    assert plain.thresholds == wary.thresholds
    covers = [any(low < t <= high for t in plain.thresholds) for _, low, high in found]
    expected = [row for row, covered in zip(plain.pairs.to_pylist(), covers, strict=True) if not covered]
    assert wary.pairs.to_pylist() == expected
    assert plain.outcomes["outcome"].to_list() == ["paired"] * len(found)
    assert (wary.outcomes["outcome"] == "gap-straddles-threshold").to_list() == covers
