"""Labelled rows -> isotonic maps from a raw uncertainty to P(failure), with their held-out error, as JSON.

{"maps": {"semantic_uncertainty": {"x": [0.1, 0.4], "y": [0.05, 0.6], "n": 984, "ece": 0.03, ...}}, "data": ...}
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from udasa import schema
from udasa.backends import STRICT, Floats
from udasa.digests import file_sha256, stable_hash
from udasa.errors import UserError
from udasa.recipe import Calibration, Measures, Weights, bundled_path
from udasa.run import write_file
from udasa.statistics import Estimate, hull

DIGITS = 12
"""Raw values are compared to this many digits, so that float noise makes no rank."""
FOLDS = 5
"""Parts of the labelled rows; each is predicted by maps fitted on the others."""
BINS = 10
"""Equal-mass bins of the calibration error."""
_RESAMPLES = 2_000
_FEWEST = 50
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Map:
    """An isotonic regression of the label on one column: linear between its knots, constant beyond them."""

    x: tuple[float, ...]
    """Raw values, rising."""
    y: tuple[float, ...]
    """P(failure) at each, never falling."""
    n: int
    """Labelled rows with a value."""
    missing: int
    """Labelled rows without one; they were left out."""
    ece: float
    """Expected calibration error on rows that the map was not fitted on (see `fit`), 0 .. 1."""
    ece_low: float
    """Lower end of its 95 % interval."""
    ece_high: float
    """Upper end."""

    def __post_init__(self) -> None:
        """Check the values."""
        if len(self.x) != len(self.y) or not self.x:
            raise ValueError(f"x and y must be knots of one map, got {len(self.x)} and {len(self.y)}")
        if any(np.diff(self.x) <= 0) or any(np.diff(self.y) < 0) or not 0 <= self.y[0] <= self.y[-1] <= 1:
            raise ValueError("x must rise, and y must not fall and stay within 0 and 1")

    def __call__(self, x: Floats) -> Floats:
        """Return P(failure); NaN stays NaN."""
        return np.interp(np.round(x, DIGITS), self.x, self.y)


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Maps:
    """What `udasa calibrate` writes: a map a column, and what they were fitted on."""

    format: int
    """Version of this form."""
    data: str
    """Name of the labelled file."""
    data_sha256: str
    """Its sha256."""
    rows: int
    """Its rows."""
    label: str
    """The column with the label: 1 a failure, 0 none, or a rate between."""
    base_rate: float
    """Mean label."""
    groups: str | None
    """The column whose rows stay together in folds and resamples."""
    folds: int
    bins: int
    maps: Mapping[str, Map]
    """By the column of `scored` that each is for."""

    def to_json(self) -> str:
        """Return canonical JSON."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"


_MAPS = TypeAdapter(Maps)


def from_json(text: str, origin: str) -> Maps:
    """Read maps back.

    Raises:
        UserError: they are not maps of this version.
    """
    try:
        maps = _MAPS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{origin} holds no calibration maps: {where}: {first['msg']}. Run `udasa calibrate`."
        ) from error
    if maps.format != _FORMAT:
        raise UserError(f"{origin} has form {maps.format}, this udasa reads {_FORMAT}. Run `udasa calibrate` again.")
    return maps


def save(maps: Maps, path: Path) -> str:
    """Write maps; returns the sha256 that a recipe pins."""
    content = maps.to_json().encode()
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()


def load(calibration: Calibration, measures: Measures, weights: Weights) -> Maps | None:
    """Return the maps that the recipe pins; None for ranks.

    Args:
        calibration: the recipe's.
        measures: the recipe's.
        weights: the recipe's.

    Raises:
        UserError: the file is missing or was changed, or has no map for a column that the recipe measures by.
    """
    if calibration.maps is None:
        return None
    path = bundled_path(calibration.maps)
    if not path.is_file():
        raise UserError(f"There are no calibration maps at {path}. Write them with `udasa calibrate DATA -o {path}`.")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != calibration.sha256:
        raise UserError(
            f"{path} is not the file that the recipe pins: its sha256 is {found}, the recipe's {calibration.sha256}. "
            "Restore the file, or pin the new one in a new build."
        )
    maps = from_json(content.decode(), str(path))
    if missing := [column for column in used(measures, weights).values() if column not in maps.maps]:
        raise UserError(
            f"{path} has maps of {', '.join(sorted(maps.maps))}; the recipe also measures by {', '.join(missing)}. "
            "Fit maps of these columns, or change the recipe's measures or weights."
        )
    return maps


