"""What the user can mend: one error class for it, and one for a missing extra."""

import importlib
from types import ModuleType


class UserError(ValueError):
    """Something the user gave is wrong; the message says what was found, what was expected and what to do.

    The command line prints the message as one paragraph and exits with 2.
    """


class LimitError(UserError):
    """A limit of the recipe does not hold, so that the work was stopped; the command line exits with 1."""


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
