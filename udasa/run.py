"""Run steps over shards, one parquet per shard and step, each complete or absent.

A shard's parquet is written under a temporary name, synced and renamed, and its marker (`.done`, with the sha256)
is written last in the same way. A run that is killed goes on where it stopped.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from udasa.backends import Report, ignore

Progress = Callable[[str, int], AbstractContextManager[Report]]
"""`with progress("sample", total) as report: report(n)`."""

Apply = Callable[[pa.Table, Report], pa.Table]


UNFINISHED = ".unfinished-"
"""How the name of a file that is being written begins; one that is left was being written when the run was killed."""


GROUP_BYTES = 100_000_000
"""Uncompressed bytes of a row group at most: what `datasets` writes for the Hub's viewer, which reads whole groups."""
_MOST_ROWS = 1 << 20


class Done(NamedTuple):
    """A shard that a step has just finished."""

    step: str
    shard: str
    rows: int
    seconds: float
    """Wall time since the shard before it, or since the models were loaded."""
    load_seconds: float
    """Wall time of loading the models, if this is the first shard of a run; 0 on Ray: there it is in `seconds`."""


def nothing(_: Done) -> None:
    """Check nothing."""


class Step(NamedTuple):
    """A named step from one table to the next; `make` loads what it holds, once a run."""

    name: str
    make: Callable[[], Apply]
    check: Callable[[Done], None] = nothing
    """Called by the runner after every shard; it may raise, to stop the build between shards."""


@contextmanager
def silent(_: str, __: int) -> Iterator[Report]:
    """Show no progress."""
    yield ignore


def run_local(folder: Path, source: str, step: Step, progress: Progress = silent) -> None:
    """Apply a step to every shard of `source` that is not done yet, in order, in this process."""
    todo = unfinished_shards(folder, source, step.name)
    if not todo:
        return
    with progress(step.name, sum(num_rows(shard) for shard in todo)) as report:
        started = time.perf_counter()
        apply = step.make()
        loaded = time.perf_counter()
        for shard in todo:
            rows = work(folder, source, step.name, apply, shard.name, report)
            ended = time.perf_counter()
            step.check(Done(step.name, shard.name, rows, ended - loaded, loaded - started))
            started = loaded = time.perf_counter()


def unfinished_shards(folder: Path, source: str, name: str) -> list[Path]:
    """Return the finished shards of `source` that the step `name` has not done, in order."""
    return [shard for shard in shard_paths(folder, source) if not is_done(folder / name / shard.name)]


def work(folder: Path, source: str, name: str, apply: Apply, shard: str, report: Report = ignore) -> int:
    """Apply a step to one shard and write the result, as every runner does; returns the shard's rows."""
    table = read_parquet(folder / source / shard)
    write_shard(folder / name / shard, apply(table, report))
    rows: int = table.num_rows
    return rows


def shard_paths(folder: Path, name: str) -> list[Path]:
    """Return the finished shards of a step, in order."""
    return sorted(path for path in (folder / name).glob("*.parquet") if is_done(path))


def read(folder: Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return all shards of a step as one table; all columns, or some."""
    return pa.concat_tables([read_parquet(path, columns) for path in shard_paths(folder, name)])


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return one parquet file as a table: all columns, or some; `responses.list.element.text` is a part of one."""
    with pq.ParquetFile(path) as file:
        table = file.read(columns=columns)
    return table if columns is None else table.select(list(dict.fromkeys(name.split(".")[0] for name in columns)))


def read_frame(folder: Path, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return all shards of a step as one polars frame; all columns, or some."""
    return pl.DataFrame(pl.from_arrow(read(folder, name, columns)))


def num_rows(path: Path) -> int:
    """Return the number of rows of a parquet file, from its footer."""
    rows: int = pq.read_metadata(path).num_rows
    return rows


def is_done(path: Path) -> bool:
    """Say whether a shard's marker is there."""
    return path.with_suffix(".done").is_file() and path.is_file()


def is_unfinished(path: Path) -> bool:
    """Say whether a file is what a killed run left of one that it was writing."""
    return path.name.startswith(UNFINISHED)


def write_shard(path: Path, table: pa.Table) -> None:
    """Write a shard, then its marker."""
    payload = parquet_bytes(table)
    write_file(path, payload)
    marker = {"rows": table.num_rows, "sha256": hashlib.sha256(payload).hexdigest()}
    write_file(path.with_suffix(".done"), (json.dumps(marker) + "\n").encode())


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as parquet: the same table gives the same bytes.

    Pages are cut by content, so that a new version uploads only what changed; with a page index, so that a viewer reads
    only what it shows; and in row groups of at most `GROUP_BYTES`.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=rows_per_group(table),
        compression="zstd",
        use_content_defined_chunking=True,
        write_page_index=True,
        store_schema=True,
    )
    payload: bytes = sink.getvalue().to_pybytes()
    return payload


def rows_per_group(table: pa.Table) -> int:
    """Return the rows of a row group: the largest power of two that keeps it under `GROUP_BYTES`, on average.

    A power of two, so that a version with a few more rows is cut at the same places.
    """
    size = max(1, sum(_plain_bytes(column) for column in table.columns))
    fitting = max(1, GROUP_BYTES * table.num_rows // size)
    return int(min(1 << (fitting.bit_length() - 1), _MOST_ROWS))


def _plain_bytes(values: pa.Array | pa.ChunkedArray) -> int:
    """Return the bytes of the values alone, whatever buffers hold them."""
    if isinstance(values, pa.ChunkedArray):
        return sum(_plain_bytes(chunk) for chunk in values.chunks)
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _plain_bytes(values.flatten())
    if pa.types.is_struct(kind):
        return sum(_plain_bytes(values.field(index)) for index in range(kind.num_fields))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return int(pc.sum(pc.binary_length(values), min_count=0).as_py())
    return len(values) * int(kind.bit_width) // 8


def write_file(path: Path, payload: bytes) -> None:
    """Write a file so that it is seen whole or not at all: temporary name, sync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}{uuid4().hex}-{path.name}")
    try:
        with unfinished.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def link_shard(source: Path, target: Path) -> None:
    """Give a finished shard a second place, its marker last."""
    for path in (source, source.with_suffix(".done")):
        link(path, target.with_suffix(path.suffix))


def link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system cannot. A file that is there is kept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:
        write_file(target, source.read_bytes())
