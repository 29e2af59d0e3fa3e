"""A release -> what was checked, and everything that does not fit.

verify("org/udasa-pairs@v1.0.0").problems   ->   []   or   [Problem(check="stages", what="2 pairs …", ids=[…]), …]

Nothing is taken from the manifest that the tables can say: every number is computed anew and compared exactly.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import polars as pl
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from udasa import __version__, cards, lint, recipe, run, schema, stages
from udasa.digests import file_sha256
from udasa.errors import UserError
from udasa.prompts import prompt_id
from udasa.publish.assemble import CARD, CROISSANT, describe, owned, render_card
from udasa.publish.tables import Found, Tables
from udasa.release import MANIFEST, Opened, open_release

FORMAT = 1
"""The form of manifest.json that this version reads."""
_UNSCORED = ["duplicate-prompt", "near-duplicate-prompt", "context-too-long", "engine-error"]
EXAMPLES = 5
"""Ids that a problem names at most."""


class Problem(NamedTuple):
    """One thing that does not fit."""

    check: str
    """Which check: a key of `CHECKS`."""
    what: str
    """What was found and what was expected."""
    ids: list[str] = []  # noqa: RUF012
    """A few of the prompt or response ids."""


class Verified(NamedTuple):
    """What a verification did."""

    target: str
    commit: str | None
    """Commit sha of a Hub repository."""
    checked: list[str]
    """Checks that ran, in order."""
    problems: list[Problem]
    """Empty if the release is whole."""


class _Facts(BaseModel):
    sha256: str
    bytes: int


class _Manifest(BaseModel):
    """The part of manifest.json that the checks stand on."""

    format: int
    version: str
    repository: str | None
    udasa: str
    recipe: dict[str, Any]
    recipe_digest: str
    thresholds: dict[str, float]
    counts: dict[str, Any]
    ledger: dict[str, int]
    statistics: dict[str, dict[str, float | None]]
    files: dict[str, _Facts]
    card: _Facts


def verify(target: str, *, token: str | None = None) -> Verified:
    """Check a release from its bytes up; a repository is downloaded anew.

    Raises:
        UserError: there is no release at the target, or the Hub refused.
    """
    return check(open_release(target, token=token, fresh=True))


def verify_folder(folder: Path) -> None:
    """Check a release before it leaves the machine.

    Raises:
        UserError: something does not fit.
    """
    if problems := check(open_release(str(folder))).problems:
        listed = "; ".join(f"{problem.check}: {problem.what}" for problem in problems)
        raise UserError(f"The release does not hold together, so it was not published: {listed}.")


def check(opened: Opened) -> Verified:
    """Run every check on an open release; the later ones only if the files can be read."""
    problems: list[Problem] = []
    checked: list[str] = []
    tables = Tables(opened)
    for names in (("manifest",), ("files",), ("schema",), tuple(CHECKS)[3:]):
        for name in names:
            checked.append(name)
            for found in CHECKS[name](tables):
                whole = (found, list[str]()) if isinstance(found, str) else found
                problems.append(Problem(name, whole[0], whole[1][:EXAMPLES]))
        unreadable = names[0] == "files" and not _readable(opened.folder)
        if (problems and names[0] in ("manifest", "schema")) or unreadable:
            break
    return Verified(opened.target, opened.commit, checked, problems)


def _readable(folder: Path) -> bool:
    """Say whether every table can be read to its last byte."""
    try:
        for path in folder.rglob("*.parquet"):
            run.read_parquet(path)
    except (OSError, ValueError):
        return False
    return any(folder.glob("data/*/*.parquet")) and any(folder.glob("responses/*.parquet"))


def _manifest(t: Tables) -> Found:
    try:
        _Manifest.model_validate(t.manifest)
        settings = t.opened.recipe
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        yield f"{MANIFEST} has another form: {'; '.join(lines[:EXAMPLES])}"
        return
    except UserError as error:
        yield str(error)
        return
    if t.manifest["format"] != FORMAT:
        yield f"the manifest has format {t.manifest['format']}, this version reads {FORMAT}"
    if t.manifest["recipe_digest"] != recipe.digest(settings):
        yield f"recipe_digest is {t.manifest['recipe_digest']}, the recipe's is {recipe.digest(settings)}"


def _files(t: Tables) -> Found:
    folder, files = t.opened.folder, t.manifest["files"]
    for name, facts in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            yield f"{name} is not a path inside the release"
        elif not (folder / name).is_file():
            yield f"{name} is missing"
        elif file_sha256(folder / name) != facts["sha256"] or (folder / name).stat().st_size != facts["bytes"]:
            yield f"{name} has another sha256 or size than the manifest says"
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(there):
        if name not in (*files, MANIFEST, CARD, CROISSANT) and owned(name, list(files)):
            yield f"{name} is not in the manifest"


def _schema(t: Tables) -> Found:
    folder = t.opened.folder
    kinds = (("data/*/*.parquet", schema.PAIRS), ("responses/*.parquet", schema.SCORED))
    for pattern, kind in (*kinds, ("ledger.parquet", schema.LEDGER)):
        for path in sorted(folder.glob(pattern)):
            name, found = path.relative_to(folder).as_posix(), pq.read_schema(path).remove_metadata()
            if not found.equals(kind):
                made = t.manifest["udasa"]
                yield f"{name} has other columns or types than udasa {__version__} writes (it was made with {made})"
                continue
            try:
                schema.conform(run.read_parquet(path), kind)
            except ValueError as error:
                yield f"{name}: {error}"
            rows = t.manifest["files"].get(name, {}).get("rows")
            if rows != run.num_rows(path):
                yield f"{name} has {run.num_rows(path)} rows, the manifest says {rows}"


def _numbers(t: Tables) -> Found:
    pairs = t.pairs.drop("folder", "file")
    expected = describe(t.opened.recipe, pairs, t.scored, t.ledger)
    for key, value in expected.items():
        for path, was, should in _unequal(key, t.manifest.get(key), json.loads(json.dumps(value))):
            yield f"{path} is {was} in the manifest, the tables give {should}"


def _unequal(path: str, found: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            yield from _unequal(f"{path}.{key}", found.get(key), expected.get(key))
    elif found != expected:
        yield path, found, expected


def _ledger(t: Tables) -> Found:
    total, prompts = sum(t.manifest["ledger"].values()), t.manifest["counts"]["prompts"]
    if not total == t.ledger.height == prompts:
        yield f"the outcomes sum to {total}, the ledger has {t.ledger.height} lines, counts.prompts is {prompts}"
    if unknown := sorted(set(t.ledger["outcome"]) - set(schema.OUTCOMES)):
        yield f"unknown outcomes: {', '.join(unknown)}"
    twice = t.ledger.filter(pl.struct("source", "source_row").is_duplicated())
    if twice.height:
        yield f"{twice.height} lines are of a source row that has another line too", _ids(twice)
    paired = t.ledger.filter(outcome="paired")
    others = paired.join(t.pairs, on="prompt_id", how="anti"), t.pairs.join(paired, on="prompt_id", how="anti")
    if any(frame.height for frame in others):
        ids = [i for frame in others for i in _ids(frame)]
        yield f"{len(ids)} prompts are paired in the ledger or in the pairs, but not in both", ids
    kept = t.ledger.filter(~pl.col("outcome").is_in(_UNSCORED))
    lost = [
        *_ids(kept.join(t.scored, on="prompt_id", how="anti")),
        *_ids(t.scored.join(kept, on="prompt_id", how="anti")),
    ]
    if lost:
        yield f"{len(lost)} prompts stand in the ledger or in the responses, but not in both", lost


def _unique(t: Tables) -> Found:
    for name, frame, column in (
        ("pairs", t.pairs, "prompt_id"),
        ("scored prompts", t.scored, "prompt_id"),
        ("responses", t.responses, "response_id"),
    ):
        twice = frame.filter(pl.col(column).is_duplicated())
        if twice.height:
            yield f"{twice.height} {name} share their {column} with another", sorted(set(twice[column]))
    wrong = [i for i, messages in t.scored.select("prompt_id", "messages").iter_rows() if prompt_id(messages) != i]
    if wrong:
        yield f"{len(wrong)} prompt ids are not the hash of their messages", wrong


def _splits(t: Tables) -> Found:
    by_split = [t.pairs.filter(file=split) for split in schema.SPLITS]
    both = by_split[0].join(by_split[1], on="prompt_id", how="semi")
    texts = [{json.dumps(p): i for i, p in frame.select("prompt_id", "prompt").iter_rows()} for frame in by_split]
    ids = [*_ids(both), *(texts[0][text] for text in sorted(texts[0].keys() & texts[1].keys()))]
    if ids:
        yield f"{len(set(ids))} prompts stand in train and in test", sorted(set(ids))
    settings = t.opened.recipe
    expected = [stages.split(i, settings.staging.test_share, settings.seed) for i in t.pairs["prompt_id"]]
    wrong = t.pairs.filter(
        (pl.col("split") != pl.Series(expected, dtype=pl.String)) | (pl.col("split") != pl.col("file"))
    )
    if wrong.height:
        yield f"{wrong.height} pairs are in another split than their prompt's hash gives", _ids(wrong)


def _stages(t: Tables) -> Found:
    bounds = t.manifest["thresholds"]
    gap = pl.col("gap")
    expected = (
        pl.when(gap >= bounds["conservative"])
        .then(pl.lit("conservative"))
        .when(gap >= bounds["moderate"])
        .then(pl.lit("moderate"))
        .otherwise(pl.lit("exploratory"))
    )
    wrong = t.pairs.filter((pl.col("stage") != expected) | (pl.col("folder") != expected))
    if wrong.height:
        yield f"{wrong.height} pairs are in another stage than their gap and the thresholds give", _ids(wrong)
    wrong = t.pairs.filter((gap != pl.col("u_rejected") - pl.col("u_chosen")) | (gap < 0))
    if wrong.height:
        yield f"{wrong.height} gaps are not u_rejected - u_chosen, or below 0", _ids(wrong)


def _sides(t: Tables) -> Found:
    pairs = t.pairs
    content = {s: pl.col(s).list.last().struct.field("content") for s in ("chosen", "rejected")}
    same = pairs.filter((content["chosen"] == content["rejected"]) | (pl.col("chosen_id") == pl.col("rejected_id")))
    if same.height:
        yield f"{same.height} pairs have the same text or id on both sides", _ids(same)
    for side in ("chosen", "rejected"):
        joined = pairs.with_columns(side_text=content[side]).join(
            t.responses.with_columns(there=True),
            left_on=["prompt_id", f"{side}_id"],
            right_on=["prompt_id", "response_id"],
            how="left",
        )
        absent = joined.filter(pl.col("there").is_null())
        if absent.height:
            yield f"{absent.height} {side} ids are not a response to the prompt", _ids(absent)
        joined = joined.filter("there")
        turns = (pl.col(side).list.len() == 1) & (pl.col(side).list.last().struct.field("role") == "assistant")
        other = joined.filter(pl.col("side_text").ne_missing(pl.col("text")) | ~turns)
        if other.height:
            yield f"{other.height} {side} texts are not the response's", _ids(other)
        scores = joined.filter(
            pl.any_horizontal(pl.col(f"{side}_{name}").ne_missing(pl.col(name)) for name in schema.SCORES)
        )
        if scores.height:
            yield f"{scores.height} pairs have other {side} scores than the response", _ids(scores)
    prompts = dict(t.scored.select("prompt_id", "messages").iter_rows())
    wrong = [i for i, prompt in pairs.select("prompt_id", "prompt").iter_rows() if prompts.get(i) != prompt]
    if wrong:
        yield f"{len(wrong)} prompts are not the ones in the responses", wrong


def _risk(t: Tables) -> Found:
    ceiling = t.opened.recipe.pairing.risk_ceiling
    risky = t.pairs.filter(~(pl.col("chosen_value_risk") <= ceiling).fill_null(value=False))
    if risky.height:
        yield f"{risky.height} chosen texts are above the risk ceiling of {ceiling}, or have no risk", _ids(risky)


def _findings(t: Tables) -> Found:
    stored = t.manifest.get("findings", [])
    pairs = t.pairs.drop("folder", "file")
    yield from lint.recheck(stored, pairs, t.scored, t.ledger, t.opened.recipe)


def _card(t: Tables) -> Found:
    """Hold the card, and the description for machines, to what the manifest gives."""
    yield from _rendered(t, CARD, "card", render_card)
    yield from _rendered(t, CROISSANT, "croissant", lambda m: cards.croissant(m, m["repository"]))


def _rendered(t: Tables, name: str, key: str, render: Callable[[Mapping[str, Any]], str]) -> Found:
    path = t.opened.folder / name
    if not path.is_file():
        yield f"{name} is missing"
        return
    if file_sha256(path) != t.manifest[key]["sha256"]:
        yield f"{name} has another sha256 than the manifest says"
    if t.manifest["udasa"] == __version__:  # another version may word it in another way
        try:
            expected = render(t.manifest).splitlines()
        except (UserError, KeyError, TypeError) as error:
            yield f"{name} cannot be rendered from the manifest: {error!r}"
            return
        found = path.read_text(encoding="utf-8").splitlines()
        lines = [n for n in range(max(len(found), len(expected))) if found[n : n + 1] != expected[n : n + 1]]
        if lines:
            shown = (found[lines[0] : lines[0] + 1] or [""])[0][:120]
            yield f"{name} is not what the manifest gives, from line {lines[0] + 1}: {shown!r}"


def _ids(frame: pl.DataFrame) -> list[str]:
    return sorted(set(frame["prompt_id"]))


CHECKS: dict[str, Callable[[Tables], Found]] = {
    "manifest": _manifest,
    "files": _files,
    "schema": _schema,
    "numbers": _numbers,
    "ledger": _ledger,
    "ids": _unique,
    "splits": _splits,
    "stages": _stages,
    "sides": _sides,
    "risk": _risk,
    "findings": _findings,
    "card": _card,
}
"""Every check, in order; one that cannot be made because an earlier one failed is not in `Verified.checked`."""

MEANINGS = {
    "manifest": "the manifest has the known form, and the recipe its digest",
    "files": "every file has the sha256 and size of the manifest, and no other file stands beside them",
    "schema": "every table has exactly the columns and types, no NaN, and the rows of the manifest",
    "numbers": "every count and statistic of the manifest, computed anew from the tables",
    "ledger": "one outcome for each source row, and the outcomes sum to them",
    "ids": "ids are unique, and a prompt's id is the hash of its messages",
    "splits": "no prompt is in train and test; the split is the one of its hash",
    "stages": "every pair is in the stage that its gap and the thresholds give",
    "sides": "chosen and rejected differ, and are responses to the prompt with the same text and scores",
    "risk": "no chosen text is above the risk ceiling",
    "findings": "every finding of the audit that the tables decide, made anew",
    "card": "the card is, to the byte, what the manifest gives",
}
"""What each check holds a release to."""
