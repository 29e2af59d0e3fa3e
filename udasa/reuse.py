"""An older build -> the shards of a new one that would come out the same: linked, and not made again.

A step's rows hang on the shard that it reads (its sha256) and on some of the recipe and the models (`inputs`). Where
both are equal, the old shard is the new one. Change the pairing: everything is taken over. Change K: the prompts alone.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from udasa import log, recipe, run
from udasa.errors import UserError
from udasa.lint import planted
from udasa.prompts import source_revision
from udasa.recipe import Recipe

_STEPS = (("prompts", "responses"), ("responses", "scored"))
"""What each step reads, and its name."""


def take_prompts(old: Path, folder: Path, settings: Recipe) -> None:
    """Take over the prompts of an older build if they come from the same sources in the same way.

    Raises:
        UserError: `old` is no build.
    """
    before = _recipe(old)
    dropped = Path("dropped") / "00000.parquet"
    if run.is_done(folder / dropped) or not run.is_done(old / dropped) or _sources(before) != _sources(settings):
        return
    found = run.read_frame(old, "prompts", ["source", "source_revision"]).unique()
    known = dict(found.iter_rows())
    if known == {source.name: source_revision(source) for source in settings.sources}:
        for shard in [*run.shard_paths(old, "prompts"), old / dropped]:
            run.link_shard(shard, folder / shard.relative_to(old))


def take_shards(old: Path, folder: Path, settings: Recipe) -> list[run.Done]:
    """Take over the responses and scores of an older build that would come out the same; returns what was taken.

    The folder has its prompts and its models.json.
    """
    theirs, ours = inputs(_recipe(old), _models(old)), inputs(settings, _models(folder))
    if theirs["scored"] == ours["scored"] and (old / planted.FILE).is_file():
        run.link(old / planted.FILE, folder / planted.FILE)
    taken = []
    for source, step in _STEPS:
        made = {}
        if theirs[step] == ours[step]:
            whole = [s for s in run.shard_paths(old, step) if run.is_done(old / source / s.name)]
            made = {_sha256(old / source / shard.name): shard for shard in whole}
        for shard in run.unfinished_shards(folder, source, step):
            if (same := made.get(_sha256(shard))) is not None:
                run.link_shard(same, folder / step / shard.name)
                done = run.Done(step, shard.name, run.num_rows(shard), 0.0, 0.0)
                log.append(folder, log.Line(**done._asdict(), tokens=0))
                taken.append(done)
    return taken


def inputs(settings: Recipe, models: Mapping[str, Any]) -> dict[str, str]:
    """Return the sha256 of all that a step's rows hang on beside the rows that it reads, by the step's name."""
    values = recipe.as_dict(settings)
    judging, policy = values["judging"], values["policy"]
    judge = [judging, judging["model"] or policy, policy if judging["ask_p_true"] else None]
    parts = {
        "responses": [policy, values["sampling"], values["seed"], models["policy"]],
        "scored": [values["entailment"], *judge, {**models, "policy": models["policy"] if judge[-1] else None}],
    }
    return {name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in parts.items()}


def _sources(settings: Recipe) -> list[Any]:
    return [settings.sources, settings.system, settings.near_duplicate, settings.seed, settings.shard_size]


def _recipe(build: Path) -> Recipe:
    path = build / "recipe.json"
    if not path.is_file():
        raise UserError(f"{build} is no build (it has no recipe.json), so nothing can be taken over from it.")
    return recipe.from_json(path.read_text(encoding="utf-8"), origin=str(path))


def _models(build: Path) -> dict[str, Any]:
    path = build / "models.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"policy": None}
    return found


def _sha256(shard: Path) -> str:
    """Return a finished shard's sha256, from its marker."""
    return str(json.loads(shard.with_suffix(".done").read_text(encoding="utf-8"))["sha256"])
