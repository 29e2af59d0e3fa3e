"""A build, a folder or a Hub data set -> the tables and the manifest that a page shows."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from udasa import publish, schema
from udasa.errors import UserError
from udasa.release import Opened, open_data

UNPUBLISHED = "0.0.0"
"""The version that a build has until it is published."""


class Target(NamedTuple):
    """A release, or a build as the release that it would make."""

    name: str
    """What the user named; of a folder its last part only."""
    manifest: dict[str, Any]
    pairs: pl.DataFrame
    """`schema.PAIRS`."""
    responses: pl.DataFrame
    """`schema.SCORED`."""
    ledger: pl.DataFrame
    """`schema.LEDGER`."""
    opened: Opened
    """Where it was read from."""


def open_target(target: str) -> Target:
    """Open a build's folder, a release's folder, or a Hub data set (org/name or org/name@v1.0.0).

    Raises:
        UserError: nothing is there, it is neither a finished build nor a release, or its tables have other columns.
    """
    opened = open_data(target)
    frames = [opened.frame(name) for name in ("pairs", "scored", "ledger")]
    for frame, kind in zip(frames, (schema.PAIRS, schema.SCORED, schema.LEDGER), strict=True):
        try:
            schema.conform(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), kind)
        except ValueError as error:
            raise UserError(
                f"{target} was made by another version of udasa: {error} Look at it with that one."
            ) from error
    manifest = opened.facts
    if opened.kind == "build":
        with tempfile.TemporaryDirectory() as temporary:
            manifest = publish.assemble(opened.folder, ".", UNPUBLISHED, Path(temporary))
    local = Path(target).expanduser().is_dir()
    pairs, responses, ledger = frames
    return Target(opened.folder.absolute().name if local else target, manifest, pairs, responses, ledger, opened)
