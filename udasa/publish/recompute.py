"""A release -> a build again, from its published responses and recipe; and whether that gives the same bytes.

rebuild("org/udasa-pairs@v1.0.0", Path("runs/again"))     # a build: restage it, publish it, inspect it
rebuild_differs("org/udasa-pairs@v1.0.0")                 # [] if every table comes out byte for byte
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from udasa import flow, maps, run, schema
from udasa.digests import file_sha256
from udasa.errors import UserError
from udasa.publish.assemble import write_tables
from udasa.release import Opened, open_data, open_release

SUMMARY = ("calibration", "findings", "models", "packages", "recipe_digest", "udasa")
"""What a build's summary says and its tables do not; the manifest keeps it."""


class Rebuilt(NamedTuple):
    """How a release compares with the one that its responses and recipe give."""

    target: str
    files: list[str]
    """Tables that were compared."""
    differ: list[str]
    """Those that do not have the same bytes, and thresholds that are not the same."""


def rebuild(target: str, folder: Path, *, token: str | None = None) -> Path:
    """Write a build folder from a release's responses, recipe and ledger, and pair and stage it anew; no model runs.

    Fitted calibration maps and findings are the ones that the manifest records.

    Raises:
        UserError: the target is no release, or the folder is not empty.
    """
    opened = open_release(target, token=token)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty. Rebuild into a new folder.")
    return _rebuild(opened, folder)


def rebuild_differs(target: str, *, token: str | None = None) -> Rebuilt:
    """Make pairs, stages and ledger again from the published responses, and compare the parquet byte by byte.

    Raises:
        UserError: the target is no release.
    """
    opened = open_release(target, token=token)
    with tempfile.TemporaryDirectory() as temporary:
        build = open_data(str(_rebuild(opened, Path(temporary) / "build")))
        made = Path(temporary) / "release"
        write_tables(opened.recipe, build.frame("pairs"), build.frame("scored"), build.frame("ledger"), made)
        tables = [{p.relative_to(f).as_posix(): file_sha256(p) for p in _tables(f)} for f in (opened.folder, made)]
    names = sorted(tables[0].keys() | tables[1].keys())
    differ = [name for name in names if tables[0].get(name) != tables[1].get(name)]
    if build.facts["thresholds"] != opened.facts["thresholds"]:
        differ.append(f"thresholds: {opened.facts['thresholds']} -> {build.facts['thresholds']}")
    return Rebuilt(target, names, differ)


def _tables(folder: Path) -> list[Path]:
    return [*folder.glob("data/*/*.parquet"), *folder.glob("responses/*.parquet"), folder / "ledger.parquet"]


def _rebuild(opened: Opened, folder: Path) -> Path:
    settings = opened.recipe
    scored, ledger = opened.frame("scored"), opened.frame("ledger")
    order = {source.name: number for number, source in enumerate(settings.sources)}
    scored = scored.sort(pl.col("source").replace_strict(order, return_dtype=pl.Int64), "source_row")
    flow.claim(folder, settings)
    run.write_file(folder / "models.json", _json(opened.facts["models"]))
    for number, start in enumerate(range(0, scored.height, settings.shard_size)):
        rows = _arrow(scored.slice(start, settings.shard_size), schema.SCORED)
        unscored = _arrow(_unscored(pl.DataFrame(pl.from_arrow(rows))), schema.RESPONSES)
        for name, table in (("prompts", rows.select(schema.PROMPTS.names)), ("responses", unscored), ("scored", rows)):
            run.write_shard(folder / name / f"{number:05d}.parquet", table)
    # A prompt that got no responses is not published: its line of the ledger joins those of the dropped rows.
    dropped = ledger.join(scored, on=["source", "source_row"], how="anti")
    run.write_shard(folder / "dropped" / "00000.parquet", _arrow(dropped, schema.LEDGER))
    staged = flow.write_staged(settings, folder, maps.recorded(opened.facts))
    summary = {key: opened.facts[key] for key in SUMMARY if key in opened.facts}
    run.write_file(folder / "build.json", _json({**summary, "thresholds": staged.thresholds._asdict()}))
    return folder


def _unscored(scored: pl.DataFrame) -> pl.DataFrame:
    """Take the scores off: a responses table; what was scored has not failed."""
    fields = [field.name for field in schema.RESPONSES.field("responses").type.value_type]
    plain = pl.col("responses").list.eval(pl.struct(pl.element().struct.field(name) for name in fields))
    none = pl.lit(None, dtype=pl.String)
    return scored.with_columns(plain, failure=none, failure_detail=none).select(schema.RESPONSES.names)


def _arrow(rows: pl.DataFrame, kind: pa.Schema) -> pa.Table:
    return schema.conform(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), kind)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
