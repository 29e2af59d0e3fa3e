"""What a task's judges need besides documents and replies: where the data are, which models may be asked.

lm-eval hands a filter the replies and the documents, nothing else. `udasa eval` sets the rest with `use`; under
lm-eval's own command there is no model to ask, and what needs one is left out of the results.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from udasa.evaluate.pairwise import Referee
    from udasa.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is there to judge with."""

    data: Path | None = None
    """The mirror that a task read its documents from; None: the one of the environment."""
    recipe: "Recipe | None" = None
    """Whose entailer and judge measure the uncertainties."""
    base_nats: Callable[[Sequence[tuple[str, str]]], list[float]] | None = None
    """Nats per token of each (beginning, continuation) under the model without its adapter."""
    referee: "Referee | None" = None
    """Who compares answers with a baseline's."""


_current = Context()


def current() -> Context:
    """Return the context of this process."""
    return _current


def change(**fields: Any) -> None:
    """Change fields of the context: a task says where it read its documents."""
    global _current
    _current = replace(_current, **fields)


@contextmanager
def use(context: Context) -> Iterator[None]:
    """Judge within this context."""
    global _current
    before, _current = _current, context
    try:
        yield
    finally:
        _current = before
