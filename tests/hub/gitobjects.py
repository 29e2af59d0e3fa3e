"""Bytes -> the object ids git and git-lfs would give them."""

import hashlib
from collections.abc import Mapping
from datetime import datetime


def sha256(data: bytes) -> str:
    """Name of a large file: the hash of its content."""
    return hashlib.sha256(data).hexdigest()


def _oid(kind: str, body: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()


def blob_oid(data: bytes) -> str:
    """Name of a regular file, as `git hash-object` prints it."""
    return _oid("blob", data)


def lfs_pointer(oid: str, size: int) -> bytes:
    """Text that git stores in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def tree_oids(blobs: Mapping[str, str]) -> dict[str, str]:
    """Oid of every directory of a `path -> blob oid` mapping; the root is the empty path."""
    folders: dict[str, dict[str, str | None]] = {"": {}}
    for path, oid in blobs.items():
        parent, _, name = path.rpartition("/")
        folders.setdefault(parent, {})[name] = oid
        while parent:
            parent, _, name = parent.rpartition("/")
            folders.setdefault(parent, {})[name] = None
    oids: dict[str, str] = {}
    for folder in sorted(folders, key=lambda path: (path.count("/"), path != ""), reverse=True):
        prefix = f"{folder}/" if folder else ""
        entries = [
            (name + "/", b"40000", oids[prefix + name]) if oid is None else (name, b"100644", oid)
            for name, oid in folders[folder].items()
        ]
        body = (
            mode + b" " + name.rstrip("/").encode() + b"\0" + bytes.fromhex(oid)
            for name, mode, oid in _git_sorted(entries)
        )
        oids[folder] = _oid("tree", b"".join(body))
    return oids


def _git_sorted(entries: list[tuple[str, bytes, str]]) -> list[tuple[str, bytes, str]]:
    """Git compares names as bytes, a directory's with a slash at its end."""
    return sorted(entries, key=lambda entry: entry[0].encode())


def commit_oid(*, tree: str, parent: str | None, author: str, date: datetime, message: str) -> str:
    """Name of a commit: it covers the tree, the parent, the author, the second and the message."""
    who = f"{author} <{author}@users.noreply.hub.test> {int(date.timestamp())} +0000"
    lines = [f"tree {tree}", *([f"parent {parent}"] if parent else []), f"author {who}", f"committer {who}"]
    return _oid("commit", ("\n".join(lines) + f"\n\n{message}\n").encode())