def recorded(summary: Mapping[str, Any]) -> Maps | None:
    """Return the maps that a build's summary or a release's manifest carries; None for ranks."""
    found = summary.get("calibration", {}).get("maps")
    return None if found is None else from_json(json.dumps(found), "the summary")


def used(measures: Measures, weights: Weights) -> dict[str, str]:
    """Return the column of every dimension that has a weight."""
    return {d: getattr(measures, d) for d in schema.DIMENSIONS if getattr(weights, d) > 0}


def measurable() -> list[str]:
    """Return every column that a dimension can be measured by."""
    return [column for choice in get_type_hints(Measures).values() for column in get_args(choice)]


def fit_file(path: Path, label: str, columns: Collection[str] = (), groups: str | None = None) -> Maps:
    """Fit maps on a .jsonl, .csv or .parquet file with a row a response.

    Args:
        path: the file.
        label: its column with the label.
        columns: the raw uncertainties to map; none: every column that a dimension can be measured by.
        groups: a column whose rows belong together; default `prompt_id` where there is one.

    Raises:
        UserError: the file cannot be read, or its labels or values do not fit.
    """
    readers: Mapping[str, Callable[[Path], pl.DataFrame]] = {
        ".jsonl": pl.read_ndjson,
        ".csv": pl.read_csv,
        ".parquet": pl.read_parquet,
    }
    if path.suffix not in readers or not path.is_file():
        raise UserError(f"Expected labelled rows in a .jsonl, .csv or .parquet file, found no such file at {path}.")
    try:
        data = readers[path.suffix](path)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path} cannot be read as {path.suffix.removeprefix('.')}: {error}") from error
    columns = columns or [column for column in measurable() if column in data.columns]
    if groups is None and "prompt_id" in data.columns:
        groups = "prompt_id"
    if not columns:
        raise UserError(f"{path} has none of the columns that can be measured by: {', '.join(measurable())}.")
    return fit(data, label, columns, groups, path.name, file_sha256(path))


def fit(data: pl.DataFrame, label: str, columns: Collection[str], groups: str | None, name: str, digest: str) -> Maps:
    """Fit one isotonic map a column on labelled rows (Zadrozny and Elkan 2002).

    The calibration error of each map is measured on rows it has not seen: groups are parted into `FOLDS` by hash, each
    part is predicted by a map fitted on the others. Of all these predictions, in `BINS` bins of equal mass (equal
    predictions share a bin), it is the mean over rows of |mean prediction - mean label| of the row's bin (ECE, Naeini
    et al. 2015; equal mass: Nguyen and O'Connor 2015). Its interval is a bootstrap over groups with the predictions
    held, so it covers the labelled sample and not the fit; a mean of absolute values cannot be negative, so both lean
    upwards when rows are few. The stored map is fitted on all rows.

    Raises:
        UserError: a column is missing or unknown, a label or value is no number, labels are outside 0 .. 1 or all the
            same, rows or groups are too few, or a column does not rise with the label.
    """
    _check(data, label, columns, groups, name)
    labels = data[label].cast(pl.Float64)
    maps = {}
    for column in columns:
        known = data[column].is_not_null().to_numpy()
        x = np.round(data[column].cast(pl.Float64).to_numpy()[known], DIGITS)
        y = labels.to_numpy()[known]
        group = np.arange(len(known)).astype(str) if groups is None else data[groups].cast(pl.String).to_numpy()
        maps[column] = _fit_column(column, x, y, group[known].astype(str), int((~known).sum()), name)
    return Maps(
        format=_FORMAT,
        data=name,
        data_sha256=digest,
        rows=data.height,
        label=label,
        base_rate=float(labels.to_numpy().mean()),
        groups=groups,
        folds=FOLDS,
        bins=BINS,
        maps=maps,
    )


def _check(data: pl.DataFrame, label: str, columns: Collection[str], groups: str | None, name: str) -> None:
    """Hold the labelled rows to what `fit` needs."""
    if unknown := [column for column in columns if column not in measurable()]:
        raise UserError(f"No dimension is measured by {', '.join(unknown)}; choose from {', '.join(measurable())}.")
    wanted = [label, *columns, *([groups] if groups else [])]
    if missing := [column for column in wanted if column not in data.columns]:
        raise UserError(f"{name} has no column {', '.join(missing)}; its columns are {', '.join(data.columns)}.")
    for column in (label, *columns):
        if not (data[column].dtype.is_numeric() or data[column].dtype == pl.Boolean):
            raise UserError(f"Column '{column}' of {name} holds {data[column].dtype}; expected numbers.")
        if not data[column].cast(pl.Float64).drop_nulls().is_finite().all():
            raise UserError(f"Column '{column}' of {name} holds NaN or infinity; a missing number must be null.")
    labels = data[label].cast(pl.Float64)
    if empty := [column for column in wanted if column not in columns and data[column].null_count()]:
        raise UserError(f"Column '{empty[0]}' of {name} has {data[empty[0]].null_count()} nulls; every row needs one.")
    if not labels.is_between(0, 1).all():
        raise UserError(
            f"Labels must be 0 (no failure), 1 (failure) or a rate between; '{label}' of {name} goes from "
            f"{labels.min()!r} to {labels.max()!r}."
        )


