"""Evaluation data -> its texts: what a training set must not share words in a row with."""

import csv
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from udasa import resources
from udasa.errors import UserError
from udasa.prompts import read_rows, words

MIN_WORDS = 4
"""Shorter texts (ids, labels, names) say nothing about an overlap, and are left out."""

SUITE = "the bundled suite"


class Evaluation(NamedTuple):
    """The texts of evaluation data, each once, and what they are of."""

    texts: pl.Series
    about: str
    """Where they are from, and the first digits of their sha256: the same texts have the same."""


def read_evaluation(extra: Sequence[str] = ()) -> Evaluation:
    """Return the texts of the bundled suite and of more data: every text of every column, also in lists and objects.

    Args:
        extra: .jsonl, .csv or .parquet files; folders of such files, such as a mirror of the public data sets; or Hub
            data sets, as `org/name`, `org/name:config`, and with `@revision`.

    Raises:
        UserError: something is not there, or cannot be read.
    """
    suite = sorted((resources.shelf("eval") / "data").glob("*.jsonl"))
    rows = [row for path in suite for row in read_rows(path.name, path)]
    rows += [row for name in extra for row in _read(name)]
    texts = sorted({text for row in rows for text in _texts(row) if len(words(text)) >= MIN_WORDS})
    digest = hashlib.sha256("\x00".join(texts).encode()).hexdigest()[:12]
    return Evaluation(pl.Series(texts, dtype=pl.String), f"{', '.join([SUITE, *extra])}; sha256 {digest}")


def _read(name: str) -> list[dict[str, Any]]:
    path = Path(name).expanduser()
    if path.is_file():
        return read_rows(path.name, path)
    if path.is_dir():
        return _read_folder(path)
    repository, _, revision = name.partition("@")
    repository, _, config = repository.partition(":")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")) or path.suffix in (".jsonl", ".csv"):
        raise UserError(
            f"There is no evaluation data at {name}. Give a .jsonl, .csv or .parquet file, a folder of such files, "
            "or a Hub data set as org/name, org/name:config or org/name@revision."
        )
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        splits = load_dataset(repository, config or None, revision=revision or None)
    except (DatasetNotFoundError, ValueError) as error:
        raise UserError(f"The evaluation data {name} cannot be read: {error}") from error
    return [row for split in splits.values() for row in split.to_list()]


def _read_folder(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of every table below a folder; what else is there (licences, notes) is no data."""
    rows: list[dict[str, Any]] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name.endswith(".jsonl.gz"):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                rows += [json.loads(line) for line in lines if line.strip()]
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as lines:
                rows += csv.DictReader(lines)  # a row with fields beyond the header's is no reason to stop here
        elif path.suffix in (".jsonl", ".parquet"):
            rows += read_rows(path.name, path)
    if not rows:
        raise UserError(f"There is no .jsonl, .jsonl.gz, .csv or .parquet file with rows in {folder}.")
    return rows


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
