"""Shards: whole or absent, done or not, the same bytes."""

import hashlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from udasa import run
from udasa.backends import Report


def table(*values: int) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.int64())})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail(*_: object) -> None:
    raise OSError(5, "Input/output error")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def full_disk(_: pytest.MonkeyPatch) -> Iterator[None]:
    """No file can grow past four bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def broken(call: str, failure: Callable[..., None]) -> Any:
    @contextmanager
    def patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failure)
            yield

    return patched


FAILURES = {
    "write": full_disk,
    "fsync": broken("fsync", fail),
    "rename": broken("replace", fail),
    "fsync-interrupted": broken("fsync", interrupt),
    "rename-interrupted": broken("replace", interrupt),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_fails_leaves_no_half_file_and_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None, failure: str
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises((OSError, KeyboardInterrupt)), FAILURES[failure](monkeypatch):
        run.write_file(path, b"new content")
    assert names(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old
    run.write_file(path, b"new content")
    assert path.read_bytes() == b"new content"
    assert names(tmp_path) == ["file"]


def test_a_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for call in ("fsync", "replace"):
        original = getattr(os, call)
        monkeypatch.setattr(os, call, lambda *args, c=call, f=original: (seen.append(c), f(*args)))
    run.write_file(tmp_path / "deep" / "er" / "file", b"x")
    assert seen == ["fsync", "replace"]
    assert (tmp_path / "deep" / "er" / "file").read_bytes() == b"x"


def test_a_file_may_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    run.write_file(tmp_path / "file", b"x")
    assert oct((tmp_path / "file").stat().st_mode) == oct(plain.stat().st_mode)


def test_a_shard_has_a_marker_with_its_rows_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "step" / "00000.parquet"
    run.write_shard(path, table(1, 2, 3))
    marker = json.loads((tmp_path / "step" / "00000.done").read_text())
    assert marker == {"rows": 3, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert run.is_done(path)
    assert run.num_rows(path) == 3
    assert pq.read_table(path).equals(table(1, 2, 3))


def test_a_shard_without_its_marker_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "step" / "00000.parquet"
    replace = os.replace

    def fail_at_marker(source: str, target: Path) -> None:
        if target.suffix == ".done":
            raise OSError(5, "Input/output error")
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(os, "replace", fail_at_marker)
        run.write_shard(path, table(1))
    assert names(path.parent) == ["00000.parquet"]
    assert not run.is_done(path)
    assert run.shard_paths(tmp_path, "step") == []


def test_a_marker_without_its_shard_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "00000.done").write_text("{}")
    assert not run.is_done(tmp_path / "00000.parquet")


@pytest.mark.parametrize("rows", [[], [1, 2], list(range(10_000))])
def test_the_same_table_gives_the_same_bytes(rows: list[int]) -> None:
    whole = table(*rows)
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1)]).combine_chunks()
    assert run.parquet_bytes(whole) == run.parquet_bytes(table(*rows)) == run.parquet_bytes(chunked)
    assert pq.read_table(pa.BufferReader(run.parquet_bytes(whole))).equals(whole)


def test_another_table_gives_other_bytes() -> None:
    assert run.parquet_bytes(table(1, 2)) != run.parquet_bytes(table(2, 1))


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        run.write_shard(tmp_path / "step" / f"{number:05d}.parquet", table(number))
    assert [path.name for path in run.shard_paths(tmp_path, "step")] == [f"{n:05d}.parquet" for n in (0, 2, 10)]
    assert run.read(tmp_path, "step").equals(table(0, 2, 10))
    assert run.shard_paths(tmp_path, "other") == []


# --- steps


class Tenfold:
    """A step that multiplies, counts, and fails where told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.made = 0
        self.seen: list[list[int]] = []
        self.fails_at = fails_at

    def step(self) -> run.Step:
        def make() -> run.Apply:
            self.made += 1
            return self.apply

        return run.Step("out", make)

    def apply(self, shard: pa.Table, report: Report) -> pa.Table:
        rows = shard["x"].to_pylist()
        if rows[0] == self.fails_at:
            raise RuntimeError("killed")
        self.seen.append(rows)
        report(len(rows))
        return table(*(10 * x for x in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, rows in enumerate([[1, 2], [3], [4, 5]]):
        run.write_shard(tmp_path / "in" / f"{number:05d}.parquet", table(*rows))
    return tmp_path


def test_a_step_goes_over_every_shard_once(folder: Path) -> None:
    step = Tenfold()
    run.run_local(folder, "in", step.step())
    run.run_local(folder, "in", step.step())
    assert (step.made, step.seen) == (1, [[1, 2], [3], [4, 5]])
    assert run.read(folder, "out").equals(table(10, 20, 30, 40, 50))
    assert [run.num_rows(path) for path in run.shard_paths(folder, "out")] == [2, 1, 2]


def test_a_step_that_was_killed_goes_on_where_it_stopped(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        run.run_local(folder, "in", Tenfold(fails_at=3).step())
    assert names(folder / "out") == ["00000.done", "00000.parquet"]
    again = Tenfold()
    run.run_local(folder, "in", again.step())
    assert again.seen == [[3], [4, 5]]
    assert run.read(folder, "out").equals(table(10, 20, 30, 40, 50))


def test_a_shard_whose_marker_is_gone_is_done_again(folder: Path) -> None:
    run.run_local(folder, "in", Tenfold().step())
    (folder / "out" / "00001.done").unlink()
    again = Tenfold()
    run.run_local(folder, "in", again.step())
    assert again.seen == [[3]]


def test_progress_is_of_what_is_left_to_do(folder: Path) -> None:
    seen: list[Any] = []

    @contextmanager
    def progress(name: str, total: int) -> Iterator[Report]:
        seen.append((name, total))
        yield seen.append

    run.run_local(folder, "in", Tenfold().step(), progress)
    assert seen == [("out", 5), 2, 1, 2]
    (folder / "out" / "00002.done").unlink()
    run.run_local(folder, "in", Tenfold().step(), progress)
    run.run_local(folder, "in", Tenfold().step(), progress)
    assert seen[4:] == [("out", 2), 2]


def test_row_groups_fit_a_viewer_and_hang_on_the_values_alone(monkeypatch):
    monkeypatch.setattr(run, "GROUP_BYTES", 100_000)
    texts = ["x" * 100 for _ in range(5_000)]
    plain = pa.table({"text": texts, "n": pa.array(range(5_000), pa.int64()), "list": [["ab"]] * 5_000})
    assert run.rows_per_group(plain) == 512, "100 + 8 + 2 bytes a row: 909 fit"
    same = pa.concat_tables([pa.table(plain.to_pydict()).slice(i, 1_000) for i in range(0, 5_000, 1_000)])
    assert run.parquet_bytes(same.combine_chunks()) == run.parquet_bytes(plain)
    groups = pq.ParquetFile(pa.BufferReader(run.parquet_bytes(plain))).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [512] * 9 + [392]
    assert run.rows_per_group(pa.table({"text": pa.array([], pa.string())})) >= 1
    assert run.rows_per_group(pa.table({"text": ["x" * 1_000_000] * 2})) == 1
