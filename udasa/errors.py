"""What the user can mend: one error class for it, and one for a missing extra."""

import importlib
from types import ModuleType
from typing import Any


class UserError(ValueError):
    """Something the user gave is wrong; the message says what was found, what was expected and what to do.

    The command line prints the message as one paragraph and exits with 2.
    """


class LimitError(UserError):
    """A limit of the recipe does not hold, so that the work was stopped; the command line exits with 1."""


class DivergedError(UserError):
    """A loss, a gradient or a measurement of a trained model is not finite."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message gives the pip command."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        MissingExtraError: `module` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise MissingExtraError(
            f"{error.name} is not installed. Install it with: pip install 'udasa[{extra}]'"
        ) from error


def changes(before: Any, now: Any) -> list[str]:
    """Return where two JSON values differ, as `field: before -> now`, nested fields with dots."""
    old, new = _leaves(before), _leaves(now)
    keys = sorted(old.keys() | new.keys())
    return [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in keys if old.get(key) != new.get(key)]


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, sub in value.items() for k, v in _leaves(sub, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {k: v for i, sub in enumerate(value) for k, v in _leaves(sub, f"{path}[{i}]").items()}
    return {path.lstrip("."): value}
