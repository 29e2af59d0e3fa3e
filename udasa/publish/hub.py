"""Files -> one commit on the head that was seen, and a tag that is never moved.

A concurrent commit makes the Hub answer 412. If it touched none of the release's files, the release goes on top of it.
"""

from collections.abc import Mapping, Sequence, Set
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from udasa.errors import UserError
from udasa.publish.assemble import owned
from udasa.release import hub_errors

Kind = Literal["dataset", "model"]
Gated = Literal["auto", "manual"]

ATTEMPTS = 5
"""Commits tried while others commit files that are not the release's."""


class Access(NamedTuple):
    """Who may see a repository."""

    private: bool = True
    """False: public; a repository that is there and private is made public once the release is complete."""
    gated: Gated | None = None
    """Readers ask for access, granted at once or by hand; None leaves it as it is."""


def tags(api: HfApi, repo: str, kind: Kind = "dataset") -> dict[str, str]:
    """Return the tags of a repository and their commits; none if there is no such repository.

    Raises:
        UserError: the Hub refused or failed.
    """
    with hub_errors(repo, "write"):
        if not api.repo_exists(repo, repo_type=kind):
            return {}
        return {ref.name: ref.target_commit for ref in api.list_repo_refs(repo, repo_type=kind).tags}


def push(
    api: HfApi,
    files: Path,
    repo: str,
    kind: Kind,
    message: str,
    tag: str | None,
    access: Access,
    may_hold: Sequence[str] = (),
) -> str:
    """Commit all files at once, then tag; returns the commit sha.

    What an earlier push left in the release's folders is deleted, and what fits `may_hold` (paths with `*`).

    Raises:
        UserError: the head moved and touched the release's files, the repository is public and should not be, or the
            Hub refused or failed. Then nothing is published, or the message says that only the tag is missing.
    """
    with hub_errors(repo, "write"):
        api.create_repo(repo, repo_type=kind, private=access.private, exist_ok=True)
        was_private = api.repo_info(repo, repo_type=kind).private
        if access.private and not was_private:
            raise UserError(
                f"{repo} is public and this release was to be private; nothing was published. "
                "Say --public to publish there, make the repository private, or use another name."
            )
        if tag and tag in {ref.name for ref in api.list_repo_refs(repo, repo_type=kind).branches}:
            raise UserError(f"{repo} has a branch named {tag}, which hides the tag; nothing was published. Rename it.")
        if access.gated:
            api.update_repo_settings(repo, repo_type=kind, gated=access.gated)
        commit = _commit(api, files, repo, kind, message, may_hold)
    with hub_errors(repo, "write", f"commit {commit} is there, its tag may not be: publish again to complete it"):
        if tag:
            api.create_tag(repo, tag=tag, revision=commit, repo_type=kind)
        if was_private and not access.private:
            api.update_repo_settings(repo, repo_type=kind, private=False)
    return commit


def _commit(api: HfApi, files: Path, repo: str, kind: Kind, message: str, may_hold: Sequence[str]) -> str:
    """Make the commit on the head that was seen; go on top of commits that touch nothing of ours.

    Raises:
        UserError: another commit touched these files, or too many came in between.
    """
    ours = {path.relative_to(files).as_posix(): path for path in sorted(files.rglob("*")) if path.is_file()}

    def is_ours(path: str) -> bool:
        return owned(path, list(ours)) or any(fnmatchcase(path, pattern) for pattern in may_hold)

    head = str(api.repo_info(repo, repo_type=kind).sha)
    tree = _tree(api, repo, kind, head)
    stale = [path for path in sorted(tree) if path not in ours and is_ours(path)]
    for _ in range(ATTEMPTS):
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(path, local) for path, local in ours.items()),
            *(CommitOperationDelete(path, is_folder=False) for path in stale),
        ]
        try:
            made = api.create_commit(repo, operations, commit_message=message, repo_type=kind, parent_commit=head)
        except HfHubHTTPError as error:
            if error.response.status_code != 412:
                raise
            moved = str(api.repo_info(repo, repo_type=kind).sha)
            now = _tree(api, repo, kind, moved)
            if moved == head:
                raise
            touched = sorted(p for p in tree.keys() | now.keys() if tree.get(p) != now.get(p) and is_ours(p))
            if touched:
                raise UserError(
                    f"{repo} changed while this release was being prepared (412): commit {moved} touched "
                    f"{', '.join(touched[:5])}{' and more' if len(touched) > 5 else ''}. Nothing was published. "
                    "Look at that commit, then run it again."
                ) from error
            head, tree = moved, now
        else:
            _check({path for path in _tree(api, repo, kind, made.oid) if is_ours(path)}, ours, repo, made.oid)
            return made.oid
    raise UserError(
        f"{repo} changed {ATTEMPTS} times while this release was being prepared (412); nothing was published. "
        "Run it again when its other writers are done."
    )


def _tree(api: HfApi, repo: str, kind: Kind, revision: str) -> dict[str, str]:
    """Return path -> object id of every file at a revision."""
    nodes = api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=kind)
    return {node.path: node.lfs.sha256 if node.lfs else node.blob_id for node in nodes if isinstance(node, RepoFile)}


def _check(found: Set[str], ours: Mapping[str, Path], repo: str, commit: str) -> None:
    """Hold the commit's files to the release: the client leaves out those that it believes to be there already.

    Raises:
        UserError: a file is missing or left over.
    """
    if wrong := sorted(found ^ ours.keys()):
        raise UserError(
            f"Commit {commit} of {repo} does not hold exactly the release: {', '.join(wrong)} differ. "
            "It was not tagged. Publish again."
        )
