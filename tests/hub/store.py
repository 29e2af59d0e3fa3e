"""Users, repositories, commits, refs and blobs: the whole state of the Hub, with no HTTP in it.

store = Store()
owner = store.users["owner"]
repo = store.create_repo(owner, "dataset", "acme/pairs", private=True)
repo.resolve("main").files[".gitattributes"].oid
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from types import MappingProxyType
from typing import Literal

from . import errors
from .cas import Cas
from .gitobjects import blob_oid, commit_oid, lfs_pointer, sha256, tree_oids

Kind = Literal["model", "dataset", "space"]
Role = Literal["admin", "write", "read"]

HEADS, TAGS, PULLS = "refs/heads/", "refs/tags/", "refs/pr/"
REF_NAME = re.compile(r"(?!.*(\.\.|//|@\{))[\w][\w.\-/+]*(?<![./])")
SHORT_SHA = re.compile(r"[0-9a-f]{7,40}")
_LARGE = """
*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.mlmodel *.model *.msgpack *.npy *.npz *.onnx *.parquet
*.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors *.tar.* *.tar *.tflite *.tgz *.wasm *.xz *.zip *.zst
"""
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LARGE.split()).encode()


def now() -> datetime:
    """The time, to the millisecond the wire format carries."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


@dataclass(frozen=True, slots=True)
class User:
    """An account with one token and a role in some organisations."""

    name: str
    token: str
    orgs: Mapping[str, Role] = field(default_factory=dict)

    def may_read(self, namespace: str) -> bool:
        """Private repositories are for the user's own namespace and for members."""
        return namespace == self.name or namespace in self.orgs

    def may_write(self, namespace: str) -> bool:
        """Members with the role `read` may not."""
        return namespace == self.name or self.orgs.get(namespace) in ("admin", "write")


