"""The forms that clients hide: nodes, headers, ranges, refusals."""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.hub.client import Reply, request, run_client
from tests.hub.commits import matches, upload_mode
from tests.hub.fixtures import hub as hub
from tests.hub.gitobjects import blob_oid, commit_oid, lfs_pointer, sha256, tree_oids
from tests.hub.sample import CARD, LARGE, prepare
from tests.hub.server import RunningHub
from tests.hub.store import HEADS, File, now


def assert_refused(reply: Reply, status: int, code: str | None, message: str) -> None:
    assert (reply.status, reply.headers.get("x-error-code")) == (status, code)
    assert message in reply.headers["x-error-message"]
    assert message in reply.json()["error"]
    assert reply.headers["x-request-id"]


@pytest.fixture
def repo_name(request: pytest.FixtureRequest) -> str:
    """A repository name of the test's own."""
    return hashlib.sha256(request.node.name.encode()).hexdigest()[:12]


# --- objects


def test_oids_are_those_of_git() -> None:
    assert blob_oid(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert tree_oids({}) == {"": "4b825dc642cb6eb9a060e54bf8d69288fbee4904"}
    oids = tree_oids({path: blob_oid(b"hello\n") for path in ("a.txt", "a/b/c.txt", "a/b.txt", "a-b")})
    assert oids == {
        "": "17378d9e7836a1431592b1a076608b772e33c268",
        "a": "dad121402e4641fc3e4b274057ac8b3f7b03e3a1",
        "a/b": "2bcada35da78a7011b5497fcf851bb11e2353a39",
    }


def test_commit_oid_covers_its_parent() -> None:
    date, tree = now(), tree_oids({})[""]
    first = commit_oid(tree=tree, parent=None, author="owner", date=date, message="one")
    assert commit_oid(tree=tree, parent=None, author="owner", date=date, message="one") == first
    assert commit_oid(tree=tree, parent=first, author="owner", date=date, message="one") != first


@pytest.mark.parametrize(
    ("path", "size", "sample", "mode"),
    [
        ("train.parquet", 4, b"text", "lfs"),
        ("deep/train.parquet", 4, b"text", "lfs"),
        ("notes.md", 4, b"text", "regular"),
        ("notes.md", 512, "é".encode() * 256, "regular"),
        ("notes.md", 512, b"x" + ("é".encode() * 256)[:511], "regular"),
        ("notes.md", 4, b"a\0b", "lfs"),
        ("notes.md", 4, b"\xff\xfe", "lfs"),
        ("notes.md", 10 * 2**20 + 1, b"text", "lfs"),
    ],
)
def test_upload_mode(path: str, size: int, sample: bytes, mode: str) -> None:
    assert upload_mode(path, size, sample, "*.parquet filter=lfs diff=lfs merge=lfs -text\n") == mode


def test_patterns_match_folders_above() -> None:
    assert matches("build/a.txt", "build/")
    assert matches("a/logs/x.txt", "a/logs")
    assert not matches("a/logs/x.txt", "b/logs")


# --- accounts and repositories


def test_agent_harnesses_is_an_object(hub: RunningHub) -> None:
    assert request(hub, "GET", "/api/agent-harnesses").json() == {"standardEnvVars": [], "harnesses": {}}


def test_anonymous_has_no_account(hub: RunningHub) -> None:
    body = json.dumps({"name": "anonymous", "organization": "acme"}).encode()
    assert_refused(request(hub, "GET", "/api/whoami-v2"), 401, None, "Invalid username or password.")
    assert_refused(request(hub, "POST", "/api/repos/create", body=body), 401, None, "Invalid username or password.")


def test_repos_are_listed_by_author_and_search(hub: RunningHub) -> None:
    for repo_id in ("acme/listed-one", "acme/listed-two", "owner/listed-one"):
        prepare(hub, repo_id)
    prepare(hub, "acme/listed-one", kind="model")
    for query, ids in (
        ("author=acme&search=Listed-", ["acme/listed-one", "acme/listed-two"]),
        ("search=listed-one", ["acme/listed-one", "owner/listed-one"]),
        ("author=reader", []),
    ):
        assert [repo["id"] for repo in request(hub, "GET", f"/api/datasets?{query}").json()] == ids


def test_pull_requests_are_listed_on_demand(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/on-demand")
    repo.create_ref("refs/pr/1", repo.resolve("main"))
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.resolve("main").sha}
    pull = {"name": "1", "ref": "refs/pr/1", "targetCommit": repo.resolve("main").sha}
    branches = {"branches": [main], "tags": [], "converts": []}
    assert request(hub, "GET", "/api/datasets/acme/on-demand/refs").json() == branches
    assert request(hub, "GET", "/api/datasets/acme/on-demand/refs?include_prs=1").json() == {
        **branches,
        "pullRequests": [pull],
    }


def test_tree_and_paths_info_nodes(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/nodes")
    content = repo.resolve("main")
    repo.commit(HEADS + "main", {**content.files, "z.txt": File.regular(b"")}, author="owner", title="later")
    folder, card = content.folders["data"], blob_oid(CARD.encode())
    pointer = lfs_pointer(sha256(LARGE), len(LARGE))
    large = {"oid": sha256(LARGE), "size": len(LARGE), "pointerSize": len(pointer)}
    big = {"type": "file", "oid": blob_oid(pointer), "size": len(LARGE), "path": "data/big.bin", "lfs": large}
    api = "/api/datasets/acme/nodes"
    assert request(hub, "GET", f"{api}/tree/main").json()[1:3] == [
        {"type": "file", "oid": card, "size": len(CARD), "path": "README.md"},
        {"type": "directory", "oid": folder, "size": 0, "path": "data"},
    ]
    assert request(hub, "GET", f"{api}/tree/main?recursive=true").json()[-2] == big
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b"paths=data%2Fbig.bin&paths=none&paths=data&expand=true"
    shown = request(hub, "POST", f"{api}/paths-info/{repo.resolve('main').sha}", body=body, headers=form).json()
    last = {"id": content.sha, "title": "content", "date": shown[0]["lastCommit"]["date"]}
    assert shown[0] == {**big, "lastCommit": last, "securityFileStatus": shown[0]["securityFileStatus"]}
    assert [node["path"] for node in shown] == ["data/big.bin", "data"]
    assert_refused(request(hub, "GET", f"{api}/tree/main/none"), 404, "EntryNotFound", "none does not exist")
    assert_refused(request(hub, "GET", f"{api}/tree/none"), 404, "RevisionNotFound", "Invalid rev id: none")


def test_repo_info(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/info")
    head = repo.resolve("main")
    shown = request(hub, "GET", f"/api/datasets/acme/info/revision/{head.sha[:10]}?blobs=true").json()
    assert (shown["sha"], shown["author"], shown["private"]) == (head.sha, "acme", False)
    assert (shown["cardData"], shown["tags"]) == ({"license": "mit", "tags": ["pairs"]}, ["pairs"])
    assert shown["siblings"][-1]["lfs"]["sha256"] == sha256(LARGE)
    assert shown["siblings"][1] == {"rfilename": "README.md", "size": len(CARD), "blobId": blob_oid(CARD.encode())}
    assert sorted(request(hub, "GET", "/api/datasets/acme/info?expand=sha").json()) == ["_id", "id", "sha"]


# --- commits


def commit_raw(hub: RunningHub, repo_id: str, *operations: tuple[str, dict[str, Any]]) -> Reply:
    lines = [("header", {"summary": "raw", "description": ""}), *operations]
    body = "".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in lines).encode()
    return request(hub, "POST", f"/api/datasets/{repo_id}/commit/main", token=hub.token(), body=body)


def text(path: str, content: str) -> tuple[str, dict[str, Any]]:
    return "file", {"path": path, "content": base64.b64encode(content.encode()).decode(), "encoding": "base64"}


@pytest.mark.parametrize(
    ("operation", "status", "code", "message"),
    [
        (text("../a", "x"), 422, None, "Invalid path"),
        (text("README.md", "---\nlicense: nonsense\n---\n"), 400, None, '"license" must be one of'),
        (text("README.md", "---\na: [\n---\n"), 400, None, "Invalid YAML"),
        (("lfsFile", {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}), 400, None, "does not exist"),
        (("deletedFile", {"path": "none"}), 404, "EntryNotFound", "A file with this name doesn't exist"),
        (("deletedFolder", {"path": "none/"}), 404, "EntryNotFound", "A folder with this name doesn't exist"),
        (("header", {"summary": "raw", "parentCommit": "0" * 40}), 412, None, "The branch was updated since"),
    ],
)
def test_a_refused_commit_changes_nothing(
    hub: RunningHub, repo_name: str, operation: tuple[str, dict[str, Any]], status: int, code: str, message: str
) -> None:
    repo = prepare(hub, f"acme/{repo_name}")
    head = repo.resolve("main")
    assert_refused(commit_raw(hub, repo.id, text("good.txt", "good"), operation), status, code, message)
    assert repo.resolve("main") is head
    assert commit_raw(hub, repo.id, text("good.txt", "good")).status == 200
    assert repo.resolve("main").files["good.txt"].data == b"good"


def test_of_many_commits_on_one_parent_one_wins(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/race")
    header = ("header", {"summary": "raw", "parentCommit": repo.resolve("main").sha})

    def contend(number: int) -> int:
        return commit_raw(hub, repo.id, header, text(f"{number}.txt", "x")).status

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(contend, range(8))) == [200] + [412] * 7
    assert sum(path.endswith(".txt") for path in repo.resolve("main").files) == 2, "the winner's and the one before"


# --- files


def test_resolve(hub: RunningHub) -> None:
    head = prepare(hub, "acme/files").resolve("main")
    address = "/datasets/acme/files/resolve/main/data/a%20b.txt"
    whole, looked = request(hub, "GET", address), request(hub, "HEAD", address)
    assert (whole.status, whole.body, looked.status, looked.body) == (200, b"0123456789", 200, b"")
    for reply in (whole, looked):
        assert reply.headers["etag"] == f'"{blob_oid(b"0123456789")}"'
        assert (reply.headers["x-repo-commit"], reply.headers["content-length"]) == (head.sha, "10")
    for asked, content, shown in (
        ("2-4", b"234", "bytes 2-4/10"),
        ("7-", b"789", "bytes 7-9/10"),
        ("-2", b"89", "bytes 8-9/10"),
        ("8-99", b"89", "bytes 8-9/10"),
    ):
        part = request(hub, "GET", address, headers={"Range": f"bytes={asked}"})
        assert (part.status, part.body, part.headers["content-range"]) == (206, content, shown)
    past = request(hub, "GET", address, headers={"Range": "bytes=10-"})
    assert (past.status, past.headers["content-range"]) == (416, "bytes */10")
    missing = request(hub, "GET", "/datasets/acme/files/resolve/main/none.txt")
    assert_refused(missing, 404, "EntryNotFound", "Entry not found")
    assert missing.headers["x-repo-commit"] == head.sha


def test_large_files_are_elsewhere(hub: RunningHub) -> None:
    head = prepare(hub, "acme/large").resolve("main")
    for method in ("HEAD", "GET"):
        moved = request(hub, method, "/datasets/acme/large/resolve/main/data/big.bin")
        assert (moved.status, moved.headers["x-linked-size"]) == (302, str(len(LARGE)))
        assert moved.headers["x-linked-etag"] == f'"{sha256(LARGE)}"'
        assert moved.headers["x-repo-commit"] == head.sha
    origin, path = moved.headers["location"].split("/cdn/")
    assert origin == hub.endpoint.replace("127.0.0.1", "localhost")
    part = request(hub, "GET", f"/cdn/{path}", headers={"Range": "bytes=1-5"})
    assert (part.status, part.body, part.headers["etag"]) == (206, b"large", f'"{sha256(LARGE)}"')


def test_fault_hits_once(hub: RunningHub) -> None:
    prepare(hub, "acme/faulty")
    hub.fail_next("POST", "/acme/faulty/commit/", 503, "busy")
    assert request(hub, "GET", "/api/datasets/acme/faulty").status == 200
    assert_refused(commit_raw(hub, "acme/faulty", text("a.txt", "a")), 503, None, "busy")
    assert commit_raw(hub, "acme/faulty", text("a.txt", "a")).status == 200


def test_unknown_address_is_no_missing_file(hub: RunningHub) -> None:
    assert_refused(request(hub, "GET", "/api/datasets/acme/x/resource-group"), 404, None, "Not Found")
    assert_refused(request(hub, "PUT", "/upload/0123", body=b"x"), 403, None, "signature")


def test_upload_of_other_bytes_is_refused(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/other-bytes")
    asked = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": sha256(b"good"), "size": 4}]}
    address = "/datasets/acme/other-bytes.git/info/lfs/objects"
    plan = request(hub, "POST", f"{address}/batch", token=hub.token(), body=json.dumps(asked).encode()).json()
    upload = "/upload/" + plan["objects"][0]["actions"]["upload"]["href"].split("/upload/")[1]
    check = json.dumps({"oid": sha256(b"good"), "size": 4}).encode()
    assert request(hub, "PUT", upload, body=b"evil").status == 400
    assert request(hub, "POST", f"{address}/verify", token=hub.token(), body=check).status == 404
    assert request(hub, "PUT", upload, body=b"good").status == 200
    assert request(hub, "POST", f"{address}/verify", token=hub.token(), body=check).status == 200
    again = request(hub, "POST", f"{address}/batch", token=hub.token(), body=json.dumps(asked).encode()).json()
    assert "actions" not in again["objects"][0], "what is stored is not sent again"
    assert sha256(b"good") in repo.large


# --- who may do what


@pytest.mark.parametrize(
    ("user", "read", "write"),
    [
        ("owner", None, None),
        ("reader", None, (403, None, "write access")),
        ("outsider", (404, "RepoNotFound", "Repository not found"), (404, "RepoNotFound", "Repository not found")),
        ("hf_nobody", (401, None, "Invalid credentials in Authorization header"), (401, None, "Invalid credentials")),
        (None, (401, "RepoNotFound", "Invalid username or password."), (401, "RepoNotFound", "Invalid username")),
    ],
)
def test_access_to_a_private_repo(hub: RunningHub, user: str | None, read: Any, write: Any) -> None:
    repo = prepare(hub, f"acme/private-{user}", private=True)
    token = hub.token(user) if user in hub.store.users else user
    api, page = f"/api/datasets/{repo.id}", f"/datasets/{repo.id}"
    batch = {"operation": "upload", "transfers": ["basic"], "objects": []}
    for method, address, body, refusal in (
        ("GET", api, None, read),
        ("GET", f"{api}/tree/main", None, read),
        ("GET", f"{page}/resolve/main/README.md", None, read),
        ("POST", f"{api}/tag/main", {"tag": "v1"}, write),
        ("POST", f"{api}/preupload/main", {"files": []}, write),
        ("POST", f"{page}.git/info/lfs/objects/batch", batch, write),
        ("POST", f"{api}/commit/main", {"key": "header", "value": {"summary": "s"}}, write),
        ("DELETE", f"{api}/tag/v1", None, write),
    ):
        reply = request(hub, method, address, token=token, body=json.dumps(body).encode() if body else None)
        if refusal:
            assert_refused(reply, *refusal)
        else:
            assert reply.status == 200, address
    listed = request(hub, "GET", "/api/datasets?author=acme", token=token)
    assert listed.status == 401 if user == "hf_nobody" else (repo.id in listed.body.decode()) == (read is None)


# --- the Hub as a tool


def test_client_prints_json_on_its_last_line(hub: RunningHub, tmp_path: Path) -> None:
    snippet = """
        import json, os
        print("noise")
        print(json.dumps([os.environ["HF_ENDPOINT"], "HF_TOKEN" in os.environ]))
    """
    assert run_client(hub, snippet, home=tmp_path) == [hub.endpoint, False]
    with pytest.raises(RuntimeError, match="the client ended with 3"):
        run_client(hub, "import sys; sys.exit(3)", home=tmp_path)
