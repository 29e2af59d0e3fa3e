"""Trackers that TRL's `report_to` names: that they are known, and that each keeps a run a stage."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from udasa.errors import UserError

_FOLDER = "TENSORBOARD_LOGGING_DIR"


def check_known(names: Sequence[str]) -> None:
    """Refuse a tracker that transformers does not know.

    Raises:
        UserError: its name, and those that are known.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK as KNOWN

    if unknown := [name for name in names if name not in KNOWN]:
        raise UserError(f"TRL knows no tracker {', '.join(unknown)}. It knows {', '.join(sorted(KNOWN))}.")


@contextmanager
def own_run(names: Sequence[str], folder: Path) -> Iterator[None]:
    """Give a stage a run of its own, from before its trainer is made until it is trained.

    TensorBoard would write among the checkpoints, which go, and can be told another folder by the environment alone.
    Weights & Biases would leave its run open, and log the next stage into it; a run that was open before is the
    caller's, and stays open.
    """
    with _tensorboard_in(folder), _wandb_ended(names):
        yield


@contextmanager
def _tensorboard_in(folder: Path) -> Iterator[None]:
    mine = _FOLDER not in os.environ
    if mine:
        os.environ[_FOLDER] = str(folder)
    try:
        yield
    finally:
        if mine:
            del os.environ[_FOLDER]


@contextmanager
def _wandb_ended(names: Sequence[str]) -> Iterator[None]:
    if "wandb" not in names:
        yield
        return
    import wandb

    mine = wandb.run is None
    try:
        yield
    finally:
        if mine:
            wandb.finish()
