"""Scored rows -> staged pairs, part by part: what is in memory hangs on a part, and on little of every response.

u of every response, from the columns that measure it: its ranks are over the whole build
-> pairs of one part of the rows after the other, sorted into buckets by prompt id
-> stage and split, bucket by bucket: the thresholds are over the whole build
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

import polars as pl
import pyarrow as pa

from udasa import gaps, pairs, run, schema, stages
from udasa.calibrate import Curve, curves, with_u
from udasa.maps import Maps, used
from udasa.recipe import Recipe
from udasa.stages import Thresholds

PART = 65_536
"""Prompts that are paired at once (a larger shard is paired at once too), and at most in one shard of pairs."""

Parts = Callable[[Sequence[str], Sequence[str]], Iterator[pa.Table]]
"""Columns of a row and fields of a response -> the scored rows with these, in parts; in the same order every time."""

_EVIDENCE = ("logprob_mean", *schema.EVIDENCE)
"""The fields that a gap's interval is made from."""


class Staged(NamedTuple):
    """What pairing found of the whole build, besides the pairs."""

    thresholds: Thresholds
    outcomes: pl.DataFrame
    """prompt_id, outcome, detail: one row per scored prompt."""


def of_build(folder: Path) -> Parts:
    """Return the scored rows of a build, read as they are asked for."""
    groups = list(_together(run.shard_paths(folder, "scored")))

    def read(columns: Sequence[str], fields: Sequence[str]) -> Iterator[pa.Table]:
        names = [*columns, *(f"responses.list.element.{field}" for field in fields)]
        kind = schema.some_of_scored(columns, fields)
        for shards in groups:
            yield schema.conform(pa.concat_tables([run.read_parquet(shard, names) for shard in shards]), kind)

    return read


def of_table(scored: pa.Table) -> Parts:
    """Return scored rows that are in memory, in one part."""
    whole = schema.conform(scored, schema.SCORED)
    return lambda columns, _: iter([whole.select([*columns, "responses"])])


def pair_and_stage(
    parts: Parts,
    settings: Recipe,
    fitted: Maps | None,
    write: Callable[[int, pa.Table], None],
    spill: Path | None = None,
) -> Staged:
    """Pair and stage scored rows; `write` gets the pairs by prompt id, in numbered tables of at most `PART`.

    Args:
        parts: the scored rows.
        settings: the recipe.
        fitted: its calibration maps; None: ranks.
        write: called with 0, 1, … and a table as `schema.PAIRS`; at least once.
        spill: the folder that holds the pairs in the meantime; None: the system's.

    Raises:
        UserError: a dimension with a weight has no value in the whole build.
    """
    measured = tuple(used(settings.measures, settings.weights).values())
    found = [(table["prompt_id"], _responses(table, measured)) for table in parts(["prompt_id"], measured)]
    ids, raw = pl.concat([pl.Series(some) for some, _ in found]), pl.concat([some for _, some in found])
    u = with_u(raw, settings.weights, settings.measures, fitted)["u"]
    shapes = curves(raw, settings.weights, settings.measures, fitted) if settings.pairing.gap_resamples else None
    with ExitStack() as files:
        buckets = _Buckets(ids.sort().gather_every(PART)[1:], spill, files)
        outcomes, differences = [], []
        for paired in _paired(parts, u, settings, shapes):
            buckets.add(paired.pairs)
            outcomes.append(paired.outcomes)
            differences.append(paired.pairs["gap"])
        thresholds = stages.thresholds(pl.concat(differences), settings.staging)
        staged = []
        for number, some in enumerate(buckets):
            finished = stages.stage(some, settings.staging, settings.seed, thresholds)
            write(number, finished.pairs)
            staged.append(finished.outcomes)
    return Staged(thresholds, pl.concat(outcomes).update(pl.concat(staged), on="prompt_id"))


def _paired(parts: Parts, u: pl.Series, settings: Recipe, shapes: Mapping[str, Curve] | None) -> Iterator[pairs.Paired]:
    """Pair the rows part by part; `u` has every response's, in their order."""
    measured = () if shapes is None else (*_EVIDENCE, *used(settings.measures, settings.weights).values())
    fields = tuple(dict.fromkeys((*pairs.FIELDS, *measured)))
    start = 0
    for table in parts(pairs.COLUMNS, fields):
        responses = _responses(table, fields, pairs.COLUMNS)
        paired = pairs.pair(responses.with_columns(u=u.slice(start, responses.height)), settings.pairing, settings.seed)
        start += responses.height
        if shapes is not None:
            paired = paired._replace(pairs=gaps.with_intervals(paired.pairs, table, shapes, settings))
        yield paired


def _responses(table: pa.Table, fields: Sequence[str], columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return one row per response with these fields, and with these columns of its row."""
    rows = pl.DataFrame(pl.from_arrow(table.select([*columns, "responses"])))
    return rows.explode("responses").unnest("responses").select(*columns, *fields)


def _together(shards: Sequence[Path]) -> Iterator[list[Path]]:
    """Group shards in order, until a group has `PART` rows."""
    group: list[Path] = []
    rows = 0
    for shard in shards:
        group.append(shard)
        rows += run.num_rows(shard)
        if rows >= PART:
            yield group
            group, rows = [], 0
    if group:
        yield group


class _Buckets:
    """Rows parted by prompt id, in files that vanish with the process."""

    def __init__(self, starts: pl.Series, spill: Path | None, files: ExitStack) -> None:
        """Open a file a bucket; `starts` has the first id of every bucket but the first, rising."""
        self.starts = starts
        self.files: list[IO[bytes]] = [
            files.enter_context(tempfile.TemporaryFile(dir=spill))  # noqa: SIM115 - `files` closes it
            for _ in range(len(starts) + 1)
        ]
        self.writers: list[pa.RecordBatchStreamWriter] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Put rows, sorted by id, where they belong."""
        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        self.writers = self.writers or [pa.ipc.new_stream(file, table.schema) for file in self.files]
        ends = [*rows["prompt_id"].search_sorted(self.starts, side="left"), rows.height]
        for writer, start, end in zip(self.writers, [0, *ends], ends, strict=False):
            writer.write_table(table.slice(start, end - start))

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield the buckets in order, each sorted by id."""
        for writer, file in zip(self.writers, self.files, strict=True):
            writer.close()
            file.seek(0)
            yield pl.DataFrame(pl.from_arrow(pa.ipc.open_stream(file).read_all())).sort("prompt_id")
