"""One process, or several that `accelerate launch` started: who writes files, and who waits for whom."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

Result = TypeVar("Result")

PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which may measure a stage or write a model; torch's own is 10 minutes."""


def count() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process is the one that writes files."""
    return os.environ.get("RANK", "0") == "0"


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        _state().wait_for_everyone()


def from_main(work: Callable[[], Result]) -> Result:
    """Do something in the main process alone, and return in every process what came out."""
    if count() == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    _state()
    answer: list[Any] = [work() if is_main() else None]
    result: Result = broadcast_object_list(answer)[0]
    return result


def _state() -> Any:
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
