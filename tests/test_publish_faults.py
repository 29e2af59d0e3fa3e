"""Publishing over a bad line: whatever breaks, nobody sees half a release, and publishing again completes it.

The clients are unpatched. They repeat some requests themselves and give up on others; either way the Hub must hold
nothing of the release, or all of it, and the tag only on all of it.
"""

import hashlib
import json

import pytest

from tests.builds import built
from tests.hub.client import ClientError, run_client
from tests.hub.sample import prepare
from tests.hub.store import File
from udasa.publish import publish

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return built(tmp_path_factory.mktemp("faulty") / "build")


@pytest.fixture(scope="module")
def tables(build, tmp_path_factory):
    """Every table of the release, as a folder holds it."""
    folder = tmp_path_factory.mktemp("expected") / "release"
    publish(build, str(folder), version="1.0.0")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}


def publish_twice(build, repo):
    """What a user sees who publishes, is told something or nothing, and publishes again."""
    from pathlib import Path

    from huggingface_hub import HfApi

    from udasa.publish import publish

    try:
        publish(Path(build), repo, version="1.0.0")
        told = None
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    tags = [tag.name for tag in HfApi().list_repo_refs(repo, repo_type="dataset").tags]
    files = HfApi().list_repo_files(repo, repo_type="dataset")
    again = publish(Path(build), repo, version="1.0.0")
    return {"told": told, "tags": tags, "files": files, "commit": again.commit}


def refuse(status, method, *paths, **more):
    return lambda hub: [hub.fail_next(method, path, status, **more) for path in paths]


REPAIRED = {
    "busy": refuse(429, "POST", "/preupload/", "/v1/xorbs/", retry_after=1),
    "failing uploads": refuse(500, "POST", "/v1/xorbs/", "/v2/shards"),
    "failing tokens and downloads": refuse(500, "GET", "/xet-write-token/", "/xet-read-token/", "/v2/reconstructions/"),
    "upload cut": lambda hub: hub.cut_next_request("POST", "/v1/xorbs/", 10_000),
    "answer to an upload cut": lambda hub: hub.cut_next_answer("POST", "/v1/xorbs/", 5),
    "download cut": lambda hub: hub.cut_next_answer("GET", "/xorb/", 1_000),
    "slow": lambda hub: [hub.delay_next("POST", path, 1.5) for path in ("/v1/xorbs/", "/commit/", "/tag/")],
}
"""The clients repeat these requests, or wait: the user notices nothing."""

ENDING = {
    "head moved": refuse(412, "POST", "/commit/"),
    "busy at the commit": refuse(429, "POST", "/commit/", retry_after=1),
    "failing at the commit": refuse(500, "POST", "/commit/"),
    "failing at the tag": refuse(500, "POST", "/tag/"),
    "upload refused": refuse(400, "POST", "/v1/xorbs/"),
    "commit cut": lambda hub: hub.cut_next_request("POST", "/commit/", 1_000),
    "answer to the commit cut": lambda hub: hub.cut_next_answer("POST", "/commit/", 10),
    "answer to the tag cut": lambda hub: hub.cut_next_answer("POST", "/tag/", 1),
}
"""The clients do not repeat these, so a `publish` that does not either ends with an error."""

BY_LFS = {
    "upload cut": lambda hub: hub.cut_next_request("PUT", "/upload/", 1_000),
    "failing uploads": refuse(500, "PUT", "/upload/"),
    "download cut": lambda hub: hub.cut_next_answer("GET", "/cdn/", 1_000),
}
CASES = [
    *((fault, True) for fault in (REPAIRED | ENDING).items()),
    *((fault, False) for fault in BY_LFS.items()),
]


@pytest.mark.parametrize(
    ("fault", "xet"), CASES, ids=[f"{name}, by {'Xet' if xet else 'LFS'}" for (name, _), xet in CASES]
)
def test_a_fault_leaves_no_half_release(hub, build, tables, tmp_path, fault, xet):
    name, inject = fault
    repo_id = f"acme/{'xet' if xet else 'lfs'}-{name.replace(' ', '-')}"
    inject(hub)
    before = len(hub.calls)
    args = {"home": tmp_path, "token": hub.token(), "timeout": 600}
    found = run_client(hub, publish_twice, str(build), repo_id, xet=xet, **args)
    assert hub.faults_left() == 0, "every fault struck"
    repo = hub.store.repos["dataset", repo_id]
    assert repo.refs == {"refs/heads/main": found["commit"], "refs/tags/v1.0.0": found["commit"]}
    assert len(repo.commits) == 2, "the initial commit and the release, nothing in between"
    release = repo.resolve("v1.0.0").files
    stored = {path: hub.store.content(file) for path, file in release.items()}
    assert {path: data for path, data in stored.items() if path.endswith(".parquet")} == tables
    assert any("/lfs/objects/batch" in call.path for call in hub.calls[before:]) is not xet
    for path, facts in json.loads(stored["manifest.json"])["files"].items():
        assert hashlib.sha256(stored[path]).hexdigest() == facts["sha256"], path
    assert sorted(found["files"]) in ([".gitattributes"], sorted(release)), "nothing or all of it"
    if found["told"] is None or found["tags"]:
        assert (found["tags"], sorted(found["files"])) == (["v1.0.0"], sorted(release))
    if name in REPAIRED:
        assert found["told"] is None


def load(repo, revision):
    """Rows of the default config, loaded and streamed, as a user gets them."""
    from datasets import load_dataset

    loaded = load_dataset(repo, revision=revision, split="train")
    streamed = load_dataset(repo, revision=revision, split="train", streaming=True)
    return [list(loaded["prompt_id"]), [row["prompt_id"] for row in streamed]]


