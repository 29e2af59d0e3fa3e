"""A folder or a Hub data set -> the tables and the manifest that a page shows."""

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from udasa import publish, run
from udasa.errors import UserError

UNPUBLISHED = "0.0.0"
"""The version that a build has until it is published."""


class Target(NamedTuple):
    """A release, or a build as the release that it would make."""

    name: str
    """What the user named, a folder by its last part."""
    manifest: dict[str, Any]
    pairs: pl.DataFrame
    """`schema.PAIRS`."""
    responses: pl.DataFrame
    """`schema.SCORED`."""
    ledger: pl.DataFrame
    """`schema.LEDGER`."""


def open_target(target: str) -> Target:
    """Open a build's folder, a release's folder, or a Hub data set (org/name or org/name@v1.0.0).

    Raises:
        UserError: nothing is there, or it is neither a finished build nor a release.
    """
    folder = Path(target).expanduser()
    if (folder / "build.json").is_file():
        with tempfile.TemporaryDirectory() as temporary:
            manifest = publish.assemble(folder, ".", UNPUBLISHED, Path(temporary))
        return Target(
            folder.absolute().name, manifest, *(run.read_frame(folder, n) for n in ("pairs", "scored", "ledger"))
        )
    if not (folder / publish.MANIFEST).is_file():
        raise UserError(f"{target} is neither a release ({publish.MANIFEST}) nor a finished build (build.json).")
    manifest = json.loads((folder / publish.MANIFEST).read_text(encoding="utf-8"))
    patterns = ("data/*/*.parquet", "responses/*.parquet", "ledger.parquet")
    frames = [pl.concat([pl.read_parquet(path) for path in sorted(folder.glob(pattern))]) for pattern in patterns]
    return Target(folder.absolute().name, manifest, *frames)
