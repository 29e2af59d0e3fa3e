"""A build -> a release: parquet by stage and split, manifest, figures and card, in a folder or on the Hub.

A release is assembled in a temporary folder, verified there, and appears at once: by a rename, or by one commit and
then a tag. Then it is read back.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi

from udasa import cards
from udasa.digests import file_sha256
from udasa.errors import UserError
from udasa.publish import versions
from udasa.publish.assemble import assemble, stamp
from udasa.publish.checks import Problem, Verified, verify, verify_folder
from udasa.publish.differences import Diff, Level, diff
from udasa.publish.hub import Access, Gated, push, tags
from udasa.publish.model import attach, publish_model, write_card
from udasa.publish.recompute import rebuild, rebuild_differs
from udasa.publish.versions import FIRST, Proposal, Version
from udasa.release import MANIFEST, Opened, is_folder, open_data, open_release

__all__ = [
    "MANIFEST",
    "Diff",
    "Problem",
    "Proposal",
    "Release",
    "Verified",
    "assemble",
    "attach",
    "diff",
    "is_folder",
    "propose",
    "publish",
    "publish_model",
    "read_back",
    "rebuild",
    "rebuild_differs",
    "verify",
    "write_card",
]

AUTO = "auto"
"""The version that stands for the proposed one."""


class Release(NamedTuple):
    """What was published where."""

    target: str
    version: str
    digest: str
    """sha256 of the manifest, which holds the sha256 of every other file."""
    commit: str | None
    """None for a folder."""
    why: str = ""
    """The version that the differences ask for, and these."""


def publish(
    build: Path,
    target: str,
    *,
    version: str,
    private: bool = True,
    gated: Gated | None = None,
    token: str | None = None,
) -> Release:
    """Publish a finished build to a folder or, as one commit and a tag, to a Hub data set; then read it back.

    Publishing the same content again under the same version changes nothing.

    Args:
        build: a finished build.
        target: a folder, or a Hub id.
        version: MAJOR.MINOR.PATCH, or `auto` for what `propose` says.
        private: whether a new repository is private; one that is there and public is then refused.
        gated: let readers ask for access, granted at once (`auto`) or by hand (`manual`).
        token: of the Hub; None takes the one that is logged in.

    Raises:
        UserError: the build is not finished or has no pair; the version has another form, is below the newest one, or
            already holds other content (the message says what differs); there is no token; or the Hub refused.
    """
    wanted = None if version == AUTO else versions.parse(version)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(dir=build if build.is_dir() else None, prefix=".release-") as temporary:
        files = Path(temporary)
        manifest = assemble(build, target, versions.text(wanted or FIRST), files)
        there = _published(target, api)
        proposal, before = _propose(build, files, manifest, there, token)
        chosen = wanted or proposal.version
        _stamp(manifest, files, chosen, there, before, token)
        verify_folder(files)
        digest = file_sha256(files / MANIFEST)
        if chosen not in there:
            commit = _release(api, files, target, chosen, Access(private, gated))
        else:
            commit = open_release(there[chosen], token=token).commit
            _same_release(files, there[chosen], build, token)
    tag = f"v{versions.text(chosen)}"
    read_back(target, commit and tag, token)
    return Release(target, versions.text(chosen), digest, commit, proposal.why)


def propose(build: Path, target: str, *, token: str | None = None) -> Proposal:
    """Return the version that a build should have at a target, from what differs to the newest release there.

    Raises:
        UserError: the build is not finished, the newest release cannot be read, or the Hub refused.
    """
    there = _published(target, HfApi(token=token))
    with tempfile.TemporaryDirectory() as temporary:
        manifest = assemble(build, target, versions.text(FIRST), Path(temporary))
        return _propose(build, Path(temporary), manifest, there, token)[0]


def read_back(target: str, revision: str | None, token: str | None = None) -> dict[str, Any]:
    """Read a release as a user would and hold it to its manifest: every file's sha256, every config's rows.

    Raises:
        UserError: something does not fit.
    """
    from datasets import load_dataset

    opened = open_release(f"{target}@{revision}" if revision else target, token=token, fresh=True)
    source, manifest = str(Path(target).expanduser()) if is_folder(target) else target, opened.facts
    wrong = [path for path, facts in manifest["files"].items() if file_sha256(opened.folder / path) != facts["sha256"]]
    with tempfile.TemporaryDirectory() as cache:  # a folder's cache entry hangs on its name, not on its files
        for config in cards.CONFIGS:
            if not (rows := cards.rows(manifest, config)):
                continue
            data = load_dataset(source, config, revision=revision, token=token, cache_dir=cache)
            if (found := {split: data[split].num_rows for split in data}) != rows:
                wrong.append(f"config {config}: {found} rows instead of {rows}")
    if wrong:
        raise UserError(f"{target} was read back and does not fit its manifest: {'; '.join(wrong)}. Publish it again.")
    return manifest


def _published(target: str, api: HfApi) -> dict[Version, str]:
    """Return version -> what to open, for the releases that are at a target."""
    if not is_folder(target):
        return {version: f"{target}@v{versions.text(version)}" for version in versions.releases(tags(api, target))}
    if (Path(target).expanduser() / MANIFEST).is_file():
        return {versions.parse(str(open_release(target).facts.get("version"))): target}
    return {}


def _propose(
    build: Path, files: Path, manifest: Mapping[str, Any], there: Mapping[Version, str], token: str | None
) -> tuple[Proposal, Diff | None]:
    """Return the proposal, and what differs to the newest release."""
    if not there:
        return Proposal(FIRST, "major", "the first release here"), None
    last = max(there)
    before = open_release(there[last], token=token)
    found = diff(before, open_data(str(build.absolute())))
    level: Level = found.level()
    if level in ("none", "patch"):
        stamped = stamp({**manifest, "version": versions.text(last), **_changes(before)}, files)
        level = "none" if stamped == before.facts else "patch"
    version = versions.bump(last, level)
    return Proposal(version, level, f"{level} since {versions.text(last)}: {found.why()}"), found


def _changes(release: Opened) -> dict[str, Any]:
    return {"changes": release.facts["changes"]} if "changes" in release.facts else {}


def _stamp(
    manifest: Mapping[str, Any],
    files: Path,
    version: Version,
    there: Mapping[Version, str],
    found: Diff | None,
    token: str | None,
) -> None:
    """Give the assembled release its version, and the changes since the one before.

    Raises:
        UserError: there is a newer version.
    """
    number = versions.text(version)
    if version in there:
        stamp({**manifest, "version": number, **_changes(open_release(there[version], token=token))}, files)
        return
    if there and version < max(there):
        raise UserError(
            f"Version {number} is below the newest one, {versions.text(max(there))}; a release only goes forward."
        )
    changes: dict[str, Any] = {}
    if found:
        changes = {k: v for k, v in found.summary().items() if k not in ("before", "after")}
        changes = {"changes": {"since": versions.text(max(there)), **changes}}
    stamp({**manifest, "version": number, **changes}, files)


def _release(api: HfApi, files: Path, target: str, version: Version, access: Access) -> str | None:
    if is_folder(target):
        _to_folder(files, Path(target).expanduser())
        return None
    tag = f"v{versions.text(version)}"
    return push(api, files, target, "dataset", f"Release {tag}", tag, access)


def _same_release(files: Path, target: str, build: Path, token: str | None) -> None:
    """Hold a version that is there to what was assembled.

    Raises:
        UserError: the content is another one; the message says what differs.
    """
    before = open_release(target, token=token)
    after = json.loads((files / MANIFEST).read_text(encoding="utf-8"))
    if file_sha256(before.folder / MANIFEST) == file_sha256(files / MANIFEST):
        return
    found = diff(before, open_data(str(build.absolute())))
    keys = sorted(key for key in before.facts.keys() | after.keys() if before.facts.get(key) != after.get(key))
    new = versions.text(versions.bump(versions.parse(after["version"]), found.level()))
    raise UserError(
        f"{target} already has other content; a version is never changed. What differs: {found.why()} "
        f"(in the manifest: {', '.join(keys)}). Use a new version, such as {new}."
    )


def _to_folder(files: Path, folder: Path) -> None:
    """Move a finished release into place.

    Raises:
        UserError: the folder holds something else.
    """
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
