"""What a new version of a data set costs to upload, with and without content-defined chunking of the parquet.

    python -m benchmarks.upload_sizes            # 60,000 pairs, about two minutes

The rows are synthetic pairs, with words drawn by Zipf's law. Version 2 differs from version 1 in one percent of the
rows. Each version is one parquet file, committed by an unpatched huggingface_hub with hf-xet to the test Hub
(`tests/hub`), which counts the bytes of the xorbs it is sent. The client keeps its cache from version 1, because it is
against that cache that it dedupes: a release from another machine depends on what the Hub lets it find.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.hub.client import run_client
from tests.hub.server import RunningHub, running_hub
from udasa import run, schema

REPO = "acme/pairs"
VOCABULARY = 20_000
NUM_WORDS = {"prompt": 30, "chosen": 120, "rejected": 120}
LABELS = {"stage": "moderate", "split": "train", "task": "helpfulness", "domain": "general", "source": "synthetic"}


def pairs(num_rows: int, seed: int) -> pa.Table:
    """Rows of a `pairs` table: ids, words and scores at random, the same for the same seed."""
    random = np.random.default_rng(seed)
    words = np.array([f"{random.integers(26**6):x}" for _ in range(VOCABULARY)])
    chances = 1 / np.arange(1, VOCABULARY + 1)
    chances /= chances.sum()

    def column(field: pa.Field) -> pa.Array:
        if field.name in NUM_WORDS:
            role = "user" if field.name == "prompt" else "assistant"
            drawn = random.choice(words, (num_rows, NUM_WORDS[field.name]), p=chances)
            return pa.array([[{"role": role, "content": " ".join(row)}] for row in drawn], field.type)
        if field.name.endswith("_id"):
            return pa.array(sorted(random.bytes(16).hex() for _ in range(num_rows)), field.type)
        if pa.types.is_floating(field.type):
            return pa.array(random.random(num_rows), field.type)
        return pa.array([LABELS.get(field.name, "apache-2.0")] * num_rows, field.type)

    return pa.Table.from_arrays([column(field) for field in schema.PAIRS], schema=schema.PAIRS)


def replaced(table: pa.Table, new: pa.Table, rows: np.ndarray) -> pa.Table:
    """Return the table with these rows, in order, taken from `new`."""
    indices = np.arange(table.num_rows)
    indices[rows] = table.num_rows + np.arange(new.num_rows)
    return pa.concat_tables([table, new]).take(indices)


def inserted(table: pa.Table, new: pa.Table, before: np.ndarray) -> pa.Table:
    """Return the table with the rows of `new` put before these rows, in order."""
    indices = np.insert(np.arange(table.num_rows), before, table.num_rows + np.arange(new.num_rows))
    return pa.concat_tables([table, new]).take(indices)


def changes(table: pa.Table) -> dict[str, pa.Table]:
    """Five ways in which one percent of the rows may differ in version 2."""
    share = table.num_rows // 100
    middle = table.num_rows // 2
    block = np.arange(middle, middle + share)
    scattered = np.sort(np.random.default_rng(1).choice(table.num_rows, share, replace=False))
    new = pairs(share, seed=2)
    return {
        "1 % of the rows changed, in one block": replaced(table, new, block),
        "1 % of rows inserted, in one block": inserted(table, new, np.full(share, middle)),
        "1 % of rows appended": inserted(table, new, np.full(share, table.num_rows)),
        "1 % of the rows changed, scattered": replaced(table, new, scattered),
        "1 % of rows inserted, scattered": inserted(table, new, scattered),
    }


def fixed_pages(table: pa.Table) -> bytes:
    """As `run.parquet_bytes`, but with pages cut by count."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_index=True, store_schema=True)
    payload: bytes = sink.getvalue().to_pybytes()
    return payload


def commit(path: str) -> str:
    """Commit one file, as a client of the Hub does it."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo("acme/pairs", repo_type="dataset", exist_ok=True)
    add = CommitOperationAdd("data/train.parquet", path)
    return api.create_commit("acme/pairs", [add], commit_message="release", repo_type="dataset").oid


def upload(hub: RunningHub, payload: bytes, home: Path) -> int:
    """Bytes that the Hub is sent for a version of the file."""
    home.mkdir(parents=True, exist_ok=True)
    path = home.parent / "train.parquet"
    path.write_bytes(payload)
    before = hub.store.cas.received_bytes
    sha = run_client(hub, commit, str(path), home=home, token=hub.token(), timeout=600)
    repo = hub.store.repos["dataset", REPO]
    if hub.store.content(repo.resolve(sha).files["data/train.parquet"]) != payload:
        raise AssertionError("The Hub does not hold the bytes that were committed.")
    return hub.store.cas.received_bytes - before


def measure(num_rows: int, write: Callable[[pa.Table], bytes], folder: Path) -> dict[str, int]:
    """Bytes uploaded for version 1, and for each kind of version 2 on top of it."""
    table, first = pairs(num_rows, seed=0), folder / "first"
    with running_hub() as hub:
        sizes = {"version 1": upload(hub, write(table), first)}
        for number, (name, changed) in enumerate(changes(table).items()):
            home = folder / str(number)
            shutil.copytree(first, home)
            sizes[name] = upload(hub, write(changed), home)
    return sizes


def main() -> None:
    """Print the table of docs/releases.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=60_000)
    num_rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        cut_by_content = measure(num_rows, run.parquet_bytes, Path(folder, "content"))
        cut_by_count = measure(num_rows, fixed_pages, Path(folder, "count"))
    print(f"| uploaded for {num_rows:,} pairs, MB | content-defined chunks | fixed pages |\n|---|---:|---:|")
    for name, size in cut_by_content.items():
        print(f"| {name} | {size / 1e6:.2f} | {cut_by_count[name] / 1e6:.2f} |")


if __name__ == "__main__":
    main()
