"""Pairs -> the intervals of their gaps."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tests import builds, tables
from tests.tables import EXAMPLES, answered, reply, scored
from udasa import gaps, run
from udasa.backends_fake import FakeEntailer, FakeJudge
from udasa.calibrate import calibrate, curves
from udasa.maps import Map, Maps
from udasa.pairs import pair
from udasa.recipe import Measures, Pairing, Recipe, Weights
from udasa.score import Scorer

PAIRING = Pairing(gap_resamples=200, rejected="max")


def settings(**changes: Any) -> Recipe:
    values: dict[str, Any] = {"pairing": PAIRING, "weights": Weights(factual=0.0, value=0.0)}
    return builds.recipe(**(values | changes))


def bounded(table: pa.Table, recipe: Recipe, maps: Maps | None = None) -> pl.DataFrame:
    responses = calibrate(table, recipe.weights, recipe.measures, maps)
    shapes = curves(responses, recipe.weights, recipe.measures, maps)
    return gaps.with_intervals(pair(responses, recipe.pairing, 0).pairs, table, shapes, recipe)


def straight() -> Maps:
    """The map that leaves every value as it is."""
    line = Map(x=(0.0, 1.0), y=(0.0, 1.0), n=9, missing=0, ece=0.0, ece_low=0.0, ece_high=0.0)
    facts: dict[str, Any] = {"format": 1, "data": "d", "data_sha256": "0", "rows": 9, "label": "l", "base_rate": 0.5}
    return Maps(**facts, groups=None, folds=5, bins=10, maps={"semantic_uncertainty": line})


def heard(name: str, agreement: list[list[float]], logprobs: list[float] | None = None, **changes: Any) -> Any:
    """A row whose semantic uncertainties are those of its agreement."""
    q = np.exp(np.array(logprobs or [0.0] * len(agreement)))
    us = 1 - np.array(agreement) @ (q / q.sum())
    replies = [
        reply(f"text {i}", float(u), agreement=agreement[i], logprob_mean=(logprobs or [0.0] * len(us))[i], **changes)
        for i, u in enumerate(us)
    ]
    return answered(name, *replies)


def kernels(k: int) -> st.SearchStrategy[Any]:
    cells = st.lists(st.lists(st.integers(0, 8).map(lambda n: n / 8), min_size=k, max_size=k), min_size=k, max_size=k)
    return cells.map(lambda rows: [[1.0 if i == j else v for j, v in enumerate(row)] for i, row in enumerate(rows)])


rows = st.lists(st.integers(3, 6).flatmap(kernels), min_size=1, max_size=4).map(
    lambda found: [heard(f"p{i}", kernel) for i, kernel in enumerate(found)]
)


@EXAMPLES
@given(rows)
def test_an_interval_holds_its_gap_and_needs_four_responses(found: Any) -> None:
    table = scored(*found)
    for row in bounded(table, settings()).iter_rows(named=True):
        k = len(found[int(row["prompt_id"][1:])]["responses"])
        assert (row["gap_low"] is None) == (row["gap_high"] is None) == (k < 4)
        if k >= 4:
            assert -1 <= row["gap_low"] <= row["gap"] <= row["gap_high"] <= 1


@EXAMPLES
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_responses_does_not_count(found: Any, random: Any) -> None:
    shuffled = []
    for row in found:
        order = list(range(len(row["responses"])))
        random.shuffle(order)
        moved = [row["responses"][i] for i in order]
        moved = [{**one, "agreement": [one["agreement"][i] for i in order]} for one in moved]
        shuffled.append({**row, "responses": moved})
    random.shuffle(shuffled)
    one, two = (bounded(scored(*table), settings()) for table in (found, shuffled))
    assert_frame_equal(one, two)


def test_a_prompts_draws_hang_on_its_id_and_not_on_its_place() -> None:
    kernel = (0.5 * np.random.default_rng(0).random((6, 6)) + 0.5 * np.eye(6)).round(2).tolist()
    names = [f"p{i}" for i in range(6)]
    found, backwards = (
        bounded(scored(*(heard(name, kernel) for name in order)), settings(), straight())
        for order in (names, names[::-1])
    )
    assert len(set(found["gap"])) == 1
    assert found["gap_low"].n_unique() + found["gap_high"].n_unique() > 2
    assert_frame_equal(found, backwards)


def test_when_all_other_responses_say_the_same_the_interval_has_no_width() -> None:
    kernel = [[1, 0, 0.9, 0.9, 0.9], [0, 1, 0.2, 0.2, 0.2], *[[0.3, 0.3, 1, 1, 1]] * 3]
    row = bounded(scored(heard("p", kernel)), settings(), straight()).row(0, named=True)
    assert (row["chosen_id"], row["rejected_id"]) == ("p-0", "p-1")
    assert row["gap_low"] == pytest.approx(row["gap"]) == pytest.approx(row["gap_high"])


def test_the_interval_is_that_of_the_exact_distribution() -> None:
    """Two other responses, drawn twice: (2, 0), (1, 1), (0, 2) with odds 1, 2, 1, through a map that is a line."""
    kernel = [[1.0, 0.0, 1.0, 0.6], [0.0, 1.0, 0.0, 0.4], [1.0, 0.0, 1.0, 0.0], [0.6, 0.4, 0.0, 1.0]]
    logprobs = [-0.5, -1.0, -0.2, -2.0]
    found = bounded(scored(heard("p", kernel, logprobs)), settings(), straight()).row(0, named=True)
    c, r = (int(found[f"{side}_id"][-1]) for side in ("chosen", "rejected"))
    others = [i for i in range(4) if i not in (c, r)]
    outcomes = []
    for counts in ((2, 0), (1, 1), (0, 2)):
        m = np.ones(4)
        m[others] = counts
        q = m * np.exp(logprobs)
        u = 1 - np.array(kernel) @ q / q.sum()
        outcomes.append(u[r] - u[c])
    assert found["gap"] == pytest.approx(outcomes[1])
    assert (found["gap_low"], found["gap_high"]) == pytest.approx((min(outcomes), max(outcomes)))


def test_the_stored_evidence_makes_both_uncertainties_again() -> None:
    """On a real scoring: everyone counted once gives the stored columns."""
    recipe = builds.recipe(pairing=PAIRING)
    texts = ("Yes. The sky is blue.", "No. It is red.", "", "Yes. The sky is blue.", "I am sorry.")
    others = (reply(text, logprob_mean=None) for text in ("a b c", "a b", "c d e", "b c d", "x y"))
    rows = [answered("p", *map(reply, texts)), answered("q", *others)]
    table = Scorer(FakeEntailer(), FakeJudge(recipe.judging.constitution))(tables.responses(*rows))
    for row in table.to_pylist():
        k = len(row["responses"])
        for i, one in enumerate(row["responses"]):
            assert len(one["agreement"]) == k and one["agreement"][i] == 1.0
            said = [s for s in one["support"] or () if s is not None]
            assert one["factual_uncertainty"] == (pytest.approx(1 - np.mean(said)) if said else None)
            assert one["support"] is None or one["support"][i] is None
    responses = calibrate(table, recipe.weights)
    pairs = pair(responses, recipe.pairing, 0).pairs
    measures = {"semantic": "semantic_uncertainty", "factual": "factual_uncertainty", "value": "value_uncertainty"}
    for names, block in gaps._blocks(pairs, table, measures, recipe):
        once = np.ones((len(names), 1, 5))
        for dimension, column in list(measures.items())[:2]:
            assert gaps._resampled(block, once, column)[:, 0] == pytest.approx(block.raw[dimension], nan_ok=True)


def test_a_dimension_that_is_measured_otherwise_is_held() -> None:
    kernel = [[1, 0.9, 0.8, 0.1], [0.9, 1, 0.5, 0.3], [0.8, 0.5, 1, 0.2], [0.1, 0.3, 0.2, 1]]
    row = heard("p", kernel)
    for i, one in enumerate(row["responses"]):
        one["value_risk"] = i / 8
    moving, diluted = (
        bounded(scored(row), settings(weights=Weights(factual=0.0, value=w), measures=Measures(value="value_risk")))
        for w in (0.0, 1.0)
    )
    width = [(f["gap_high"] - f["gap_low"]).item() for f in (moving, diluted)]
    assert 0 < width[1] < width[0]


def test_without_stored_evidence_there_is_no_interval() -> None:
    row = answered("p", *(reply(f"text {i}", i / 8) for i in range(5)))
    found = bounded(scored(row), settings())
    assert found.select("gap_low", "gap_high").row(0) == (None, None)
    empty = bounded(scored(answered("p", reply("", 0.5))), settings())
    assert empty.is_empty() and {"gap_low", "gap_high"} < set(empty.columns)


def test_a_build_has_intervals_if_its_recipe_asks(tmp_path: Any) -> None:
    plain = run.read_frame(builds.built(tmp_path / "plain"), "pairs")
    asked = run.read_frame(builds.built(tmp_path / "asked", pairing=Pairing(gap_resamples=200)), "pairs")
    assert plain["gap_low"].null_count() == plain.height
    assert asked["gap_low"].null_count() == 0 and (asked["gap_low"] < asked["gap_high"]).any()
    ends = ["gap_low", "gap_high"]
    assert_frame_equal(plain.drop(ends), asked.drop(ends))
