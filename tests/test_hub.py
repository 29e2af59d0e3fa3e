"""The test Hub against clients that know nothing of it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub.client import ClientError, request, run_client
from tests.hub.fixtures import hub as hub
from tests.hub.gitobjects import blob_oid, lfs_pointer, sha256
from tests.hub.sample import LARGE, prepare
from tests.hub.server import RunningHub
from tests.hub.store import HEADS, File

pytestmark = pytest.mark.processes


def failure(hub: RunningHub, home: Path, user: str | None, client: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    """Class and status of the exception that a client ends with."""
    with pytest.raises(ClientError) as caught:
        run_client(hub, client, *args, home=home, token=hub.token(user) if user in hub.store.users else user)
    return caught.value.type, caught.value.status


# --- accounts and repositories


def test_whoami(hub: RunningHub, tmp_path: Path) -> None:
    def whoami() -> list[Any]:
        from huggingface_hub import HfApi

        me = HfApi().whoami()
        return [me["name"], [(org["name"], org["roleInOrg"]) for org in me["orgs"]]]

    assert run_client(hub, whoami, home=tmp_path, token=hub.token("reader")) == ["reader", [["acme", "read"]]]
    assert failure(hub, tmp_path, "hf_nobody", whoami) == ("HfHubHTTPError", 401)


def test_create_and_delete_repo(hub: RunningHub, tmp_path: Path) -> None:
    def create_twice() -> list[Any]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

        api: Any = HfApi()
        seen: list[Any] = []
        made = api.create_repo("acme/created", repo_type="dataset", private=True)
        again = api.create_repo("acme/created", repo_type="dataset", exist_ok=True)
        seen += [str(made) == str(again), made.repo_id, made.repo_type]
        attempts: Any = (
            lambda: api.create_repo("acme/created", repo_type="dataset"),
            lambda: api.create_repo("elsewhere/created"),
            lambda: api.delete_repo("acme/missing"),
        )
        for attempt in attempts:
            try:
                attempt()
            except HfHubHTTPError as error:
                seen.append([type(error).__name__, error.response.status_code])
        info = api.dataset_info("acme/created")
        seen += [info.private, [file.rfilename for file in info.siblings]]
        seen.append([repo.id for repo in api.list_datasets(author="acme", search="CREATED")])
        api.delete_repo("acme/created", repo_type="dataset")
        try:
            api.dataset_info("acme/created")
        except RepositoryNotFoundError as error:
            seen.append(error.response.status_code)
        return seen

    assert run_client(hub, create_twice, home=tmp_path, token=hub.token()) == [
        True,
        "acme/created",
        "dataset",
        ["HfHubHTTPError", 409],
        ["HfHubHTTPError", 403],
        ["RepositoryNotFoundError", 404],
        True,
        [".gitattributes"],
        ["acme/created"],
        404,
    ]


# --- commits


BOTH_WAYS = pytest.mark.parametrize("xet", [True, False], ids=["by Xet", "by LFS"])


@BOTH_WAYS
def test_one_commit_carries_regular_and_large_files(hub: RunningHub, tmp_path: Path, xet: bool) -> None:
    def commit(repo: str) -> list[str]:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api: Any = HfApi()
        api.create_repo(repo)
        head = api.model_info(repo).sha
        add = [
            CommitOperationAdd("config.json", b"{}"),
            CommitOperationAdd("model.safetensors", b"small weights"),
            CommitOperationAdd("deep/part.bin", bytes(range(251)) * 50_000),
        ]
        made = api.create_commit(repo, add, commit_message="all", commit_description="why", parent_commit=head)
        gone = [CommitOperationDelete("deep/"), CommitOperationDelete("config.json")]
        return [head, made.oid, api.create_commit(repo, gone, commit_message="less").oid]

    before, name = len(hub.calls), f"acme/whole-{xet}"
    start, full, less = run_client(hub, commit, name, home=tmp_path, token=hub.token(), xet=xet)
    repo = hub.store.repos["model", name]
    made, content = repo.commits[full], bytes(range(251)) * 50_000
    assert list(repo.commits) == [start, full, less]
    assert (made.parent, made.title, made.description, made.author) == (start, "all", "why", "owner")
    assert made.files["config.json"].data == b"{}"
    assert made.files["model.safetensors"].sha256 == sha256(b"small weights")
    large = made.files["deep/part.bin"]
    assert (large.sha256, large.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert large.oid == blob_oid(lfs_pointer(sha256(content), len(content)))
    assert hub.store.content(large) == content
    parts = [call for call in hub.calls[before:] if call.method == "PUT"]
    assert len(parts) == (0 if xet else 1 + 3), "by LFS, one for the small file and three for the large one"
    assert large.xet_hash or not xet
    assert sorted(repo.resolve("main").files) == [".gitattributes", "model.safetensors"]


def test_conflict_and_bad_card_seen_by_the_client(hub: RunningHub, tmp_path: Path) -> None:
    def conflict(parent: str) -> None:
        from huggingface_hub import CommitOperationAdd, HfApi

        add = [CommitOperationAdd("new.txt", b"new")]
        HfApi().create_commit("acme/conflict", add, commit_message="m", parent_commit=parent, repo_type="dataset")

    def bad_card() -> None:
        from huggingface_hub import upload_file

        card = b"---\nlicense: nonsense\n---\n"
        upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="acme/conflict", repo_type="dataset")

    repo = prepare(hub, "acme/conflict")
    head = repo.resolve("main")
    assert failure(hub, tmp_path, "owner", conflict, str(head.parent)) == ("HfHubHTTPError", 412)
    before = len(hub.calls)
    assert failure(hub, tmp_path, "owner", bad_card) == ("ValueError", None)
    assert [(call.path, call.status) for call in hub.calls[before:]] == [("/api/validate-yaml", 400)]
    assert repo.resolve("main") is head


def test_pull_request_leaves_main(hub: RunningHub, tmp_path: Path) -> None:
    def propose() -> list[Any]:
        from huggingface_hub import CommitOperationAdd, HfApi

        api: Any = HfApi()
        add = [CommitOperationAdd("new.txt", b"new")]
        made = api.create_commit("acme/pull", add, commit_message="m", create_pr=True, repo_type="dataset")
        refs = api.list_repo_refs("acme/pull", repo_type="dataset", include_pull_requests=True)
        path = api.hf_hub_download("acme/pull", "new.txt", repo_type="dataset", revision=made.pr_revision)
        return [made.pr_num, made.oid, [(ref.ref, ref.target_commit) for ref in refs.pull_requests], open(path).read()]

    head = prepare(hub, "acme/pull").resolve("main")
    number, sha, pulls, content = run_client(hub, propose, home=tmp_path, token=hub.token("reader"))
    assert (number, pulls, content) == (1, [["refs/pr/1", sha]], "new")
    assert hub.store.repos["dataset", "acme/pull"].resolve("main") is head


@BOTH_WAYS
def test_upload_folder_again_makes_no_commit(hub: RunningHub, tmp_path: Path, xet: bool) -> None:
    def upload(repo: str, folder: str) -> list[str]:
        from pathlib import Path

        from huggingface_hub import HfApi

        api: Any = HfApi()
        api.create_repo(repo)
        first = api.upload_folder(repo_id=repo, folder_path=folder)
        Path(folder, "skipped.txt").unlink()  # the client posts a commit of nothing for an ignored file
        return [first.oid, api.upload_folder(repo_id=repo, folder_path=folder).oid]

    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "notes.txt").write_text("notes")
    (tmp_path / "model" / "model.safetensors").write_bytes(LARGE)
    (tmp_path / "model" / "skipped.txt").write_text("skipped")
    (tmp_path / "model" / ".gitignore").write_text("skipped*\n")
    name, args = f"acme/folder-{xet}", {"home": tmp_path / "home", "token": hub.token(), "xet": xet}
    first, second = run_client(hub, upload, name, str(tmp_path / "model"), **args)
    repo = hub.store.repos["model", name]
    assert (first, second, len(repo.commits)) == (repo.resolve("main").sha, first, 2)
    files = repo.resolve("main").files
    assert sorted(files) == [".gitattributes", ".gitignore", "model.safetensors", "sub/notes.txt"]
    assert hub.store.content(files["model.safetensors"]) == LARGE


# --- refs, trees, history


def test_tags_branches_and_history(hub: RunningHub, tmp_path: Path) -> None:
    def versions() -> dict[str, Any]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api: Any = HfApi()
        seen: dict[str, Any] = {"refused": []}
        head = api.model_info("acme/refs").sha
        api.create_tag("acme/refs", tag="v1.0.0", tag_message="first")
        api.create_tag("acme/refs", tag="v1.0.1", revision=head[:9])
        api.create_branch("acme/refs", branch="feat/x", revision="v1.0.0")
        api.upload_file(path_or_fileobj=b"1", path_in_repo="x.txt", repo_id="acme/refs", revision="feat/x")
        attempts: Any = (
            lambda: api.create_tag("acme/refs", tag="v1.0.0"),
            lambda: api.create_tag("acme/refs", tag="v2", revision="missing"),
            lambda: api.create_tag("acme/refs", tag="bad name"),
            lambda: api.create_branch("acme/refs", branch="feat/x"),
            lambda: api.delete_branch("acme/refs", branch="main"),
            lambda: api.delete_branch("acme/refs", branch="missing"),
        )
        for attempt in attempts:
            try:
                attempt()
            except HfHubHTTPError as error:
                seen["refused"].append(error.response.status_code)
        api.create_tag("acme/refs", tag="v1.0.0", exist_ok=True)
        refs = api.list_repo_refs("acme/refs")
        seen["tags"] = {ref.name: ref.target_commit == head for ref in refs.tags}
        seen["branches"] = {ref.name: ref.target_commit == head for ref in refs.branches}
        seen["commits"] = [commit.title for commit in api.list_repo_commits("acme/refs", revision="feat/x")]
        api.delete_tag("acme/refs", tag="v1.0.0")
        api.delete_branch("acme/refs", branch="feat/x")
        refs = api.list_repo_refs("acme/refs")
        seen["left"] = [ref.ref for ref in refs.branches + refs.tags]
        return seen

    prepare(hub, "acme/refs", kind="model")
    assert run_client(hub, versions, home=tmp_path, token=hub.token()) == {
        "refused": [409, 404, 400, 409, 403, 404],
        "tags": {"v1.0.0": True, "v1.0.1": True},
        "branches": {"main": True, "feat/x": False},
        "commits": ["Upload x.txt with huggingface_hub", "content", "initial commit"],
        "left": ["refs/heads/main", "refs/tags/v1.0.1"],
    }


def test_long_lists_come_in_pages(hub: RunningHub, tmp_path: Path) -> None:
    def walk() -> list[int]:
        from huggingface_hub import HfApi

        api: Any = HfApi()
        names = [node.path for node in api.list_repo_tree("acme/long", "many", repo_type="dataset")]
        expanded = list(api.list_repo_tree("acme/long", "many", repo_type="dataset", expand=True))
        commits = api.list_repo_commits("acme/long", repo_type="dataset")
        return [len(names), len(set(names)), len(expanded), len({commit.commit_id for commit in commits})]

    repo = prepare(hub, "acme/long")
    files = dict(repo.resolve("main").files)
    for number in range(1001):
        files[f"many/{number:04d}.txt"] = File.regular(str(number).encode())
    for number in range(60):
        repo.commit(HEADS + "main", files, author="owner", title=f"commit {number}")
    first = request(hub, "GET", "/api/datasets/acme/long/tree/main/many?recursive=true")
    assert (len(first.json()), first.headers["link"]) == (
        1000,
        f'<{hub.endpoint}/api/datasets/acme/long/tree/main/many?recursive=true&cursor=1000>; rel="next"',
    )
    before = len(hub.calls)
    assert run_client(hub, walk, home=tmp_path) == [1001, 1001, 1001, 62]
    assert len(hub.calls) - before == 2 + 21 + 2


# --- files


def test_downloads(hub: RunningHub, tmp_path: Path) -> None:
    def download(head: str) -> list[Any]:
        from pathlib import Path

        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        folder = Path(snapshot_download("acme/down", repo_type="dataset"))
        local = Path(snapshot_download("acme/down", repo_type="dataset", revision=head, local_dir="local"))
        errors = []
        for name, revision in (("none.txt", "main"), ("README.md", "none")):
            try:
                hf_hub_download("acme/down", name, revision=revision, repo_type="dataset")
            except HfHubHTTPError as error:
                errors.append([type(error).__name__, error.response.status_code])
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        same = (folder / "data/big.bin").read_bytes() == (local / "data/big.bin").read_bytes()
        return [folder.name == head, names, same, (local / "data/a b.txt").read_text(), errors]

    head = prepare(hub, "acme/down").resolve("main")
    assert run_client(hub, download, head.sha, home=tmp_path) == [
        True,
        [".gitattributes", "README.md", "data/a b.txt", "data/big.bin"],
        True,
        "0123456789",
        [["RemoteEntryNotFoundError", 404], ["RevisionNotFoundError", 404]],
    ]
    assert (tmp_path / "local/data/big.bin").read_bytes() == LARGE


# --- datasets and cards


def push(repo_id: str) -> None:
    from datasets import Dataset, DatasetDict

    for config, start in (("moderate", 0), ("exploratory", 100)):
        splits = {"train": range(start, start + 50), "test": range(start + 50, start + 60)}
        tables = {
            name: Dataset.from_dict({"x": list(rows), "t": [config] * len(rows)}) for name, rows in splits.items()
        }
        DatasetDict(tables).push_to_hub(repo_id, config, set_default=config == "moderate", private=True)


def load(repo_id: str, config: str | None, revision: str | None) -> dict[str, Any]:
    from datasets import load_dataset

    loaded = load_dataset(repo_id, config, revision=revision)
    streamed = load_dataset(repo_id, config, revision=revision, split="train", streaming=True)
    return {
        "splits": {name: [len(split), sum(split["x"])] for name, split in loaded.items()},
        "configs": sorted(set(loaded["train"]["t"])),
        "streamed": sum(row["x"] for row in streamed),
    }


@BOTH_WAYS
def test_push_and_load_datasets(hub: RunningHub, tmp_path: Path, xet: bool) -> None:
    name = f"acme/pushed-{xet}"
    run_client(hub, push, name, home=tmp_path / "push", token=hub.token(), xet=xet)
    repo = hub.store.repos["dataset", name]
    released = repo.resolve("main")
    assert repo.private
    assert sorted(path for path in released.files if path.startswith("moderate")) == [
        "moderate/test-00000-of-00001.parquet",
        "moderate/train-00000-of-00001.parquet",
    ]
    repo.create_ref("refs/tags/v1.0.0", released)
    repo.commit(HEADS + "main", {"README.md": released.files["README.md"]}, author="owner", title="data gone")
    moderate = {"splits": {"train": [50, 1225], "test": [10, 545]}, "configs": ["moderate"], "streamed": 1225}
    exploratory = {"splits": {"train": [50, 6225], "test": [10, 1545]}, "configs": ["exploratory"], "streamed": 6225}
    for home, config, revision, result in (
        ("tag", "exploratory", "v1.0.0", exploratory),
        ("sha", None, released.sha, moderate),
    ):
        args = {"home": tmp_path / home, "token": hub.token("reader"), "xet": xet}
        loaded = run_client(hub, load, name, config, revision, **args)
        assert loaded == result
    assert failure(hub, tmp_path / "out", "outsider", load, name, None, None) == ("DatasetNotFoundError", None)
    assert failure(hub, tmp_path / "wrong", "hf_nobody", load, name, None, None) == ("HfHubHTTPError", 401)


def test_cards(hub: RunningHub, tmp_path: Path) -> None:
    def cards() -> list[Any]:
        from huggingface_hub import DatasetCard, HfApi, ModelCard

        HfApi().create_repo("acme/cards", repo_type="dataset")
        HfApi().create_repo("acme/cards")
        DatasetCard("---\nlicense: mit\nconfigs: []\n---\n# Data\n").push_to_hub("acme/cards")
        ModelCard("---\nlicense: apache-2.0\n---\n# Model\n").push_to_hub("acme/cards")
        return [DatasetCard.load("acme/cards").data.license, ModelCard.load("acme/cards").text.strip()]

    def invalid() -> None:
        from huggingface_hub import ModelCard

        ModelCard("---\nlicense: nonsense\n---\n").push_to_hub("acme/cards")

    assert run_client(hub, cards, home=tmp_path, token=hub.token()) == ["mit", "# Model"]
    with pytest.raises(ClientError, match=r'ValueError.*\\"license\\" must be one of'):
        run_client(hub, invalid, home=tmp_path, token=hub.token())


# --- who may do what


@pytest.mark.parametrize(
    ("user", "raised"),
    [
        ("reader", ("HfHubHTTPError", 403)),
        ("outsider", ("RepositoryNotFoundError", 404)),
        ("hf_nobody", ("HfHubHTTPError", 401)),
        (None, ("RepositoryNotFoundError", 401)),
    ],
)
def test_access_seen_by_the_client(hub: RunningHub, tmp_path: Path, user: str | None, raised: tuple[str, int]) -> None:
    def upload(repo_id: str) -> None:
        from huggingface_hub import upload_file

        upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=repo_id, repo_type="dataset")

    repo = prepare(hub, f"acme/seen-{user}", private=True)
    assert failure(hub, tmp_path, user, upload, repo.id) == raised
    assert "x.txt" not in repo.resolve("main").files
