"""A build -> the files of a release; and every number of its manifest from its tables, so that it can be checked.

data/<stage>/<split>-00000-of-00001.parquet  responses/<split>-…  ledger.parquet  figures/  manifest.json  README.md
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from udasa import cards, figures, recipe, run, schema, stages
from udasa.digests import file_sha256
from udasa.errors import UserError
from udasa.recipe import Recipe
from udasa.release import MANIFEST, is_folder, open_data

CARD = "README.md"
CROISSANT = "croissant.json"

CAPTIONS = {
    "uncertainties": "The three uncertainties over all responses.",
    "gap": "The uncertainty gap of the pairs, by stage.",
    "stages": "Pairs by task and stage.",
}
"""The figures of a release, in the card's order, with their captions."""


def assemble(build: Path, target: str, version: str, into: Path) -> dict[str, Any]:
    """Write a release's files into a folder and return the manifest.

    Args:
        build: a finished build.
        target: where it will be published; a Hub id is kept in the manifest and shown on the card.
        version: MAJOR.MINOR.PATCH.
        into: an empty folder.

    Raises:
        UserError: the build is not finished, or has no pair.
    """
    if not (build / "build.json").is_file():
        raise UserError(f"{build} holds no finished build (no build.json). Run udasa build to the end first.")
    opened = open_data(str(build.absolute()))
    pairs, scored, ledger = opened.frame("pairs"), opened.frame("scored"), opened.frame("ledger")
    if pairs.is_empty():
        raise UserError(f"{build} has no pair to publish; its ledger says why: {_counts(ledger, 'outcome')}.")
    write_tables(opened.recipe, pairs, scored, ledger, into)
    manifest = {
        **opened.facts,
        **describe(opened.recipe, pairs, scored, ledger),
        "format": 1,
        "version": version,
        "repository": None if is_folder(target) else target,
    }
    _write_figures(manifest, pairs, scored, into)  # figures and tables know nothing of the version
    manifest["files"] = {
        path.relative_to(into).as_posix(): file_facts(path) for path in sorted(into.rglob("*")) if path.is_file()
    }
    return stamp(manifest, into)


