"""A repository with a little of everything, made without a client."""

from .gitobjects import sha256
from .server import RunningHub
from .store import HEADS, File, Kind, Repo

CARD = "---\nlicense: mit\ntags:\n- pairs\n---\n# Pairs\n"
LARGE = b"\0large\n" * 1000


def prepare(hub: RunningHub, repo_id: str, *, kind: Kind = "dataset", private: bool = False) -> Repo:
    """A repository with a card, a text in a folder and a large file, made without a client."""
    repo = hub.store.create_repo(hub.store.users["owner"], kind, repo_id, private=private)
    hub.store.blobs[sha256(LARGE)] = LARGE
    repo.large.add(sha256(LARGE))
    files = {
        "README.md": File.regular(CARD.encode()),
        "data/a b.txt": File.regular(b"0123456789"),
        "data/big.bin": File.large(sha256(LARGE), len(LARGE)),
    }
    repo.commit(HEADS + "main", {**repo.resolve("main").files, **files}, author="owner", title="content")
    return repo
