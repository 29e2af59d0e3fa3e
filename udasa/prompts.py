"""Sources -> the prompts table, and a ledger line for every row that does not enter it.

{"prompt": "  What is DNA?"} -> {"prompt_id": "5f1c…", "messages": [{"role": "user", "content": "What is DNA?"}], …}
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
from datasketch import MinHash, MinHashLSH

from udasa import schema
from udasa.backends import Message
from udasa.digests import file_sha256, stable_hash
from udasa.errors import UserError
from udasa.recipe import Recipe, Source, bundled_path

_ROLES = ("system", "user", "assistant")
_PERMUTATIONS = 128
SHINGLE = 3
"""Words in a row that are compared; a shorter text is compared as a whole."""
_PAUSES = str.maketrans(dict.fromkeys(".,;:!?…\"'()[]«»“”‘’¿¡。，、？！", " "))
"""Marks that do not make another prompt; any other sign does (C and C++, 3 + 5 and 3 - 5)."""


class Prompts(NamedTuple):
    """The prompts that enter the build, and a ledger line for each that does not."""

    table: pa.Table
    dropped: pa.Table


def collect(recipe: Recipe) -> Prompts:
    """Read every source, normalise, and drop exact and near duplicates; the first in source order stays.

    Raises:
        UserError: a source is missing, empty, unreadable, or has a row without a prompt.
    """
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    seen: set[str] = set()
    near = _NearDuplicates(recipe.near_duplicate)
    for source in recipe.sources:
        for row in _rows(source, recipe):
            line = {key: row[key] for key in ("source", "source_row", "prompt_id")}
            if row["prompt_id"] in seen:
                dropped.append({**line, "outcome": "duplicate-prompt", "detail": row["prompt_id"]})
            elif (twin := near.find_or_add(row)) is not None:
                dropped.append({**line, "outcome": "near-duplicate-prompt", "detail": twin})
            else:
                kept.append(row)
                seen.add(row["prompt_id"])
    return Prompts(
        schema.conform(pa.Table.from_pylist(kept, schema.PROMPTS), schema.PROMPTS),
        schema.conform(pa.Table.from_pylist(dropped, schema.LEDGER), schema.LEDGER),
    )


def prompt_id(messages: Sequence[Message]) -> str:
    """Return 16 hex digits of the sha256 of the normalised messages."""
    canonical = json.dumps([[m["role"], m["content"]] for m in messages], ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def normalise(text: str) -> str:
    """Return the text in Unicode NFC, with line feeds for newlines and no white space at either end."""
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").strip()


class _NearDuplicates:
    """Finds an earlier prompt of at least this Jaccard similarity of word 3-grams, through a MinHash index."""

    def __init__(self, threshold: float) -> None:
        # 32 bands of 4: at 0.8 the index misses 5 in 100 million; `find_or_add` compares every candidate exactly.
        self.index = MinHashLSH(num_perm=_PERMUTATIONS, params=(32, 4))
        self.texts: dict[str, str] = {}
        self.threshold = threshold

    def find_or_add(self, row: Mapping[str, Any]) -> str | None:
        """Return the id of an earlier near-duplicate, or add this prompt and return None."""
        text = " ".join(m["content"] for m in row["messages"] if m["role"] != "system")
        found = _shingles(text)
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update_batch([shingle.encode() for shingle in found])
        for candidate in sorted(self.index.query(sketch)):
            earlier = _shingles(self.texts[candidate])
            if len(found & earlier) / len(found | earlier) >= self.threshold:
                return str(candidate)
        self.index.insert(row["prompt_id"], sketch)
        self.texts[row["prompt_id"]] = text
        return None


def words(text: str) -> list[str]:
    """Return the words that near-duplicates are told by: case folded, without pauses; a text of pauses keeps them."""
    return text.casefold().translate(_PAUSES).split() or text.split()


def _shingles(text: str) -> set[str]:
    found = words(text)
    return {" ".join(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))}


def _rows(source: Source, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield the prompts rows of a source in its order, sampled by hash if it has a limit."""
    lines, columns, revision = _read(source)
    if not lines:
        raise UserError(f"Source '{source.name}' is empty; a source must have at least one prompt.")
    if source.prompt_column not in columns:
        raise UserError(
            f"Source '{source.name}' has no column '{source.prompt_column}'; its columns are {columns}. "
            "Set prompt_column to the one that holds the prompt."
        )
    if source.domain_column is not None and source.domain_column not in columns:
        raise UserError(f"Source '{source.name}' has no column '{source.domain_column}'; its columns are {columns}.")
    rows = [_row(source, recipe, revision, number, line) for number, line in enumerate(lines)]
    if source.limit is not None and source.limit < len(rows):
        rows.sort(key=lambda row: (stable_hash(recipe.seed, "sample", row["prompt_id"]), row["source_row"]))
        rows = sorted(rows[: source.limit], key=lambda row: int(row["source_row"]))
    yield from rows


