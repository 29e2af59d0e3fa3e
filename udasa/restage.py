"""A finished build -> a new one with other weights, pairing, stages or training, from the stored scores."""

from pathlib import Path

from udasa import flow, recipe, run
from udasa.errors import UserError
from udasa.lint import planted
from udasa.recipe import Recipe

RESTAGED = ("weights", "measures", "calibration", "pairing", "staging", "lint", "training", "name", "license")
"""The recipe's fields that take effect after scoring: `restage` may change them."""


def restage(build: Path, folder: Path, settings: Recipe | None = None) -> Path:
    """Make a new build from another's stored scores: new weights, pairing, stages or training, and no model call.

    The shards that are shared are hard links, or copies where there can be none.

    Args:
        build: a build that is scored to the end.
        folder: a new one.
        settings: the recipe of the new build; None: that of the old one.

    Raises:
        UserError: the build is not finished, or the recipe differs in what was sampled or scored with.
    """
    if not (build / "build.json").is_file():
        raise UserError(f"{build} holds no finished build (no build.json). Run udasa build to the end first.")
    path = build / "recipe.json"
    found = recipe.from_json(path.read_text(encoding="utf-8"), origin=str(path))
    settings = settings or found
    fixed = [line for line in recipe.differences(found, settings) if not line.startswith(RESTAGED)]
    if fixed:
        raise UserError(
            f"{build} was sampled and scored with other settings: {'; '.join(fixed)}. Restaging can change only "
            f"{', '.join(RESTAGED)}. Edit a copy of {path} and give that, or run udasa build."
        )
    flow.claim(folder, settings)
    for name in ("prompts", "dropped", "responses", "scored"):
        for shard in run.shard_paths(build, name):
            run.link_shard(shard, folder / name / shard.name)
    for name in ("models.json", planted.FILE):
        if (build / name).is_file():
            run.link(build / name, folder / name)
    flow.pair_and_stage(settings, folder)
    return folder
