"""Rows -> the documents of a task: choices in a fair order, fewer of them on a CPU.

{"id": "x", "good": "No.", "bad": ["Yes."]} -> {"id": "x", "choices": ["Yes.", "No."], "gold": 1}
"""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from udasa.errors import UserError

Row = dict[str, Any]

PROFILES = ("full", "cpu")
"""`full` takes every document a task has; `cpu` takes as many as the task's YAML says under `metadata: {n: ...}`."""


def as_split(documents: Sequence[Row]) -> dict[str, Dataset]:
    """Return the documents as the split that lm-eval evaluates."""
    return {"test": Dataset.from_list(list(documents))}


def content_id(*texts: str) -> str:
    """Return 12 hex digits of the sha256 of the texts: an id that holds wherever a row stands in its file."""
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()[:12]


def by_hash(row: Mapping[str, Any]) -> bytes:
    """Return what the order of documents by the SHA-256 of their ids is made from."""
    return hashlib.sha256(row["id"].encode()).digest()


def take(rows: Sequence[Row], n: Mapping[str, int] | None = None, profile: str = "full") -> list[Row]:
    """Return the n rows of a profile whose ids have the smallest SHA-256, in the order of the rows.

    So a smaller sample is a part of every larger one, whatever the order of the file.

    Raises:
        UserError: there is no such profile.
    """
    if profile not in PROFILES:
        raise UserError(f"There is no profile '{profile}'. Give one of: {', '.join(PROFILES)}.")
    kept = {row["id"] for row in sorted(rows, key=by_hash)[: (n or {}).get(profile)]}
    return [row for row in rows if row["id"] in kept]


def arrange(rows: Sequence[Row], stratum: Callable[[Row], Hashable] = lambda _: None) -> list[Row]:
    """Return the rows with `choices` and `gold` in place of `good` and `bad`, in the same order.

    Within each stratum `gold` is 0, 1, ... in turn along the order of the SHA-256 of the ids: a model that always takes
    the first choice scores chance in every stratum, and in every sample that `take` makes.
    """
    ranks: dict[Hashable, int] = {}
    gold: dict[str, int] = {}
    for row in sorted(rows, key=by_hash):
        group = stratum(row)
        gold[row["id"]] = ranks.get(group, 0) % (1 + len(row["bad"]))
        ranks[group] = ranks.get(group, 0) + 1
    return [_document(row, gold[row["id"]]) for row in rows]


def _document(row: Row, gold: int) -> Row:
    rest = {key: value for key, value in row.items() if key not in ("good", "bad")}
    return {**rest, "choices": [*row["bad"][:gold], row["good"], *row["bad"][gold:]], "gold": gold}
