"""Two builds over the same prompts -> which pairs are kept, flipped or dropped, and which change stage."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from udasa import flow, recipe, run
from udasa.audit.changes import PairChanges, Side, changes, correlation, finished, paired_values
from udasa.errors import UserError
from udasa.run import Progress, silent
from udasa.statistics import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """Two builds over the same prompts."""

    before: str
    """Digest of the first build's recipe."""
    after: str
    prompts: int
    """Prompts that both have."""
    only_before: int
    """Prompts that only the first has."""
    only_after: int
    differs: tuple[str, ...]
    """The recipe's fields that differ, and the models."""
    spearman: Mapping[str, Estimate]
    """Rank correlation over prompts of semantic_entropy and of the mean u, and of the gap over prompts with a pair in
    both."""
    pairs: PairChanges


def to_json(found: Stability) -> str:
    """Return the audit as JSON."""
    return json.dumps(dataclasses.asdict(found), indent=2, allow_nan=False) + "\n"


def stability(before: Path, after: Path, output: Path | None = None) -> Stability:
    """Compare two finished builds over the same prompts: another seed, another checkpoint, other settings.

    Joined by prompt id. Texts are compared as at pairing: without case, white space and Unicode form.

    Raises:
        UserError: one is not finished, or they have no prompt in common.
    """
    one, two = finished(before), finished(after)
    a, b = (Side.of(folder, settings) for folder, settings in ((before, one), (after, two)))
    common = a.prompts.keys() & b.prompts.keys()
    if not common:
        raise UserError(f"{before} and {after} have no prompt in common, so nothing can be compared.")
    values = {name: paired_values(a.per_prompt, b.per_prompt, name) for name in ("semantic_entropy", "mean_u", "gap")}
    found = Stability(
        before=recipe.digest(one),
        after=recipe.digest(two),
        prompts=len(common),
        only_before=len(a.prompts.keys() - common),
        only_after=len(b.prompts.keys() - common),
        differs=tuple(recipe.differences(one, two)) + _models_differ(before, after),
        spearman={name: correlation(frame, name) for name, frame in values.items()},
        pairs=changes(a, b),
    )
    if output is not None:
        run.write_file(output / "stability.json", to_json(found).encode())
    return found


def resample(build: Path, output: Path, seed: int, progress: Progress = silent) -> Path:
    """Build again into `output` with another seed, over the same prompts; returns the folder.

    The prompts are copied and not drawn again, since a source's `limit` hangs on the seed too.

    Raises:
        UserError: the build is not finished, was made with this seed, or `output` holds something else.
    """
    settings = finished(build)
    if settings.seed == seed:
        raise UserError(f"{build} was itself built with seed {seed}. Give another --seed.")
    again = dataclasses.replace(settings, seed=seed)
    flow.claim(output, again)
    for name in ("prompts", "dropped"):
        if not run.is_done(output / "dropped" / "00000.parquet"):
            shutil.rmtree(output / name, ignore_errors=True)
            shutil.copytree(build / name, output / name)
    return flow.build(again, output, progress)


def _models_differ(before: Path, after: Path) -> tuple[str, ...]:
    one, two = (json.loads((f / "build.json").read_text(encoding="utf-8"))["models"] for f in (before, after))
    return tuple(
        f"{role}: {one[role]} -> {two[role]}" for role in sorted(one.keys() & two.keys()) if one[role] != two[role]
    )