@pytest.mark.parametrize("xet", [True, False], ids=["by Xet", "by LFS"])
def test_a_reader_gets_every_row_over_a_cut_connection(hub, build, tmp_path, xet):
    def release(build, repo):
        from pathlib import Path

        from udasa.publish import publish

        return publish(Path(build), repo, version="1.0.0").commit

    repo = f"acme/read-{xet}"
    run_client(hub, release, str(build), repo, home=tmp_path / "owner", token=hub.token())
    args, reader = (repo, "v1.0.0"), hub.token("reader")
    whole = run_client(hub, load, *args, home=tmp_path / "whole", token=reader, xet=xet)
    hub.cut_next_answer("GET", "/xorb/" if xet else "/cdn/", 1_000, times=2)
    assert run_client(hub, load, *args, home=tmp_path / "cut", token=reader, xet=xet) == whole
    assert hub.faults_left() == 0
    assert whole[0] == whole[1] and len(whole[0]) > 20


# --- other writers, and a Hub that fails


def publish_to_hub(build, repo, version, private=True):
    from pathlib import Path

    from udasa.publish import publish

    return list(publish(Path(build), repo, version=version, private=private))[:4]


def writes(hub, repo, path, content):
    """Another writer's commit on main."""

    def act():
        there = hub.store.repos["dataset", repo]
        files = {**there.resolve("main").files, path: File.regular(content)}
        there.commit("refs/heads/main", files, author="owner", title="another writer")

    return act


def test_a_commit_beside_the_release_is_kept_and_the_release_goes_on_top(hub, build, tmp_path):
    repo = "acme/udasa-beside"
    hub.act_before("POST", "/commit/", writes(hub, repo, "notes/plan.md", b"mine"), times=2)
    commit = run_client(hub, publish_to_hub, str(build), repo, "1.0.0", home=tmp_path, token=hub.token())[3]
    there = hub.store.repos["dataset", repo]
    assert [c.title for c in there.history(there.resolve("main"))] == [
        "Release v1.0.0",
        "another writer",
        "another writer",
        "initial commit",
    ]
    assert there.resolve("v1.0.0").sha == commit == there.resolve("main").sha
    assert there.resolve("main").files["notes/plan.md"].data == b"mine"


@pytest.mark.parametrize("path", ["README.md", "data/moderate/train-00000-of-00001.parquet", "data/extra.parquet"])
def test_a_commit_that_touches_the_release_stops_it(hub, build, tmp_path, path):
    repo = f"acme/udasa-{path.replace('/', '-').replace('.', '-').lower()}"
    hub.act_before("POST", "/commit/", writes(hub, repo, path, b"theirs"))
    with pytest.raises(ClientError, match=r"\(412\): commit [0-9a-f]{40} touched .*Nothing was published") as stopped:
        run_client(hub, publish_to_hub, str(build), repo, "1.0.0", home=tmp_path, token=hub.token())
    assert stopped.value.type == "UserError" and path in stopped.value.message
    there = hub.store.repos["dataset", repo]
    assert there.resolve("main").title == "another writer" and list(there.refs) == ["refs/heads/main"]
    found = run_client(hub, publish_to_hub, str(build), repo, "1.0.0", home=tmp_path, token=hub.token())
    assert there.resolve("v1.0.0").sha == found[3]
    assert there.resolve("main").files.get(path) != File.regular(b"theirs")


def test_a_repository_that_never_rests_is_given_up(hub, build, tmp_path):
    from udasa.publish.hub import ATTEMPTS

    repo = "acme/udasa-restless"
    hub.act_before("POST", "/commit/", writes(hub, repo, "log.txt", b"tick"), times=ATTEMPTS)
    with pytest.raises(ClientError, match=rf"changed {ATTEMPTS} times .*nothing was published"):
        run_client(hub, publish_to_hub, str(build), repo, "1.0.0", home=tmp_path, token=hub.token())
    assert list(hub.store.repos["dataset", repo].refs) == ["refs/heads/main"]


@pytest.mark.parametrize(
    ("path", "status", "more", "message"),
    [
        ("/commit/", 412, {}, "changed while this release was being prepared; nothing was published"),
        ("/commit/", 429, {"retry_after": 7}, r"slow down \(429\); nothing was published. Run it again in 7 s"),
        ("/commit/", 500, {}, r"The Hub failed \(500\); no release was tagged"),
        ("/tag/", 500, {}, "commit [0-9a-f]{40} is there, its tag may not be: publish again to complete it"),
    ],
)
def test_a_failure_says_what_is_there_and_publishing_again_completes_it(
    hub, build, tmp_path, path, status, more, message
):
    repo = f"acme/udasa{path.replace('/', '-')}{status}"
    hub.fail_next("POST", path, status, **more)
    with pytest.raises(ClientError, match=message) as failed:
        run_client(hub, publish_to_hub, str(build), repo, "1.0.0", home=tmp_path, token=hub.token())
    assert failed.value.type == "UserError"
    there = hub.store.repos["dataset", repo]
    assert list(there.refs) == ["refs/heads/main"]
    assert len(there.commits) == (2 if path == "/tag/" else 1)
    commit = run_client(hub, publish_to_hub, str(build), repo, "1.0.0", home=tmp_path, token=hub.token())[3]
    assert there.resolve("v1.0.0").sha == commit and len(there.commits) == 2


def test_a_branch_that_would_hide_the_tag_is_refused(hub, build, tmp_path):
    there = prepare(hub, "acme/udasa-branch", private=True)
    there.create_ref("refs/heads/v1.0.0", there.resolve("main"))
    with pytest.raises(ClientError, match=r"has a branch named v1\.0\.0, which hides the tag; nothing was published"):
        run_client(hub, publish_to_hub, str(build), "acme/udasa-branch", "1.0.0", home=tmp_path, token=hub.token())
