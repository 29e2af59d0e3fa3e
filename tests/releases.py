"""Releases to damage: assembled from a fake build, edited in one way, and sealed again so that only that edit shows."""

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from udasa import run, schema
from udasa.publish.assemble import assemble, file_facts, stamp


def released(build, folder):
    """Return the folder of a release."""
    folder.mkdir(parents=True)
    assemble(build, str(folder.absolute()), "1.0.0", folder)
    return folder


def manifest(folder):
    """Return the manifest of a release."""
    return json.loads((folder / "manifest.json").read_text())


def first(folder, pattern="data/*/train-*.parquet"):
    """Return the first table that fits."""
    return sorted(folder.glob(pattern))[0]


def edit(path, change, kind=schema.PAIRS):
    """Rewrite a parquet file with its rows (dicts) changed in place or returned."""
    rows = pq.read_table(path, partitioning=None).to_pylist()
    rows = change(rows) or rows
    frame = pl.DataFrame(pl.from_arrow(schema.pa.Table.from_pylist(rows, kind)))
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(kind)
    path.write_bytes(run.parquet_bytes(table))


def seal(folder, **changes):
    """Write every sha256 and row count anew, and the card, as a forger would."""
    facts = manifest(folder) | changes
    facts.pop("card")
    facts["files"] = {name: file_facts(folder / name) for name in facts["files"] if (folder / name).is_file()}
    stamp(facts, folder)


def contents(folder):
    """Return path -> bytes of every file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }
