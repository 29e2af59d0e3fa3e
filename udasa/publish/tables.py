"""The tables of a release, each read once, for the checks that hold them to each other."""

from collections.abc import Iterator
from functools import cached_property

import polars as pl

from udasa import run
from udasa.release import Opened

Found = Iterator[tuple[str, list[str]] | str]
"""What a check yields: what does not fit, and ids."""


class Tables:
    """The release's tables, read once."""

    def __init__(self, opened: Opened) -> None:
        self.opened, self.manifest = opened, opened.facts

    @cached_property
    def pairs(self) -> pl.DataFrame:
        """All pairs, with the file that each stands in."""
        folder = self.opened.folder
        return pl.concat(
            pl.DataFrame(pl.from_arrow(run.read_parquet(path))).with_columns(
                folder=pl.lit(path.parent.name), file=pl.lit(path.name.partition("-")[0])
            )
            for path in sorted(folder.glob("data/*/*.parquet"))
        )

    @cached_property
    def scored(self) -> pl.DataFrame:
        """All scored prompts."""
        return self.opened.frame("scored")

    @cached_property
    def responses(self) -> pl.DataFrame:
        """A row a response."""
        return self.scored.select("prompt_id", "messages", "responses").explode("responses").unnest("responses")

    @cached_property
    def ledger(self) -> pl.DataFrame:
        """The ledger."""
        return self.opened.frame("ledger")