def _fit_column(column: str, x: Floats, y: Floats, groups: NDArray[np.str_], missing: int, name: str) -> Map:
    if len(x) < _FEWEST or np.ptp(y) == 0:
        what = "all with one label" if len(x) else "so no map"
        raise UserError(
            f"{name} has {len(x)} labelled rows with {column}, {what}; a map needs at least {_FEWEST}, of both kinds."
        )
    knots = isotonic(x, y)
    if knots[1][0] == knots[1][-1] or np.cov(np.unique(x, return_inverse=True)[1], y)[0, 1] <= 0:
        raise UserError(
            f"In {name} failures do not become more frequent as {column} rises, so no rising map fits. "
            "Check which way the label goes, or leave the column out."
        )
    predicted = held_out(x, y, groups)
    ece = calibration_error(predicted, y, groups, column)
    assert ece.value is not None and ece.low is not None and ece.high is not None
    return Map(
        x=tuple(knots[0].tolist()),
        y=tuple(knots[1].tolist()),
        n=len(x),
        missing=missing,
        ece=ece.value,
        ece_low=ece.low,
        ece_high=ece.high,
    )


def isotonic(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the knots of the rising step-wise regression of y on x: least squares, equal x pooled first.

    Knots inside a flat run are left out: the map between is the same.
    """
    from scipy.optimize import isotonic_regression

    unique, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=y) / counts
    fitted = np.clip(isotonic_regression(means, weights=counts.astype(np.float64)).x, 0.0, 1.0)
    rises = np.diff(fitted) > 0
    keep = np.concatenate(([True], rises)) | np.concatenate((rises, [True]))
    return unique[keep], fitted[keep]


def held_out(x: Floats, y: Floats, groups: NDArray[np.str_]) -> Floats:
    """Return the prediction of every row by a rising map that has not seen its group.

    Raises:
        UserError: there are fewer groups than folds.
    """
    names, place = np.unique(groups, return_inverse=True)
    if len(names) < FOLDS:
        raise UserError(f"The labelled rows are of {len(names)} groups; a held-out error needs at least {FOLDS}.")
    order = np.argsort([stable_hash("fold", group) for group in names], kind="stable")
    fold_of = np.empty(len(names), dtype=np.int64)
    fold_of[order] = np.arange(len(names)) % FOLDS
    folds, out = fold_of[place], np.empty(len(x))
    for fold in range(FOLDS):
        rest = folds != fold
        out[~rest] = np.interp(x[~rest], *isotonic(x[rest], y[rest]))
    return out


def calibration_error(predicted: Floats, labels: Floats, groups: NDArray[np.str_], *seed: object) -> Estimate:
    """Return the expected calibration error in bins of equal mass, with its interval; see `fit`."""
    bins = _bins(predicted)
    _, place = np.unique(groups, return_inverse=True)
    errors = np.zeros((place.max() + 1, BINS))
    np.add.at(errors, (place, bins), predicted - labels)
    sizes = np.bincount(place).astype(np.float64)
    value = float(np.abs(errors.sum(axis=0)).sum() / len(labels))
    rng = np.random.default_rng(stable_hash("ece", *seed))
    step, found = max(1, 4_000_000 // len(sizes)), []
    for start in range(0, _RESAMPLES, step):
        draws = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), min(step, _RESAMPLES - start))
        found.append(np.abs(draws @ errors).sum(axis=1) / (draws @ sizes))
    low, high = np.percentile(np.concatenate(found), (2.5, 97.5))
    low, high = hull((float(low), float(high)), (value, value))
    return Estimate(value=value, low=low, high=high, n=len(labels))


def expected_calibration_error(predicted: Floats, labels: Floats) -> float:
    """Return the value of `calibration_error` alone, 0 .. 1."""
    errors = np.bincount(_bins(predicted), weights=predicted - labels, minlength=BINS)
    return float(np.abs(errors).sum() / len(labels))


def _bins(predicted: Floats) -> NDArray[np.int64]:
    """Return the bin of each prediction: of equal mass, equal predictions in one."""
    bins: NDArray[np.int64] = np.searchsorted(np.sort(predicted), predicted, side="left") * BINS // len(predicted)
    return bins
