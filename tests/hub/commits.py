"""NDJSON of one commit -> the next tree, or a refusal that leaves everything as it was.

{"key": "header",        "value": {"summary": "v1", "description": "", "parentCommit": "<sha>"}}
{"key": "file",          "value": {"path": "README.md", "content": "<base64>", "encoding": "base64"}}
{"key": "lfsFile",       "value": {"path": "train.parquet", "algo": "sha256", "oid": "<sha256>", "size": 1234}}
{"key": "deletedFile",   "value": {"path": "old.txt"}}
{"key": "deletedFolder", "value": {"path": "old/"}}
"""

import base64
import codecs
import fnmatch
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import errors
from .card import require_valid
from .store import Commit, File, Repo, Store

MAX_REGULAR_SIZE = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A commit as the client wrote it."""

    title: str
    description: str
    parent: str | None
    operations: list[tuple[str, dict[str, Any]]]


def parse(body: bytes) -> Draft:
    """Read the NDJSON: one header, then the operations in order."""
    try:
        lines = [json.loads(line) for line in body.splitlines() if line]
        operations = [(line["key"], line["value"]) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.HubError(400, f"The commit is not NDJSON of key and value: {error!r}") from error
    header = dict(operations).get("header", {})
    if not header.get("summary"):
        raise errors.HubError(400, "The commit has no header with a summary")
    return Draft(
        title=header["summary"],
        description=header.get("description", ""),
        parent=header.get("parentCommit"),
        operations=[operation for operation in operations if operation[0] != "header"],
    )


def next_tree(store: Store, repo: Repo, head: Commit, draft: Draft) -> dict[str, File]:
    """The head's files after every operation of the draft."""
    files = dict(head.files)
    for key, value in draft.operations:
        path = _checked_path(value["path"])
        if key == "file":
            files[path] = _regular(value)
        elif key == "lfsFile":
            files[path] = _large(store, repo, value)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise errors.entry_not_found("A file with this name doesn't exist", head.sha)
        elif key == "deletedFolder":
            inside = [name for name in files if name.startswith(f"{path}/")]
            if not inside:
                raise errors.entry_not_found("A folder with this name doesn't exist", head.sha)
            for name in inside:
                del files[name]
        else:
            raise errors.HubError(400, f"Unknown operation: {key}")
    if "README.md" in files and files["README.md"] != head.files.get("README.md"):
        require_valid(files["README.md"].data.decode())
    return files


def _checked_path(path: str) -> str:
    parts = path.rstrip("/").split("/")
    if {"", ".", "..", ".git"} & set(parts):
        raise errors.HubError(422, f"Invalid path in commit: {path}")
    return "/".join(parts)


def _regular(value: Mapping[str, Any]) -> File:
    if value.get("encoding") != "base64":
        raise errors.HubError(400, f"The encoding of {value['path']} must be base64")
    data = base64.b64decode(value["content"], validate=True)
    if len(data) > MAX_REGULAR_SIZE:
        raise errors.HubError(
            400, f"Your push was rejected because it contains files larger than 10 MiB. Offending file: {value['path']}"
        )
    return File.regular(data)


def _large(store: Store, repo: Repo, value: Mapping[str, Any]) -> File:
    oid = value["oid"]
    if oid not in repo.large:
        raise errors.HubError(
            400,
            "Your push was rejected because an LFS pointer pointed to a file that does not exist. "
            f"Offending file: {value['path']}",
        )
    return File.large(oid, len(store.blobs[oid]), store.xet_hashes.get(oid))


def upload_mode(path: str, size: int, sample: bytes, attributes: str) -> str:
    """`lfs` for what `.gitattributes` names, what is over 10 MiB and what is not text; else `regular`."""
    for line in attributes.splitlines():
        pattern, *flags = line.split() or [""]
        if "filter=lfs" in flags and matches(path, pattern):
            return "lfs"
    return "lfs" if size > MAX_REGULAR_SIZE or not _is_text(sample) else "regular"


def matches(path: str, pattern: str) -> bool:
    """Whether a gitattributes or gitignore pattern names the path or a folder above it."""
    parts = path.split("/")
    above = ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    wanted = pattern.strip("/")
    if "/" in wanted:
        return any(fnmatch.fnmatchcase(folder, wanted) for folder in above)
    return any(fnmatch.fnmatchcase(part, wanted) for part in parts)


def ignored(path: str, gitignore: str) -> bool:
    """Whether a `.gitignore` leaves the path out (no negated patterns)."""
    rules: Iterator[str] = (line.strip() for line in gitignore.splitlines())
    return any(matches(path, rule) for rule in rules if rule and not rule.startswith("#"))


def _is_text(sample: bytes) -> bool:
    """The sample may end inside a character, so it is decoded as the start of something longer."""
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
