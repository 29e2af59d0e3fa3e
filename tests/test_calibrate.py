"""Scored rows -> u, by ranks or by fitted maps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import EXAMPLES, answered, reply, scored
from udasa import schema
from udasa.calibrate import Ecdf, calibrate, curves
from udasa.errors import UserError
from udasa.maps import Map, Maps, measurable
from udasa.recipe import Measures, Weights

ALONE = {"factual": 0.0, "value": 0.0}


def u_of(*rows: Mapping[str, Any], **weights: float) -> list[float | None]:
    return calibrate(scored(*rows), Weights(**weights))["u"].to_list()


def raw(semantic: float | None, factual: float | None, value: float | None) -> dict[str, Any]:
    return reply("x", semantic, factual_uncertainty=factual, value_uncertainty=value)


def maps_of(**maps: Map) -> Maps:
    return Maps(
        format=1, data="d", data_sha256="0", rows=9, label="l", base_rate=0.5, groups=None, folds=5, bins=10, maps=maps
    )


def line(*knots: tuple[float, float]) -> Map:
    xs, ys = zip(*knots, strict=True)
    return Map(x=xs, y=ys, n=99, missing=0, ece=0.1, ece_low=0.0, ece_high=0.2)


# --- ranks


def test_u_is_the_weighted_mean_of_rank_shares_over_the_build() -> None:
    rows = (
        answered("p", raw(0.1, 9.0, 0.3), raw(0.4, 7.0, 0.3)),
        answered("q", raw(0.2, 8.0, 0.1), raw(0.3, 6.0, 0.3)),
    )
    assert u_of(*rows) == pytest.approx([(0.25 + 1 + 1) / 3, (1 + 0.5 + 1) / 3, 1.5 / 3, (0.75 + 0.25 + 1) / 3])
    assert u_of(*rows, factual=0.0, value=0.0) == [0.25, 1.0, 0.5, 0.75]
    assert u_of(*rows, semantic=3.0, value=0.0)[0] == pytest.approx((3 * 0.25 + 1) / 4)


def test_a_dimension_without_a_value_is_left_out_of_the_mean_and_of_the_ranks() -> None:
    row = answered("p", raw(0.1, None, 0.5), raw(0.2, 0.7, None), raw(None, None, None), raw(0.3, 0.9, 0.1))
    assert u_of(row) == pytest.approx([(1 / 3 + 1) / 2, (2 / 3 + 1 / 2) / 2, None, (1 + 1 + 0.5) / 3])
    assert u_of(row, semantic=0.0, value=0.0) == [None, 0.5, None, 1.0]


def test_equal_values_have_the_same_u() -> None:
    assert u_of(answered("p", *(reply("x", 0.5) for _ in range(4))), **ALONE) == [1.0] * 4


def test_u_only_knows_the_order_of_the_raw_values() -> None:
    values = [0.1, 0.7, 0.2, 0.7]
    bent = u_of(answered("p", *(reply("x", value**3 * 100) for value in values)), **ALONE)
    assert u_of(answered("p", *(reply("x", value) for value in values)), **ALONE) == bent == [0.25, 1.0, 0.5, 1.0]


def test_calibrate_keeps_one_row_a_response_in_order() -> None:
    rows = answered("q", reply("a", 0.2), reply("b", 0.1)), answered("p", reply("c", 0.3))
    assert calibrate(scored(*rows), Weights(**ALONE))["response_id"].to_list() == ["q-0", "q-1", "p-0"]


values = st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=20).filter(any)


@EXAMPLES
@given(values)
def test_the_curve_of_a_dimension_is_what_calibrate_gives_its_own_values(raws: list[float | None]) -> None:
    rows = calibrate(scored(answered("p", *(reply("x", one) for one in raws))), Weights(**ALONE))
    curve = curves(rows, Weights(**ALONE), Measures(), None)["semantic"]
    again = pl.Series(curve(rows["semantic_uncertainty"].to_numpy())).fill_nan(None)
    assert rows["semantic_share"].to_list() == rows["u"].to_list() == pytest.approx(again.to_list(), abs=1e-15)


@EXAMPLES
@given(st.lists(st.floats(0, 1), min_size=1), st.lists(st.floats(-1, 2), min_size=2))
def test_an_ecdf_never_falls_and_goes_from_0_to_1(build: list[float], asked: list[float]) -> None:
    shares = Ecdf(np.array(build))(np.sort(asked))
    assert (np.diff(shares) >= 0).all() and shares.min() >= 0 and shares.max() <= 1
    assert Ecdf(np.array(build))(np.array([max(build), -5.0])).tolist() == [1.0, 0.0]


# --- which column


def test_every_measure_is_a_column_of_scored() -> None:
    columns = {field.name for field in schema.SCORED.field("responses").type.value_type}
    assert set(measurable()) <= columns and len(set(measurable())) == 11


@pytest.mark.parametrize("column", ["eccentricity", "degree", "cluster_surprisal"])
def test_u_follows_the_column_that_the_recipe_measures_by(column: Any) -> None:
    row = answered("p", reply("a", 0.1, **{column: 3.0}), reply("b", 0.2, **{column: 1.0}))
    assert calibrate(scored(row), Weights(**ALONE), Measures(semantic=column))["u"].to_list() == [1.0, 0.5]


def test_a_dimension_that_is_null_everywhere_is_an_error_that_names_it() -> None:
    row = answered("p", raw(0.1, 0.2, None), raw(0.2, 0.1, None))
    with pytest.raises(UserError, match=r"The value dimension has no value: value_uncertainty is null for all 2"):
        calibrate(scored(row), Weights())
    with pytest.raises(UserError, match=r"The factual dimension has no value: p_true is null .*measures\.factual"):
        calibrate(scored(row), Weights(value=0.0), Measures(factual="p_true"))
    assert calibrate(scored(row), Weights(value=0.0))["u"].null_count() == 0


def test_a_build_without_a_row_has_no_u_and_no_error() -> None:
    assert calibrate(schema.SCORED.empty_table(), Weights()).is_empty()


# --- fitted maps


def test_u_is_the_weighted_mean_of_the_mapped_values() -> None:
    fitted = maps_of(
        semantic_uncertainty=line((0.0, 0.2), (1.0, 0.6)), factual_uncertainty=line((0.5, 0.0), (0.6, 1.0))
    )
    row = answered("p", raw(0.5, 0.55, None), raw(2.0, None, None), raw(None, None, None))
    found = calibrate(scored(row), Weights(semantic=3.0, value=0.0), Measures(), fitted)
    assert found["u"].to_list() == pytest.approx([(3 * 0.4 + 0.5) / 4, 0.6, None])
    assert found["semantic_share"].to_list() == pytest.approx([0.4, 0.6, None])
    alone = curves(found, Weights(value=0.0), Measures(), fitted)
    assert alone["factual"](np.array([0.55])).tolist() == pytest.approx([0.5])