def stamp(manifest: Mapping[str, Any], into: Path) -> dict[str, Any]:
    """Write what is rendered from a manifest, and the manifest with the sha256 of that; returns the latter."""
    manifest = json.loads(json.dumps(manifest, sort_keys=True))  # as it will be read, in that order
    card = render_card(manifest)
    cards.validate(card, "dataset")
    (into / CARD).write_text(card, encoding="utf-8")
    (into / CROISSANT).write_text(cards.croissant(manifest, manifest["repository"]), encoding="utf-8")
    stamped = {**manifest, "card": file_facts(into / CARD), "croissant": file_facts(into / CROISSANT)}
    (into / MANIFEST).write_text(json.dumps(stamped, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return stamped


def render_card(manifest: Mapping[str, Any]) -> str:
    """Return the card of a release; the manifest alone decides every byte of it."""
    paths = [(f"figures/{name}.svg", caption) for name, caption in CAPTIONS.items()]
    drawn = [(path, caption) for path, caption in paths if path in manifest["files"]]
    return cards.render_dataset_card(manifest, manifest["repository"], drawn)


def describe(settings: Recipe, pairs: pl.DataFrame, scored: pl.DataFrame, ledger: pl.DataFrame) -> dict[str, Any]:
    """Return every number of the manifest that the tables and the recipe decide; the rows' order does not matter."""
    responses = scored.select("prompt_id", "responses").explode("responses").unnest("responses")
    by_stage = {
        stage: {split: pairs.filter(stage=stage, split=split).height for split in schema.SPLITS}
        for stage in schema.STAGES
    }
    return {
        "name": f"udasa-{settings.name}",
        "license": settings.license,
        "recipe": recipe.published(settings),
        "recipe_digest": recipe.digest(settings),
        "counts": {
            "prompts": ledger.height,
            "responses": responses.height,
            "pairs": pairs.height,
            "stages": by_stage,
        },
        "ledger": _counts(ledger, "outcome"),
        "statistics": {
            **{name: _statistics(responses[name]) for name in schema.SCORES},
            "semantic_entropy": _statistics(scored["semantic_entropy"]),
            "gap": _statistics(pairs["gap"]),
        },
        "tasks": _by_stage(pairs, "task"),
        "domains": _by_stage(pairs, "domain"),
        "sources": [
            {
                "name": source.name,
                "license": source.license,
                "revision": scored.filter(source=source.name)["source_revision"].first(),
                "prompts": ledger.filter(source=source.name).height,
            }
            for source in settings.sources
        ],
    }


def write_tables(settings: Recipe, pairs: pl.DataFrame, scored: pl.DataFrame, ledger: pl.DataFrame, into: Path) -> None:
    """Write one parquet per stage and split that has rows, the scored responses by split, and the ledger.

    Pairs stand in the order of the scored prompts, which is that of the sources: new rows of a source then stand side
    by side, and a new version uploads little else.
    """
    pairs = scored.select("prompt_id").join(pairs, on="prompt_id", how="inner", maintain_order="left")
    sides = [stages.split(i, settings.staging.test_share, settings.seed) for i in scored["prompt_id"]]
    scored = scored.with_columns(split=pl.Series(sides, dtype=pl.String))
    for split in schema.SPLITS:
        for stage in schema.STAGES:
            rows = pairs.filter(pl.col("stage") == stage, pl.col("split") == split)
            _write(into / "data" / stage / f"{split}-00000-of-00001.parquet", rows, schema.PAIRS)
        rows = scored.filter(pl.col("split") == split).drop("split")
        _write(into / "responses" / f"{split}-00000-of-00001.parquet", rows, schema.SCORED)
    _write(into / "ledger.parquet", ledger, schema.LEDGER)


def _write(path: Path, rows: pl.DataFrame, kind: pa.Schema) -> None:
    """Write a table unless it is empty: `datasets` cannot load a config with an empty file."""
    if rows.is_empty():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    table = schema.conform(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), kind)
    path.write_bytes(run.parquet_bytes(table))


def _write_figures(manifest: Mapping[str, Any], pairs: pl.DataFrame, scored: pl.DataFrame, into: Path) -> None:
    """Draw the card's figures."""
    import altair as alt

    drawn: dict[str, alt.TopLevelMixin] = {
        "uncertainties": figures.uncertainty_chart(scored),
        "gap": figures.gap_chart(pairs, manifest["thresholds"]),
        "stages": figures.stage_chart(manifest["tasks"]),
    }
    (into / "figures").mkdir()
    for name in CAPTIONS:
        (into / "figures" / f"{name}.svg").write_text(figures.to_svg(drawn[name]), encoding="utf-8")


def _counts(frame: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(frame.group_by(column).len().sort(column).iter_rows())


def _by_stage(pairs: pl.DataFrame, column: str) -> dict[str, dict[str, int]]:
    return {
        value: {stage: pairs.filter(pl.col(column) == value, stage=stage).height for stage in schema.STAGES}
        for value in pairs[column].unique().sort()
    }


def _statistics(values: pl.Series) -> dict[str, float | int | None]:
    """Return n, nulls, mean and quantiles; the mean is rounded once (fsum), so the rows' order does not matter."""
    present = values.drop_nulls()
    mean = math.fsum(present) / len(present) if len(present) else None
    quantiles = {f"q{int(q * 100):02d}": present.quantile(q, "linear") for q in (0.05, 0.5, 0.95)}
    return {"n": len(present), "nulls": values.null_count(), "mean": mean, **quantiles}


def file_facts(path: Path) -> dict[str, int | str]:
    """Return what the manifest says of a file: sha256, bytes, and the rows of a parquet file."""
    facts: dict[str, int | str] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    if path.suffix == ".parquet":
        facts["rows"] = run.num_rows(path)
    return facts


def owned(path: str, release: Sequence[str]) -> bool:
    """Say whether a path of a repository belongs to a release: it is one of its files, or beside one in a folder.

    What else stands in the repository (a LICENSE, notes, images) is left alone.
    """
    folder, slash, _ = path.partition("/")
    return path in release or (bool(slash) and any(other.startswith(f"{folder}/") for other in release))
