"""Objects of the store -> the JSON that clients parse."""

from datetime import datetime
from typing import Any

from .card import read_card
from .gitobjects import sha256
from .store import HEADS, PULLS, TAGS, Commit, File, Repo, User

Json = dict[str, Any]

PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
"""What stands before the id in the address of a page: models have nothing."""
SCAN: Json = {"status": "safe", "avScan": None, "pickleImportScan": None}


def timestamp(date: datetime) -> str:
    """Clients parse this one form: 2026-01-31T12:34:56.789Z."""
    return date.strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}Z"


def account(user: User) -> Json:
    """The answer of `/api/whoami-v2`."""
    orgs = [
        {"type": "org", "id": _id(name), "name": name, "fullname": name, "roleInOrg": role}
        for name, role in user.orgs.items()
    ]
    token = {"displayName": "test", "role": "write", "createdAt": "2026-01-01T00:00:00.000Z"}
    return {
        "type": "user",
        "id": _id(user.name),
        "name": user.name,
        "fullname": user.name,
        "email": f"{user.name}@users.noreply.hub.test",
        "emailVerified": True,
        "isPro": False,
        "canPay": False,
        "avatarUrl": "",
        "orgs": orgs,
        "auth": {"type": "access_token", "accessToken": token},
    }


def summary(repo: Repo, commit: Commit) -> Json:
    """A repository in a list, seen at one commit."""
    card = card_data(commit)
    return {
        "_id": _id(f"{repo.kind}:{repo.id}"),
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.sha,
        "lastModified": timestamp(commit.date),
        "createdAt": timestamp(repo.created_at),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [str(tag) for tag in card.get("tags", [])],
        **({"cardData": card} if card else {}),
    }


def info(repo: Repo, commit: Commit, *, blobs: bool) -> Json:
    """One repository with its files; with their sizes and hashes if `blobs`."""
    siblings = [_sibling(path, file, blobs=blobs) for path, file in commit.files.items()]
    return {**summary(repo, commit), "siblings": siblings, "usedStorage": sum(f.size for f in commit.files.values())}


def card_data(commit: Commit) -> Json:
    """Metadata of the README at this commit."""
    return read_card(commit.files["README.md"].data.decode()).metadata if "README.md" in commit.files else {}


def _sibling(path: str, file: File, *, blobs: bool) -> Json:
    if not blobs:
        return {"rfilename": path}
    large = {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.data)}} if file.sha256 else {}
    return {"rfilename": path, "size": file.size, "blobId": file.oid, **large}


def node(repo: Repo, commit: Commit, path: str, *, expand: bool) -> Json:
    """A file or directory of a tree, with its last commit if `expand`."""
    shown: Json
    if path in commit.files:
        file = commit.files[path]
        shown = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
        if file.sha256:
            shown["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.data)}
        if file.xet_hash:
            shown["xetHash"] = file.xet_hash
        if expand:
            shown["securityFileStatus"] = SCAN
    else:
        shown = {"type": "directory", "oid": commit.folders[path], "size": 0, "path": path}
    if expand:
        last = repo.last_change(commit, path)
        shown["lastCommit"] = {"id": last.sha, "title": last.title, "date": timestamp(last.date)}
    return shown


def listing(commit: Commit, folder: str, *, recursive: bool) -> list[str]:
    """Paths of the files and directories in a folder, or below it if `recursive`; the root is the empty path."""
    prefix = f"{folder}/" if folder else ""
    paths = (path for path in (*commit.files, *commit.folders) if path.startswith(prefix) and path != folder)
    return sorted(path for path in paths if recursive or "/" not in path.removeprefix(prefix))


def history_entry(commit: Commit) -> Json:
    """A commit in the list of commits."""
    return {
        "id": commit.sha,
        "title": commit.title,
        "message": commit.description,
        "authors": [{"user": commit.author, "avatar": ""}],
        "date": timestamp(commit.date),
    }


def refs(repo: Repo, *, pulls: bool) -> Json:
    """Branches and tags; pull requests only if asked for."""

    def under(prefix: str) -> list[Json]:
        names = (ref for ref in repo.refs if ref.startswith(prefix))
        return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": repo.refs[ref]} for ref in names]

    shown: Json = {"branches": under(HEADS), "tags": under(TAGS), "converts": []}
    return {**shown, "pullRequests": under(PULLS)} if pulls else shown


def _id(name: str) -> str:
    """24 hex digits, as the real database's ids have."""
    return sha256(name.encode())[:24]
