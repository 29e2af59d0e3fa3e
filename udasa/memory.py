"""What models answered, kept on disk by the digest of who answered and what was asked.

One SQLite file with two tables. `Memory` holds entailment: each block of questions that went to the entailer together
is one transaction, so a kill loses the block that was being written and nothing else. `Replies` holds what servers were
asked for, each request by itself. Numbers are 8-byte floats, exactly as they were computed.
"""

import errno
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from udasa.backends import Floats
from udasa.errors import UserError

Pair = tuple[str, str]
"""(premise, hypothesis)."""

FORMAT = 1
"""Version of the file's layout."""

_PATIENCE = 60.0
"""Seconds to wait for another process that is writing."""
_AT_ONCE = 500
"""Questions that are looked up in one statement."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    block BLOB NOT NULL, place INTEGER NOT NULL, pair BLOB NOT NULL,
    entail REAL NOT NULL, neutral REAL NOT NULL, contra REAL NOT NULL,
    PRIMARY KEY (block, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_pair ON answers (pair);
CREATE TABLE IF NOT EXISTS replies (request BLOB PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID;
"""


class _Store:
    """The file; several models and several processes may share it."""

    def __init__(self, path: Path) -> None:
        """Make the file, or check the one that is there.

        Raises:
            UserError: it is not a memory, is damaged, or has another layout.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._file() as file:
            found = file.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, FORMAT):
                raise UserError(
                    f"{path} has layout {found} of the stored answers, this udasa reads {FORMAT}. "
                    "Delete it; the questions will be asked again."
                )
            file.executescript(f"{_SCHEMA} PRAGMA user_version = {FORMAT};")

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction: all of it happens, or nothing.

        Raises:
            OSError: the disk is full, or fails.
            UserError: the file cannot be used.
        """
        try:
            file = sqlite3.connect(self.path, timeout=_PATIENCE)
            try:
                with file:
                    yield file
            finally:
                file.close()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise OSError(errno.EIO, str(error), str(self.path)) from error
            raise UserError(
                f"The stored answers in {self.path} cannot be used: {error}. If no other process holds the file, "
                "delete it; the questions will be asked again."
            ) from error

    def _select(self, query: str, keys: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """Return the rows of a query for any of these keys, some at a time; `{}` is where their marks go."""
        rows: list[tuple[Any, ...]] = []
        with self._file() as file:
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                rows += file.execute(query.format(", ".join("?" * len(some))), some)
        return rows


class Memory(_Store):
    """The answers of one entailer."""

    def __init__(self, path: Path, entailer: str) -> None:
        """`entailer`: everything that its answers depend on, beside the texts."""
        super().__init__(path)
        self.entailer = entailer

    def block(self, pairs: Sequence[Pair]) -> Floats | None:
        """Return the answers of exactly these questions asked together, shape (n, 3), or None."""
        with self._file() as file:
            rows = file.execute(
                "SELECT entail, neutral, contra FROM answers WHERE block = ? ORDER BY place",
                (self._block(pairs),),
            ).fetchall()
        return self._checked(rows, len(pairs)) if rows else None

    def find(self, pairs: Sequence[Pair]) -> dict[Pair, Floats]:
        """Return the answers of those questions that were ever asked, in whatever company, each of shape (3,)."""
        digests = {self._pair(pair): pair for pair in pairs}
        found: dict[Pair, Floats] = {}
        query = "SELECT pair, entail, neutral, contra FROM answers WHERE pair IN ({}) ORDER BY block"
        for digest, *row in self._select(query, list(digests)):
            found.setdefault(digests[digest], self._checked([tuple(row)], 1)[0])
        return found

    def add(self, pairs: Sequence[Pair], answers: Floats) -> None:
        """Keep the answers, shape (n, 3), of questions that were asked together."""
        block = self._block(pairs)
        rows = [
            (block, place, self._pair(pair), *map(float, row))
            for place, (pair, row) in enumerate(zip(pairs, answers, strict=True))
        ]
        with self._file() as file:
            file.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _pair(self, pair: Pair) -> bytes:
        return _digest(self.entailer, *pair)

    def _block(self, pairs: Sequence[Pair]) -> bytes:
        return _digest(self.entailer, *(text for pair in pairs for text in pair))

    def _checked(self, rows: Sequence[tuple[float, ...]], count: int) -> Floats:
        values = np.array(rows, dtype=np.float64)
        if len(values) != count or not np.allclose(values.sum(axis=1), 1.0, atol=1e-4) or values.min() < 0:
            raise UserError(
                f"The stored answers in {self.path} are damaged: not {count} rows of three probabilities. "
                "Delete the file; the questions will be asked again."
            )
        return values


class Replies(_Store):
    """What servers replied, as JSON, by everything that was sent."""

    def find(self, requests: Iterable[str]) -> dict[str, Any]:
        """Return the replies to those requests that were ever answered."""
        digests = {_digest(request): request for request in requests}
        rows = self._select("SELECT request, reply FROM replies WHERE request IN ({})", list(digests))
        return {digests[digest]: json.loads(reply) for digest, reply in rows}

    def add(self, request: str, reply: Any) -> None:
        """Keep the reply to a request."""
        with self._file() as file:
            file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (_digest(request), json.dumps(reply)))


def _digest(*parts: str) -> bytes:
    """Return 128 bits over the parts; JSON keeps them apart."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]
