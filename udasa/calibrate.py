"""Raw uncertainties -> shares from 0 to 1 -> u, one number a response.

semantic 0.31, factual 0.80, value 0.52 nats -> rank shares 0.2, 0.9, 0.4 -> u 0.5
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from udasa import schema
from udasa.backends import Floats
from udasa.errors import UserError
from udasa.maps import DIGITS, Maps, used
from udasa.recipe import Calibration, Measures, Weights

Curve = Callable[[Floats], Floats]
"""A rising map from a raw uncertainty to a share, 0 .. 1, any shape."""


def calibrate(
    scored: pa.Table, weights: Weights, measures: Measures | None = None, maps: Maps | None = None
) -> pl.DataFrame:
    """Return one row per response with its `u`, 0 .. 1, null where no dimension has a value.

    u = sum_d w_d F_d(raw_d) / sum of the w_d present. F_d is the rank share over the build (the share of its non-null
    values that are at most this one, ECDF), or P(failure) by a map of `maps`. Each F_d is the column `<d>_share`.

    Raises:
        UserError: a dimension with a weight has no value in the whole build.
    """
    frame = pl.DataFrame(pl.from_arrow(schema.conform(scored, schema.SCORED)))
    return with_u(frame.explode("responses").unnest("responses"), weights, measures or Measures(), maps)


def with_u(responses: pl.DataFrame, weights: Weights, measures: Measures, maps: Maps | None) -> pl.DataFrame:
    """Do what `calibrate` does, on one row per response."""
    columns = used(measures, weights)
    for dimension, column in columns.items():
        if responses.height and responses[column].null_count() == responses.height:
            raise UserError(
                f"The {dimension} dimension has no value: {column} is null for all {responses.height} responses. "
                f"Measure it by another column (measures.{dimension}), or set weights.{dimension} to 0."
            )
    if maps is None:
        mapped = {d: pl.col(c).round(DIGITS).rank("max") / pl.col(c).count() for d, c in columns.items()}
        responses = responses.with_columns(**{f"{d}_share": expr for d, expr in mapped.items()})
    else:
        mapped_values = {
            f"{d}_share": maps.maps[c](responses[c].cast(pl.Float64).to_numpy()) for d, c in columns.items()
        }
        responses = responses.with_columns(**{n: pl.Series(v, dtype=pl.Float64) for n, v in mapped_values.items()})
        responses = responses.with_columns(pl.col(*mapped_values).fill_nan(None))
    weighted = {f"{d}_share": getattr(weights, d) for d in columns}
    total = pl.sum_horizontal(pl.col(c).is_not_null().cast(pl.Float64) * w for c, w in weighted.items())
    summed = pl.sum_horizontal(pl.col(c).fill_null(0.0) * w for c, w in weighted.items())
    return responses.with_columns(u=pl.when(total > 0).then(summed / total))


def curves(responses: pl.DataFrame, weights: Weights, measures: Measures, maps: Maps | None) -> dict[str, Curve]:
    """Return F_d of every dimension that has a weight, to be asked about other values: `calibrate`'s own shares."""
    columns = used(measures, weights)
    if maps is not None:
        return {d: maps.maps[c] for d, c in columns.items()}
    return {d: Ecdf(responses[c].drop_nulls().to_numpy()) for d, c in columns.items()}


class Ecdf:
    """The share of the build's values that are at most x."""

    def __init__(self, values: Floats) -> None:
        self.ranked = np.sort(np.round(values, DIGITS))

    def __call__(self, x: Floats) -> Floats:
        """Return the shares; NaN stays NaN."""
        shares = np.searchsorted(self.ranked, np.round(x, DIGITS), side="right") / len(self.ranked)
        return np.where(np.isnan(x), np.nan, shares)


def facts(calibration: Calibration, maps: Maps | None) -> dict[str, Any]:
    """Return what a build records of its calibration: the method and, of fitted maps, the maps themselves."""
    return {"method": calibration.method, "maps": None if maps is None else json.loads(maps.to_json())}
