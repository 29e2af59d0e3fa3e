"""The checkpoints inside a stage: which one a killed run goes on from.

out/stages/1-conservative/checkpoints/run.json            what the run was begun with
out/stages/1-conservative/checkpoints/checkpoint-50/      as transformers writes it; `complete`, written last
"""

import os
import shutil
from pathlib import Path

from udasa.run import write_file

FOLDER = "checkpoints"
RUN = "run.json"
_COMPLETE = "complete"


def mark(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, once its files are on the disk."""
    for path in checkpoint.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    write_file(checkpoint / _COMPLETE, b"")


def newest(folder: Path) -> Path | None:
    """Return the complete checkpoint of the most steps; one that was being written when the run was killed is none."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def drop_unfinished(folder: Path) -> None:
    """Remove the checkpoints that are not complete."""
    for path in folder.glob("checkpoint-*"):
        if not (path / _COMPLETE).is_file():
            shutil.rmtree(path)
