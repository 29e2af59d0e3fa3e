"""A recipe: every choice of a build and a training run, as frozen values that digest to JSON.

recipe = load("demo")            # a name on the builders shelf, a .py file with RECIPE, or a .json file
recipe.sampling.k                # 4
digest(recipe)                   # sha256 of the canonical JSON
"""

import dataclasses
import difflib
import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from udasa import resources
from udasa.backends import ModelSpec, Principle, Sampling
from udasa.errors import UserError, changes
from udasa.limits import Lint, Planted
from udasa.recipe.settings import (
    NLI,
    Calibration,
    Domain,
    Entailment,
    Judging,
    Measures,
    Pairing,
    Recipe,
    Source,
    Staging,
    Task,
    Weights,
    Workers,
    can_bound_gaps,
)
from udasa.recipe.training import Loss, Override, Reference, Stage, Training

__all__ = [
    "BUNDLED", "NLI", "Calibration", "Domain", "Entailment", "Judging", "Lint", "Loss", "Measures", "Override",
    "Pairing", "Planted", "Recipe", "Reference", "Source", "Stage", "Staging", "Task", "Training", "Weights", "Workers",
    "as_dict", "bundled_path", "can_bound_gaps", "constitution", "differences", "digest", "from_json", "load",
    "published", "to_json",
]  # fmt: skip

BUNDLED = "bundled:"
"""Prefix of a path that is relative to the builders shelf."""

_ADAPTER = TypeAdapter(Recipe)


def load(name: str | Path) -> Recipe:
    """Load a recipe by name, from a .py file that defines RECIPE, or from a .json file.

    Raises:
        UserError: no such recipe, or a field that is unknown or does not fit.
    """
    path = resources.find("builders", name, ".py")
    if path.suffix == ".json":
        return from_json(path.read_text(encoding="utf-8"), origin=str(path))
    if path.suffix != ".py":
        raise UserError(f"{path} is not a recipe: expected a .py file that defines RECIPE, or a .json file.")
    try:
        recipe = runpy.run_path(str(path)).get("RECIPE")
    except ValidationError as error:
        raise UserError(_explain(error, str(path))) from error
    except SyntaxError as error:
        raise UserError(f"{path} is not Python: {error}. A recipe is a .py file that defines RECIPE.") from error
    if not isinstance(recipe, Recipe):
        raise UserError(f"{path} must define RECIPE = Recipe(...); found {type(recipe).__name__}.")
    return recipe


def from_json(text: str, origin: str = "the recipe") -> Recipe:
    """Read a recipe back from its JSON.

    Raises:
        UserError: a field is unknown, missing or does not fit.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise UserError(_explain(error, origin)) from error


def to_json(recipe: Recipe) -> str:
    """Return the canonical JSON of a recipe: sorted keys, two-space indent, a newline at the end."""
    return json.dumps(as_dict(recipe), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain JSON values."""
    values: dict[str, Any] = _ADAPTER.dump_python(recipe, mode="json")
    return values


def published(recipe: Recipe) -> dict[str, Any]:
    """Return what a release says of its recipe: all but the workers, which do not change the data."""
    return as_dict(dataclasses.replace(recipe, workers=Workers()))


def digest(recipe: Recipe) -> str:
    """Return the sha256 of the canonical JSON of what is published, as hex."""
    return hashlib.sha256(to_json(dataclasses.replace(recipe, workers=Workers())).encode()).hexdigest()


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Return the fields that differ, as `field: old -> new`, nested fields with dots."""
    return changes(as_dict(old), as_dict(new))


def bundled_path(path: str) -> Path:
    """Resolve `bundled:x` on the builders shelf; any other path stays as it is."""
    if path.startswith(BUNDLED):
        return resources.shelf("builders") / path.removeprefix(BUNDLED)
    return Path(path)


def constitution(path: str, first: int | None = None) -> tuple[Principle, ...]:
    """Read a constitution from a JSON-lines file of {id, question}; keep the first few, or all.

    Raises:
        UserError: the file is missing, or a line is not a principle.
    """
    file = bundled_path(path)
    if not file.is_file():
        raise UserError(f"There is no constitution at {file}. Expected a .jsonl file with an id and a question a line.")
    adapter = TypeAdapter(Principle)
    try:
        lines = [adapter.validate_json(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except ValidationError as error:
        raise UserError(_explain(error, str(file))) from error
    return tuple(lines[:first])


def _explain(error: ValidationError, origin: str) -> str:
    """Say, for each wrong field, what was found, what fits and the nearest known name."""
    problems = []
    for detail in error.errors(include_url=False):
        loc, kind = [str(part) for part in detail["loc"]], detail["type"]
        field = ".".join(loc) or error.title
        if kind in ("unexpected_keyword_argument", "extra_forbidden"):
            problems.append(f"'{field}' is not a field; {_suggest(loc, error.title)}")
        elif kind == "value_error":
            problems.append(f"'{field}': {str(detail['ctx']['error']).removesuffix('.')}")
        else:
            found = "" if kind.startswith("missing") else f", got {detail['input']!r}"
            problems.append(f"'{field}': {detail['msg']}{found}")
    return f"{origin} does not fit: " + "; ".join(problems) + "."


def _suggest(loc: list[str], title: str) -> str:
    """Name the nearest fields of the settings at `loc`, or the settings that have such a field, or all the fields."""
    name = loc[-1]
    owner = next((_OWNERS[part] for part in reversed(loc[:-1]) if part in _OWNERS), _CLASSES.get(title, Recipe))
    known = [field.name for field in dataclasses.fields(owner)]
    if near := difflib.get_close_matches(name, known, n=3):
        return f"did you mean {' or '.join(near)}?"
    homes = [path for path, cls in _OWNERS.items() if cls is not owner and name in cls.__dataclass_fields__]
    return f"it stands in {' or '.join(homes)}" if homes else f"the fields are {', '.join(known)}"


_OWNERS: dict[str, type[Any]] = {
    "sources": Source,
    "policy": ModelSpec,
    "sampling": Sampling,
    "entailment": Entailment,
    "judging": Judging,
    "weights": Weights,
    "measures": Measures,
    "calibration": Calibration,
    "pairing": Pairing,
    "staging": Staging,
    "training": Training,
    "lint": Lint,
    "planted": Planted,
    "constitution": Principle,
    "fixed_reference": ModelSpec,
    "model": ModelSpec,
}
"""The settings behind each field that holds settings."""

_CLASSES: dict[str, type[Any]] = {"Recipe": Recipe} | {cls.__name__: cls for cls in _OWNERS.values()}
