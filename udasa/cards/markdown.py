"""values -> Markdown that shows them and does nothing else.

Every value that a template prints is escaped unless a filter of this module has made it safe.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from udasa import resources
from udasa.cards.layout import human_labels
from udasa.errors import UserError
from udasa.figures import visible


def escape(value: str) -> Markup:
    """Return one line of Markdown that shows `value` and does nothing else, in a table cell too."""
    line = " ".join(visible(value).split())
    line = re.sub(r"[\\`*_{}\[\]|~<>&$#!@\"]", lambda m: f"&#{ord(m[0])};", line)
    return Markup(re.sub(r"(?i)(?<=www)\.|:(?=//)", lambda m: f"&#{ord(m[0])};", line))


def code(value: object) -> Markup:
    """Return `value` as a code span."""
    text = str(value)
    if re.fullmatch(r"[\w./:=,+\-@()~^]+(?: [\w./:=,+\-@()~^]+)*", text, re.ASCII):
        return Markup(f"`{text}`")
    return Markup(f"<code>{escape(text)}</code>")


def literal(value: str) -> Markup:
    """Return `value` as a Python string literal that cannot close a fenced block."""
    return Markup(json.dumps(value).replace("`", "\\u0060"))


def number(value: float | None, digits: int = 4) -> Markup:
    """Return a count with its thousands apart, a float with `digits` decimals, and a dash for no value.

    Raises:
        UserError: the value is NaN or infinite.
    """
    if value is None:
        return Markup("–")
    if isinstance(value, int):
        return Markup(f"{value:,}")
    if not math.isfinite(value):
        raise UserError(f"A card must not show {value}; a missing number must be null.")
    return Markup(f"{value:.{digits}f}")


def public_name(model: str) -> str:
    """Return a Hub id as it is, and only the last part of a local path."""
    return model if hub_id(model) else f"{PurePath(model).name} (local folder)"


def hub_id(name: str) -> bool:
    """Say whether a model or data set is named by a Hub id and not by a path."""
    return bool(re.fullmatch(r"(?:\w[\w.-]*/)?\w[\w.-]*", name, re.ASCII)) and not name.startswith(("/", "."))


def _printed(value: Any) -> Any:
    """Escape what a template prints, unless it is safe already."""
    if isinstance(value, str):
        return value if isinstance(value, Markup) else escape(value)
    return number(value) if value is None or isinstance(value, int | float) else value


def render(template: str, **values: Any) -> str:
    """Return a template of the shelf `cards` with its values, each of them escaped."""
    return re.sub(r"\n{3,}", "\n\n", _environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(resources.shelf("cards")),
        undefined=StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters |= {"code": code, "literal": literal, "number": number, "public_name": public_name}
    env.filters |= {"human_labels": human_labels, "exact": lambda value: code(repr(value)), "trusted": Markup}
    return env


def yaml(data: Mapping[str, Any]) -> Markup:
    """Return front matter, as huggingface_hub writes it."""
    from huggingface_hub.repocard_data import CardData

    return Markup(CardData(**data).to_yaml().strip())


def check_repo(repo: str) -> None:
    """Refuse what is not a Hub repository id.

    Raises:
        UserError: it is not of the form org/name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"'{repo}' is not a Hub repository id of the form org/name: {error}") from error
