"""A build -> a release: parquet by stage and split, manifest, figures and card, in a folder or on the Hub.

data/<stage>/<split>-00000-of-00001.parquet  responses/<split>-…  ledger.parquet  figures/  manifest.json  README.md

A release is assembled in a temporary folder and appears at once: by a rename, or by one commit and then a tag. Then
it is read back.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
import pyarrow as pa
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from udasa import cards, figures, recipe, run, schema, stages
from udasa.errors import UserError
from udasa.recipe import Recipe
from udasa.release import MANIFEST, hub_errors, is_folder

__all__ = ["MANIFEST", "Release", "assemble", "is_folder", "publish", "publish_model", "read_back"]


class Release(NamedTuple):
    """What was published where; `digest` is the sha256 of the manifest, `commit` is None for a folder."""

    target: str
    version: str
    digest: str
    commit: str | None


def publish(build: Path, target: str, *, version: str, private: bool = True, token: str | None = None) -> Release:
    """Publish a finished build to a folder or, as one commit and a tag, to a Hub data set; then read it back.

    Publishing the same content again under the same version changes nothing.

    Raises:
        UserError: the build is not finished or has no pair, the version is not MAJOR.MINOR.PATCH or already holds
            other content, there is no token, or the Hub refused.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise UserError(f"A version has the form MAJOR.MINOR.PATCH, such as 1.0.0, got '{version}'.")
    with tempfile.TemporaryDirectory(dir=build, prefix=".release-") as temporary:
        files = Path(temporary)
        assemble(build, target, version, files)
        digest = _sha256(files / MANIFEST)
        if is_folder(target):
            _to_folder(files, Path(target).expanduser())
            commit = None
        else:
            commit = _to_hub(files, target, "dataset", f"v{version}", digest, private=private, token=token)
    read_back(target, commit and f"v{version}", token)
    return Release(target, version, digest, commit)


def publish_model(folder: Path, repo: str, *, private: bool = True, token: str | None = None) -> str:
    """Push a trained adapter with its card as one commit; returns the commit sha.

    Raises:
        UserError: the folder holds no finished training, or the Hub refused.
    """
    names = ("README.md", "training.json", "adapter_config.json", "adapter_model.safetensors")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder} is not a finished training: it lacks {', '.join(missing)}. Run udasa train first.")
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            shutil.copy2(folder / name, Path(temporary) / name)
        return _to_hub(Path(temporary), repo, "model", None, None, private=private, token=token)