@dataclass(frozen=True, slots=True)
class File:
    """A blob of a commit: its bytes, or for a large file (LFS) the pointer to them."""

    data: bytes
    size: int
    sha256: str | None = None
    xet_hash: str | None = None
    """Name in the content-addressed store, if the file came by Xet."""

    @classmethod
    def regular(cls, data: bytes) -> "File":
        """A file that git itself stores."""
        return cls(data, len(data))

    @classmethod
    def large(cls, sha256: str, size: int, xet_hash: str | None = None) -> "File":
        """A file that git stores as a pointer."""
        return cls(lfs_pointer(sha256, size), size, sha256, xet_hash)

    @property
    def oid(self) -> str:
        """Git's name for what git stores, so for a large file the pointer's name."""
        return blob_oid(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A tree and how it came to be; never changed once made."""

    sha: str
    parent: str | None
    title: str
    description: str
    author: str
    date: datetime
    files: Mapping[str, File]
    folders: Mapping[str, str]
    """Path -> tree oid of every directory; the root is the empty path."""

    def oid(self, path: str) -> str | None:
        """Oid of the file or directory at a path."""
        return self.files[path].oid if path in self.files else self.folders.get(path)


@dataclass(slots=True, kw_only=True)
class Repo:
    """Commits, the refs that name them and the large files that may be committed."""

    kind: Kind
    id: str
    private: bool
    gated: Literal["auto", "manual", False] = False
    created_at: datetime
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    """Full ref name (refs/heads/main, refs/tags/v1.0.0, refs/pr/1) -> commit sha."""
    large: set[str] = field(default_factory=set)
    """sha256 of the large files uploaded to this repository."""

    @property
    def namespace(self) -> str:
        """The user or organisation that owns it."""
        return self.id.partition("/")[0]

    def resolve(self, revision: str) -> Commit:
        """Commit of a branch, a tag, a full ref name or a sha of at least 7 digits."""
        for ref in (revision, HEADS + revision, TAGS + revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if SHORT_SHA.fullmatch(revision):
            found = [commit for sha, commit in self.commits.items() if sha.startswith(revision)]
            if len(found) == 1:
                return found[0]
        raise errors.revision_not_found(revision)

    def history(self, commit: Commit) -> Iterator[Commit]:
        """The commit and its ancestors, newest first."""
        yield commit
        while commit.parent is not None:
            commit = self.commits[commit.parent]
            yield commit

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The newest commit in which the path became what it is."""
        same = takewhile(lambda past: past.oid(path) == commit.oid(path), self.history(commit))
        return list(same)[-1]

    def writable_ref(self, revision: str) -> str:
        """Full name of the branch or pull request a commit to `revision` moves."""
        for ref in (revision, HEADS + revision):
            if ref in self.refs and not ref.startswith(TAGS):
                return ref
        raise errors.revision_not_found(revision)

    def create_ref(self, ref: str, commit: Commit) -> None:
        """Name a commit, once."""
        if not REF_NAME.fullmatch(ref):
            raise errors.HubError(400, f"Invalid reference name: {ref}")
        if ref in self.refs:
            raise errors.HubError(409, f"Reference {ref} already exists")
        self.refs[ref] = commit.sha

    def delete_ref(self, ref: str) -> None:
        """Forget a branch or a tag, but never main."""
        if ref == HEADS + "main":
            raise errors.forbidden(f"Cannot delete {ref}")
        if ref not in self.refs:
            raise errors.revision_not_found(ref.removeprefix(HEADS).removeprefix(TAGS))
        del self.refs[ref]

    def commit(self, ref: str, files: Mapping[str, File], *, author: str, title: str, description: str = "") -> Commit:
        """Put a new tree on top of a ref, or start the ref with it."""
        parent, date = self.refs.get(ref), now()
        folders = tree_oids({path: file.oid for path, file in files.items()})
        message = f"{title}\n\n{description}" if description else title
        made = Commit(
            sha=commit_oid(tree=folders[""], parent=parent, author=author, date=date, message=message),
            parent=parent,
            title=title,
            description=description,
            author=author,
            date=date,
            files=MappingProxyType(dict(sorted(files.items()))),
            folders=MappingProxyType(folders),
        )
        self.commits[made.sha] = made
        self.refs[ref] = made.sha
        return made


@dataclass(slots=True)
class Upload:
    """A large file on its way: what was announced, and the parts that have come."""

    repo: Repo
    sha256: str
    size: int
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a Xet token allows: one repository, to read or also to write."""

    repo: Repo
    may_write: bool


def known_users() -> dict[str, User]:
    """An owner and a reader of the organisation `acme`, and an outsider."""
    roles: dict[str, dict[str, Role]] = {"owner": {"acme": "admin"}, "reader": {"acme": "read"}, "outsider": {}}
    return {name: User(name, f"hf_test_{name}", orgs) for name, orgs in roles.items()}


@dataclass(slots=True)
class Store:
    """Everything the Hub remembers."""

    users: dict[str, User] = field(default_factory=known_users)
    repos: dict[tuple[Kind, str], Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    """sha256 -> content of the large files of all repositories, by whichever way they came."""
    xet_hashes: dict[str, str] = field(default_factory=dict)
    """sha256 -> name in the content-addressed store, of the large files that came by Xet."""
    grants: dict[str, Grant] = field(default_factory=dict)
    """Xet token -> what it allows."""
    cas: Cas = field(default_factory=Cas)
    uploads: dict[str, Upload] = field(default_factory=dict)
    """Secret of a signed upload address -> the upload it allows."""

    def user_of(self, token: str) -> User:
        """The one user with this token."""
        for user in self.users.values():
            if user.token == token:
                return user
        raise errors.invalid_credentials()

    def readable(self, user: User | None, kind: Kind, repo_id: str) -> Repo:
        """A repository this user may see; the anonymous user is None."""
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and not (user and user.may_read(repo.namespace))):
            raise errors.repo_not_found(anonymous=user is None)
        return repo

    def writable(self, user: User | None, kind: Kind, repo_id: str) -> tuple[Repo, User]:
        """A repository this user may change, and the user, now known."""
        repo = self.readable(user, kind, repo_id)
        if user is None:
            raise errors.repo_not_found(anonymous=True)
        if not user.may_write(repo.namespace):
            raise errors.forbidden(f"Forbidden: you don't have write access to the {kind} {repo_id}")
        return repo, user

    def create_repo(self, user: User, kind: Kind, repo_id: str, *, private: bool) -> Repo:
        """A repository with one commit, the `.gitattributes` that sends binary formats to LFS."""
        namespace = repo_id.partition("/")[0]
        if not user.may_write(namespace):
            raise errors.forbidden(f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
        repo = Repo(kind=kind, id=repo_id, private=private, created_at=now())
        repo.commit(
            HEADS + "main", {".gitattributes": File.regular(GITATTRIBUTES)}, author=user.name, title="initial commit"
        )
        self.repos[kind, repo_id] = repo
        return repo

    def content(self, file: File) -> bytes:
        """What the user uploaded, wherever it is kept."""
        return file.data if file.sha256 is None else self.blobs[file.sha256]

    def receive(self, upload: Upload, data: bytes) -> None:
        """Keep a large file if it is the one that was announced."""
        if len(data) != upload.size or sha256(data) != upload.sha256:
            raise errors.HubError(400, f"The uploaded content is not {upload.sha256} of {upload.size} bytes")
        self.blobs[upload.sha256] = data
        upload.repo.large.add(upload.sha256)

    def receive_chunked(self, repo: Repo, xet_hash: str, data: bytes) -> None:
        """Keep a large file that came by Xet."""
        oid = sha256(data)
        self.blobs[oid], self.xet_hashes[oid] = data, xet_hash
        repo.large.add(oid)
