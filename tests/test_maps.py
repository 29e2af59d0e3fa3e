"""Labelled rows -> isotonic maps."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import EXAMPLES
from udasa import maps
from udasa.errors import UserError
from udasa.maps import Map, calibration_error, fit, fit_file, isotonic
from udasa.recipe import Calibration, Measures, Weights

COLUMN = "semantic_uncertainty"


def labelled(n: int = 400, power: float = 1.0, seed: int = 0) -> pl.DataFrame:
    """Rows that fail with probability raw ** power."""
    rng = np.random.default_rng(seed)
    x = rng.random(n)
    return pl.DataFrame({COLUMN: x, "label": (rng.random(n) < x**power).astype(int)})


def fitted(data: pl.DataFrame, **changes: Any) -> maps.Maps:
    settings = {"label": "label", "columns": [COLUMN], "groups": None, "name": "d.csv", "digest": "0"}
    return fit(data, **(settings | changes))


points = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=30)


def arrays(rows: list[tuple[int, int]]) -> tuple[Any, Any]:
    return np.array([x / 8 for x, _ in rows]), np.array([y / 4 for _, y in rows])


def test_pool_adjacent_violators_by_hand() -> None:
    x, y = np.array([1.0, 2, 3, 4, 4]), np.array([0.0, 1, 0, 1, 0])
    knots = isotonic(x, y)
    assert (knots[0].tolist(), knots[1].tolist()) == ([1.0, 2.0, 4.0], [0.0, 0.5, 0.5])


@EXAMPLES
@given(points)
def test_a_map_rises_keeps_the_mean_and_is_its_own_fit(rows: list[tuple[int, int]]) -> None:
    x, y = arrays(rows)
    knots = isotonic(x, y)
    assert (np.diff(knots[0]) > 0).all() and (np.diff(knots[1]) >= 0).all()
    assert knots[1][0] >= 0 and knots[1][-1] <= 1
    values = np.interp(x, *knots)
    assert values.mean() == pytest.approx(y.mean())
    again = isotonic(x, values)
    assert np.interp(x, *again) == pytest.approx(values, abs=1e-12)


@EXAMPLES
@given(points)
def test_the_order_of_the_rows_does_not_count(rows: list[tuple[int, int]]) -> None:
    one, two = (isotonic(*arrays(order)) for order in (rows, rows[::-1]))
    assert np.allclose(one[0], two[0]) and np.allclose(one[1], two[1])


def own(n: int) -> Any:
    return np.arange(n).astype(str)


def test_a_perfect_prediction_has_no_calibration_error() -> None:
    rates = np.repeat(np.linspace(0, 1, 20), 5)
    found = calibration_error(rates, rates, own(100))
    assert (found.value, found.low, found.high, found.n) == (0.0, 0.0, 0.0, 100)


def test_the_calibration_error_by_hand() -> None:
    labels = np.array([0.0] * 50 + [1.0] * 50)
    assert calibration_error(np.full(100, 0.3), labels, own(100)).value == pytest.approx(0.2)
    assert calibration_error(1 - labels, labels, own(100)).value == pytest.approx(1.0)
    assert calibration_error(np.full(100, 0.5), labels, own(100)).value == pytest.approx(0.0)


@EXAMPLES
@given(points)
def test_the_calibration_error_has_its_bounds_and_its_interval_holds_it(rows: list[tuple[int, int]]) -> None:
    predicted, labels = arrays(rows)
    found = calibration_error(predicted, labels, own(len(rows)))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.value >= abs(float(predicted.mean() - labels.mean())) - 1e-12


def test_a_fitted_map_follows_the_rate_of_failure_and_its_error_is_small() -> None:
    one = fitted(labelled(4000, power=2.0)).maps[COLUMN]
    asked = np.array([0.2, 0.5, 0.8])
    assert one(asked) == pytest.approx(asked**2, abs=0.1)
    assert one.ece < 0.03 and one.ece_low <= one.ece <= one.ece_high and one.n == 4000


def test_the_error_is_of_rows_the_map_has_not_seen() -> None:
    """A map of 60 groups of noise is right about the rows it saw, group by group, and wrong about the others."""
    rng = np.random.default_rng(3)
    x = rng.random(60)
    data = pl.DataFrame({COLUMN: x, "label": (rng.random(60) < 0.5 + 0.1 * x).astype(int)})
    one = fitted(data).maps[COLUMN]
    seen = calibration_error(one(x), data["label"].cast(pl.Float64).to_numpy(), own(60))
    assert one.ece > seen.value + 0.05


def test_groups_stay_together() -> None:
    data = labelled(100)
    doubled = pl.concat([data, data]).with_columns(g=pl.Series([str(i % 100) for i in range(200)]))
    apart, together = fitted(doubled).maps[COLUMN], fitted(doubled, groups="g").maps[COLUMN]
    assert (apart.x, apart.y) == (together.x, together.y)
    assert together.ece_high - together.ece_low > apart.ece_high - apart.ece_low


def test_missing_values_are_left_out_and_counted() -> None:
    data = labelled(100)
    gaps = pl.concat([data, pl.DataFrame({COLUMN: [None] * 7, "label": [1] * 7}, schema=data.schema)])
    one = fitted(gaps).maps[COLUMN]
    assert (one.n, one.missing) == (100, 7) and one.x == fitted(data).maps[COLUMN].x


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_file_is_fitted_saved_and_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"d{suffix}"
    data = labelled()
    {".jsonl": data.write_ndjson, ".csv": data.write_csv, ".parquet": data.write_parquet}[suffix](path)
    found = fit_file(path, "label")
    assert found.data_sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and found.rows == 400
    digest = maps.save(found, tmp_path / "maps.json")
    calibration = Calibration(method="isotonic", maps=str(tmp_path / "maps.json"), sha256=digest)
    assert maps.load(calibration, Measures(), Weights(factual=0.0, value=0.0)) == found
    assert maps.recorded({"calibration": {"maps": json.loads(found.to_json())}}) == found
    assert maps.load(Calibration(), Measures(), Weights()) is maps.recorded({}) is None
    assert maps.save(fit_file(path, "label"), tmp_path / "again.json") == digest


def test_maps_of_another_recipe_or_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "maps.json"
    digest = maps.save(fitted(labelled()), path)
    pinned = Calibration(method="isotonic", maps=str(path), sha256=digest)
    with pytest.raises(UserError, match=r"has maps of semantic_uncertainty; the recipe also measures by factual_unc"):
        maps.load(pinned, Measures(), Weights(value=0.0))
    with pytest.raises(UserError, match="also measures by degree"):
        maps.load(pinned, Measures(semantic="degree"), Weights(factual=0.0, value=0.0))
    path.write_text(path.read_text().replace('"bins": 10', '"bins": 11'))
    with pytest.raises(UserError, match="is not the file that the recipe pins: its sha256 is"):
        maps.load(pinned, Measures(), Weights(factual=0.0, value=0.0))
    path.unlink()
    with pytest.raises(UserError, match="no calibration maps at"):
        maps.load(pinned, Measures(), Weights())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds no calibration maps"),
        ("no", "holds no calibration maps"),
        ("falls", "x must rise"),
        ("form", "form 9"),
    ],
)
def test_what_is_no_map_is_refused(text: str, message: str) -> None:
    found = fitted(labelled())
    if text == "falls":
        text = found.to_json().replace('"y": [', '"y": [1.0, 0.0,').replace('"x": [', '"x": [-2.0, -1.0,')
    elif text == "form":
        text = dataclasses.replace(found, format=9).to_json()
    with pytest.raises(UserError, match=message):
        maps.from_json(text, "here")


def bad(**changes: Any) -> pl.DataFrame:
    return labelled().with_columns(**{name: pl.Series(values) for name, values in changes.items()})


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (bad(label=[2.0] * 400), {}, r"from 2\.0 to 2\.0"),
        (bad(label=[-0.1, 1.1] * 200), {}, r"from -0\.1 to 1\.1"),
        (bad(label=[float("nan")] * 400), {}, "'label' of d.csv holds NaN or infinity"),
        (bad(label=[None, 1] * 200), {}, "'label' of d.csv has 200 nulls"),
        (bad(label=["yes"] * 400), {}, "holds String; expected numbers"),
        (bad(label=[1] * 400), {}, "all with one label"),
        (bad(**{COLUMN: [float("inf")] * 400}), {}, "holds NaN or infinity"),
        (bad(**{COLUMN: [None] * 400}).cast({COLUMN: pl.Float64}), {}, "0 labelled rows with semantic_uncertainty"),
        (labelled().head(49), {}, "at least 50"),
        (labelled().with_columns((1 - pl.col(COLUMN)).alias(COLUMN)), {}, "do not become more frequent"),
        (labelled(), {"label": "wrong"}, "no column wrong"),
        (labelled(), {"columns": ["label"]}, "No dimension is measured by label"),
        (labelled(), {"columns": ["degree"]}, "no column degree"),
        (labelled().with_columns(g=pl.lit("one")), {"groups": "g"}, "are of 1 groups"),
    ],
)
def test_bad_labelled_rows(data: pl.DataFrame, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fitted(data, **settings)


def test_a_file_that_is_not_there_or_cannot_be_measured_by(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file at"):
        fit_file(tmp_path / "none.csv", "label")
    path = tmp_path / "d.csv"
    path.write_text("label,other\n1,2\n")
    with pytest.raises(UserError, match="none of the columns"):
        fit_file(path, "label")
    broken = tmp_path / "d.jsonl"
    broken.write_text("{")
    with pytest.raises(UserError, match="cannot be read as jsonl"):
        fit_file(broken, "label")


def test_a_map_holds_its_own_shape() -> None:
    values = {"n": 9, "missing": 0, "ece": 0.0, "ece_low": 0.0, "ece_high": 0.0}
    for x, y in (((0.0, 1.0), (0.5,)), ((), ()), ((1.0, 0.0), (0.0, 1.0)), ((0.0,), (1.5,))):
        with pytest.raises(ValueError, match="must"):
            Map(x=x, y=y, **values)