def _row(source: Source, recipe: Recipe, revision: str, number: int, line: Mapping[str, Any]) -> dict[str, Any]:
    messages = _messages(source, number, line.get(source.prompt_column))
    if recipe.system is not None and messages[0]["role"] != "system":
        messages = [Message(role="system", content=normalise(recipe.system)), *messages]
    domain = (line.get(source.domain_column) if source.domain_column else None) or source.domain
    if domain not in schema.DOMAINS:
        raise UserError(
            f"Row {number} of source '{source.name}' has domain {domain!r}; "
            f"expected one of {', '.join(schema.DOMAINS)}."
        )
    return {
        "prompt_id": prompt_id(messages),
        "messages": messages,
        "task": source.task,
        "domain": domain,
        "source": source.name,
        "source_row": number,
        "source_revision": revision,
        "license": source.license,
    }


def _messages(source: Source, number: int, value: Any) -> list[Message]:
    """Return the prompt as messages that end with a user's turn."""
    where = f"Row {number} of source '{source.name}'"
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value):
        raise UserError(f"{where} has no prompt: expected a text or a list of {{role, content}}, got {value!r}.")
    if unknown := [m["role"] for m in value if m["role"] not in _ROLES]:
        raise UserError(f"{where} has a turn of {unknown[0]!r}; expected one of {', '.join(_ROLES)}.")
    messages = [Message(role=str(m["role"]), content=normalise(str(m["content"] or ""))) for m in value]
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"]:
        raise UserError(f"{where} has no prompt: it must end with a user's turn that is not empty, got {value!r}.")
    return messages


class _Read(NamedTuple):
    """The rows of a source, the columns that any of them has, and its revision: a sha256, or the Hub commit."""

    lines: list[dict[str, Any]]
    columns: list[str]
    revision: str


def _read(source: Source) -> _Read:
    if source.dataset is not None:
        from datasets import load_dataset

        data = load_dataset(source.dataset, source.config, split=source.split, revision=source.revision)
        frame = data.to_polars()
        return _Read(frame.to_dicts(), frame.columns, source_revision(source))
    revision = source_revision(source)
    lines = read_rows(source.name, bundled_path(source.path or ""))
    return _Read(lines, list(dict.fromkeys(key for line in lines for key in line)), revision)


def source_revision(source: Source) -> str:
    """Return the Hub commit of a source, or the sha256 of its file.

    Raises:
        UserError: there is no such file.
    """
    if source.dataset is not None:
        return str(source.revision)
    path = bundled_path(source.path or "")
    if not path.is_file():
        raise UserError(f"Source '{source.name}': there is no file at {path}. Give a .jsonl, .parquet or .csv file.")
    return f"sha256:{file_sha256(path)}"


def read_rows(name: str, path: Path) -> list[dict[str, Any]]:
    """Return the rows of a .jsonl, .parquet or .csv file; `name` is what the messages call it.

    Raises:
        UserError: the file is of another kind, or cannot be read.
    """
    return _read_jsonl(name, path) if path.suffix == ".jsonl" else _read_table(name, path)


def _read_jsonl(name: str, path: Path) -> list[dict[str, Any]]:
    """Read line by line, so that a row may lack a field or hold a text where another holds messages."""
    lines: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for text in filter(str.strip, file):
                lines.append(json.loads(text))
                if not isinstance(lines[-1], dict):
                    raise UserError(f"Row {len(lines) - 1} of source '{name}' is no JSON object ({path}).")
    except json.JSONDecodeError as error:
        raise UserError(f"Row {len(lines)} of source '{name}' is not JSON ({path}): {error}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"Row {len(lines)} of source '{name}' is not UTF-8 ({path}): {error}.") from error
    return lines


def _read_table(name: str, path: Path) -> list[dict[str, Any]]:
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        ".parquet": pl.read_parquet,
        ".csv": partial(pl.read_csv, infer_schema=False),
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise UserError(f"Source '{name}': {path} ends in '{path.suffix}'; expected .jsonl, .parquet or .csv.")
    try:
        return reader(path).to_dicts()
    except pl.exceptions.NoDataError:
        return []
    except pl.exceptions.PolarsError as error:
        raise UserError(f"Source '{name}': {path} is not a readable {path.suffix} file: {error}") from error