def assemble(build: Path, target: str, version: str, into: Path) -> dict[str, Any]:
    """Write a release's files into a folder and return the manifest.

    Raises:
        UserError: the build is not finished, or has no pair.
    """
    if not (build / "build.json").is_file():
        raise UserError(f"{build} holds no finished build (no build.json). Run udasa build to the end first.")
    settings = recipe.from_json((build / "recipe.json").read_text(encoding="utf-8"), origin=str(build / "recipe.json"))
    pairs, scored, ledger = (run.read_frame(build, name) for name in ("pairs", "scored", "ledger"))
    if pairs.is_empty():
        raise UserError(f"{build} has no pair to publish; its ledger says why: {_counts(ledger, 'outcome')}.")
    _write_tables(settings, pairs, scored, ledger, into)
    manifest = _manifest(build, settings, version, pairs, scored, ledger)
    drawn = _write_figures(manifest, pairs, scored, into)
    manifest["files"] = {
        path.relative_to(into).as_posix(): _file_facts(path) for path in sorted(into.rglob("*")) if path.is_file()
    }
    (into / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    card = cards.render_dataset_card(manifest, None if is_folder(target) else target, drawn)
    cards.validate(card, "dataset")
    (into / "README.md").write_text(card, encoding="utf-8")
    return manifest


def _write_tables(
    settings: Recipe, pairs: pl.DataFrame, scored: pl.DataFrame, ledger: pl.DataFrame, into: Path
) -> None:
    """Write one parquet per stage and split that has rows, the scored responses by split, and the ledger."""
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


def _write_figures(
    manifest: Mapping[str, Any], pairs: pl.DataFrame, scored: pl.DataFrame, into: Path
) -> list[tuple[str, str]]:
    """Draw the card's figures; returns (path, caption) of each."""
    import altair as alt

    drawn: dict[str, tuple[alt.TopLevelMixin, str]] = {
        "uncertainties": (figures.uncertainty_chart(scored), "The three uncertainties over all responses."),
        "gap": (figures.gap_chart(pairs, manifest["thresholds"]), "The uncertainty gap of the pairs, by stage."),
        "stages": (figures.stage_chart(manifest["tasks"]), "Pairs by task and stage."),
    }
    (into / "figures").mkdir()
    for name, (chart, _) in drawn.items():
        (into / "figures" / f"{name}.svg").write_text(figures.to_svg(chart), encoding="utf-8")
    return [(f"figures/{name}.svg", caption) for name, (_, caption) in drawn.items()]


def _manifest(
    build: Path, settings: Recipe, version: str, pairs: pl.DataFrame, scored: pl.DataFrame, ledger: pl.DataFrame
) -> dict[str, Any]:
    """Return every number of the release, all but the files'; the same build gives the same manifest."""
    summary = json.loads((build / "build.json").read_text(encoding="utf-8"))
    responses = scored.select("prompt_id", "responses").explode("responses").unnest("responses")
    by_stage = {
        stage: {split: pairs.filter(stage=stage, split=split).height for split in schema.SPLITS}
        for stage in schema.STAGES
    }
    return {
        **summary,
        "format": 1,
        "name": f"udasa-{settings.name}",
        "version": version,
        "license": settings.license,
        "recipe": recipe.as_dict(settings),
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


def _counts(frame: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(frame.group_by(column).len().sort(column).iter_rows())


def _by_stage(pairs: pl.DataFrame, column: str) -> dict[str, dict[str, int]]:
    return {
        value: {stage: pairs.filter(pl.col(column) == value, stage=stage).height for stage in schema.STAGES}
        for value in pairs[column].unique().sort()
    }


def _statistics(values: pl.Series) -> dict[str, float | int | None]:
    present = values.drop_nulls()
    quantiles = {f"q{int(q * 100):02d}": present.quantile(q, "linear") for q in (0.05, 0.5, 0.95)}
    return {"n": len(present), "nulls": values.null_count(), "mean": present.mean(), **quantiles}  # type: ignore[dict-item]


def _file_facts(path: Path) -> dict[str, int | str]:
    facts: dict[str, int | str] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    if path.suffix == ".parquet":
        facts["rows"] = run.num_rows(path)
    return facts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_folder(files: Path, folder: Path) -> None:
    """Move a finished release into place.

    Raises:
        UserError: the folder holds something else.
    """
    if (folder / MANIFEST).is_file() and _sha256(folder / MANIFEST) == _sha256(files / MANIFEST):
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} already holds something else. Publish into a new folder, or empty this one first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unfinished-"))
    try:
        shutil.copytree(files, unfinished, dirs_exist_ok=True)
        unfinished.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _to_hub(
    files: Path,
    repo: str,
    kind: Literal["dataset", "model"],
    tag: str | None,
    digest: str | None,
    *,
    private: bool,
    token: str | None,
) -> str:
    """Commit all files at once on top of the head that was seen, then tag; returns the commit sha.

    Raises:
        UserError: the tag holds other content, the head moved meanwhile, or the Hub refused.
    """
    api = HfApi(token=token)
    with hub_errors(repo, "write"):
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo, repo_type=kind).tags}
        if tag in tags:
            return _same_release(api, repo, tag, tags[tag], digest)
        head = api.repo_info(repo, repo_type=kind).sha
        paths = sorted(path for path in files.rglob("*") if path.is_file())
        adds = [CommitOperationAdd(path.relative_to(files).as_posix(), path) for path in paths]
        stale = set(api.list_repo_files(repo, repo_type=kind)) - {a.path_in_repo for a in adds} - {".gitattributes"}
        commit = api.create_commit(
            repo,
            [*adds, *(CommitOperationDelete(path) for path in sorted(stale))],
            commit_message=f"Release {tag}" if tag else "Update the adapter and its card",
            repo_type=kind,
            parent_commit=head,
        )
        if tag:
            api.create_tag(repo, tag=tag, revision=commit.oid, repo_type=kind)
    return commit.oid


def _same_release(api: HfApi, repo: str, tag: str, commit: str, digest: str | None) -> str:
    """Return the tag's commit if it holds the same manifest."""
    manifest = api.hf_hub_download(repo, MANIFEST, repo_type="dataset", revision=tag)
    if _sha256(Path(manifest)) != digest:
        raise UserError(f"{repo} already has a tag {tag} with other content; a tag is never moved. Use a new version.")
    return commit


def read_back(target: str, revision: str | None, token: str | None = None) -> dict[str, Any]:
    """Read a release as a user would and hold it to its manifest: every file's sha256, every config's rows.

    Raises:
        UserError: something does not fit.
    """
    from datasets import load_dataset

    api = HfApi(token=token)
    source = str(Path(target).expanduser()) if is_folder(target) else target

    def local(path: str) -> Path:
        if is_folder(target):
            return Path(source) / path
        return Path(api.hf_hub_download(target, path, repo_type="dataset", revision=revision))

    manifest: dict[str, Any] = json.loads(local(MANIFEST).read_text(encoding="utf-8"))
    wrong = [path for path, facts in manifest["files"].items() if _sha256(local(path)) != facts["sha256"]]
    with tempfile.TemporaryDirectory() as cache:  # a folder's cache entry hangs on its name, not on its files
        for config in cards.CONFIGS:
            for split, rows in cards.rows(manifest, config).items():
                data = load_dataset(source, config, split=split, revision=revision, token=token, cache_dir=cache)
                if data.num_rows != rows:
                    wrong.append(f"config {config}, split {split}: {data.num_rows} rows instead of {rows}")
    if wrong:
        raise UserError(f"{target} was read back and does not fit its manifest: {'; '.join(wrong)}. Publish it again.")
    return manifest
