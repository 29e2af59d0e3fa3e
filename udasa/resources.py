"""Find the three shelves (builders, eval, cards) in an installed wheel or in a checkout."""

from pathlib import Path
from typing import Literal

from udasa.errors import UserError

Shelf = Literal["builders", "eval", "cards"]

_PACKAGE = Path(__file__).resolve().parent


def shelf(name: Shelf) -> Path:
    """Return the folder of a shelf: the wheel's copy if there is one, else the checkout's.

    Raises:
        FileNotFoundError: neither place holds the shelf.
    """
    bundled = _PACKAGE / "_bundled" / name
    if bundled.is_dir():
        return bundled
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise FileNotFoundError(
        f"The shelf '{name}' is neither at {bundled} (an installed wheel) nor at {checkout / name} (a checkout). "
        "Reinstall udasa, or run from a complete checkout."
    )


def names(name: Shelf, suffix: str) -> list[str]:
    """Return the stems of a shelf's top-level files that end in `suffix`, sorted."""
    return sorted(p.name.removesuffix(suffix) for p in shelf(name).iterdir() if p.name.endswith(suffix))


def find(name: Shelf, item: str | Path, suffix: str) -> Path:
    """Return the file that `item` means: an existing path, or the stem of a file on the shelf.

    Raises:
        UserError: there is no such path and no such stem; the message lists the stems that exist.
    """
    path = Path(item)
    if path.suffix and path.is_file():
        return path
    bundled = shelf(name) / f"{item}{suffix}"
    if bundled.is_file() and bundled.parent == shelf(name):
        return bundled
    raise UserError(
        f"'{item}' is neither a file nor a name on the shelf '{name}'. "
        f"Give a path, or one of: {', '.join(names(name, suffix)) or 'none there'}."
    )
