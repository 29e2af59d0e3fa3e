"""Publishing to the test Hub with unpatched clients: one commit, a tag, who may see it, its versions, the token."""

import json
import subprocess
import sys

import pytest

from tests.builds import built, recipe
from tests.hub.client import ClientError, client_env, run_client
from tests.hub.sample import prepare
from udasa.publish import publish
from udasa.recipe import Pairing, Staging
from udasa.restage import restage

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return built(tmp_path_factory.mktemp("published") / "build")


def publish_to_hub(build, repo, version, private=True):
    from pathlib import Path

    from udasa.publish import publish

    return list(publish(Path(build), repo, version=version, private=private))[:4]


def load_from_hub(repo, revision):
    from datasets import load_dataset

    stages = {c: load_dataset(repo, c, revision=revision) for c in ("conservative", "moderate", "exploratory")}
    first = next(iter(load_dataset(repo, "exploratory", split="train", streaming=True, revision=revision)))
    return {
        "stages": {name: {split: data[split].num_rows for split in data} for name, data in stages.items()},
        "all": sum(split.num_rows for split in load_dataset(repo, revision=revision).values()),
        "streamed": first["prompt_id"] == stages["exploratory"]["train"][0]["prompt_id"],
        "snapshot": len(__import__("huggingface_hub").snapshot_download(repo, repo_type="dataset", revision=revision)),
    }


def commits(repo):
    from huggingface_hub import HfApi

    api = HfApi()
    refs = api.list_repo_refs(repo, repo_type="dataset")
    return {
        "commits": [c.commit_id for c in api.list_repo_commits(repo, repo_type="dataset")],
        "tags": {tag.name: tag.target_commit for tag in refs.tags},
        "private": api.repo_info(repo, repo_type="dataset").private,
    }


@pytest.fixture(scope="module")
def released(hub, build, tmp_path_factory):
    home = tmp_path_factory.mktemp("owner")
    token = hub.token("owner")
    target, version, digest, commit = run_client(
        hub, publish_to_hub, str(build), "acme/udasa-fake", "1.0.0", home=home, token=token
    )
    return {"repo": target, "version": version, "digest": digest, "commit": commit, "home": home, "token": token}


def test_a_release_is_one_commit_and_a_tag(hub, released):
    found = run_client(hub, commits, released["repo"], home=released["home"], token=released["token"])
    assert found["tags"] == {"v1.0.0": released["commit"]}
    assert found["commits"][0] == released["commit"] and len(found["commits"]) == 2
    assert found["private"] is True


@pytest.mark.parametrize("by", ["tag", "sha"])
def test_a_release_loads_with_a_fresh_cache(hub, released, build, tmp_path, by):
    revision = "v1.0.0" if by == "tag" else released["commit"]
    found = run_client(hub, load_from_hub, released["repo"], revision, home=tmp_path, token=released["token"])
    publish(build, str(tmp_path / "local"), version="1.0.0")
    manifest = json.loads((tmp_path / "local" / "manifest.json").read_text())
    stages = manifest["counts"]["stages"]
    assert found["stages"] == {name: {s: n for s, n in splits.items() if n} for name, splits in stages.items()}
    assert found["all"] == manifest["counts"]["pairs"]
    assert found["streamed"] is True


def open_pairs(repo):
    from udasa.release import open_release

    opened = open_release(repo, only=["pairs"])
    return [opened.frame("pairs").height, sorted({path.parts[-2] for path in opened.folder.rglob("*.parquet")})]


def test_only_the_tables_that_are_asked_for_are_downloaded(hub, released, tmp_path):
    found = run_client(hub, open_pairs, released["repo"], home=tmp_path, token=released["token"])
    assert found[0] > 0 and found[1] == ["conservative", "exploratory", "moderate"]


def test_publishing_the_same_again_makes_no_commit(hub, released, build):
    args = (str(build), released["repo"], "1.0.0")
    again = run_client(hub, publish_to_hub, *args, home=released["home"], token=released["token"])
    assert again[2:] == [released["digest"], released["commit"]]
    found = run_client(hub, commits, released["repo"], home=released["home"], token=released["token"])
    assert len(found["commits"]) == 2


def test_a_tag_is_never_moved(hub, released, tmp_path):
    other = built(tmp_path / "build", pairing=Pairing(rejected="next"))
    with pytest.raises(
        ClientError, match=r"v1\.0\.0 already has other content; .*pairs replaced \(settings changed\).*such as 2\.0\.0"
    ) as refused:
        run_client(
            hub, publish_to_hub, str(other), released["repo"], "1.0.0", home=released["home"], token=released["token"]
        )
    assert refused.value.type == "UserError"
    found = run_client(hub, commits, released["repo"], home=released["home"], token=released["token"])
    assert found["tags"] == {"v1.0.0": released["commit"]} and len(found["commits"]) == 2


def test_a_new_version_replaces_the_files_and_keeps_the_old_tag(hub, released, tmp_path):
    other = built(tmp_path / "build", staging=Staging(thresholds=(0.0, 0.0)))
    args = (str(other), released["repo"], "2.0.0")
    commit = run_client(hub, publish_to_hub, *args, home=released["home"], token=released["token"])[3]
    found = run_client(hub, commits, released["repo"], home=released["home"], token=released["token"])
    assert found["tags"] == {"v1.0.0": released["commit"], "v2.0.0": commit}
    old = run_client(hub, load_from_hub, released["repo"], "v1.0.0", home=tmp_path / "home", token=released["token"])
    assert old["stages"]["exploratory"]["train"] > 0


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "No Hub token was found|does not accept the token"),
        ("hf_wrong", "does not accept the token"),
        ("outsider", "does not let you write acme/udasa-other"),
    ],
)
def test_a_refused_token_publishes_nothing(hub, build, tmp_path, token, message):
    given = hub.token(token) if token == "outsider" else token
    with pytest.raises(ClientError, match=message) as refused:
        run_client(hub, publish_to_hub, str(build), "acme/udasa-other", "1.0.0", home=tmp_path, token=given)
    assert refused.value.type == "UserError"
    assert str(given) not in refused.value.message.replace("None", "")
    assert "acme/udasa-other" not in str(hub.store)


# --- who may see it


def access(hub, repo):
    there = hub.store.repos["dataset", repo]
    return there.private, there.gated


def publish_for(build, repo, private, gated):
    from pathlib import Path

    from udasa.publish import publish

    return list(publish(Path(build), repo, version="1.0.0", private=private, gated=gated))


@pytest.mark.parametrize(("private", "gated"), [(True, None), (False, None), (False, "auto"), (True, "manual")])
def test_visibility_and_gate_are_set(hub, build, tmp_path, private, gated):
    repo = f"acme/udasa-seen-{private}-{gated}".lower()
    run_client(hub, publish_for, str(build), repo, private, gated, home=tmp_path, token=hub.token())
    assert access(hub, repo) == (private, gated or False)


def test_a_public_repository_is_not_published_to_by_default(hub, build, tmp_path):
    prepare(hub, "acme/udasa-open")
    args = (str(build), "acme/udasa-open")
    with pytest.raises(ClientError, match="is public and this release was to be private; nothing was published"):
        run_client(hub, publish_for, *args, True, None, home=tmp_path, token=hub.token())
    run_client(hub, publish_for, *args, False, None, home=tmp_path, token=hub.token())
    assert "README.md" in hub.store.repos["dataset", "acme/udasa-open"].resolve("v1.0.0").files


def test_a_private_repository_is_opened_once_the_release_is_whole(hub, build, tmp_path):
    prepare(hub, "acme/udasa-closed", private=True)
    hub.fail_next("POST", "/commit/", 500)
    args = (str(build), "acme/udasa-closed", False, None)
    with pytest.raises(ClientError):
        run_client(hub, publish_for, *args, home=tmp_path, token=hub.token())
    assert access(hub, "acme/udasa-closed")[0] is True
    run_client(hub, publish_for, *args, home=tmp_path, token=hub.token())
    assert access(hub, "acme/udasa-closed")[0] is False


# --- versions, verification, differences on the Hub


def life_of_a_data_set(first, second, repo, folder):
    """What a maintainer does: propose, publish, change something, propose, publish, look, verify, rebuild, diff."""
    from pathlib import Path

    from udasa import publish as p
    from udasa.release import open_data, open_release

    a, b = Path(first), Path(second)
    found = {"first": p.propose(a, repo)[:2]}
    found["published"] = p.publish(a, repo, version="auto").version
    found["nothing new"] = p.propose(a, repo)[:2]
    found["again"] = p.publish(a, repo, version="auto").version
    found["second"] = p.propose(b, repo)[:2]
    found["card only"] = p.propose(Path(folder), repo)[:2]
    release = p.publish(b, repo, version="auto")
    found["why"] = release.why
    found["changes"] = open_release(repo).facts["changes"]
    found["problems"] = [p.verify(f"{repo}@{r}").problems for r in ("v1.0.0", "v2.0.0", release.commit)] + [
        p.verify(repo).problems
    ]
    found["rebuilt"] = [p.rebuild_differs(f"{repo}@{tag}").differ for tag in ("v1.0.0", "v2.0.0")]
    found["diff"] = p.diff(open_release(f"{repo}@v1.0.0"), open_data(repo)).summary()
    try:
        p.publish(b, repo, version="1.5.0")
    except ValueError as error:
        found["backwards"] = str(error)
    try:
        open_release(f"{repo}@v9.0.0")
    except ValueError as error:
        found["no such"] = str(error)
    return found


def test_a_data_set_over_two_versions(hub, build, tmp_path):
    other = restage(build, tmp_path / "other", recipe(staging=Staging(thresholds=(0.2, 0.4))))
    mit = restage(build, tmp_path / "mit", recipe(license="mit"))
    args = (str(build), str(other), "acme/udasa-life", str(mit))
    found = run_client(hub, life_of_a_data_set, *args, home=tmp_path / "home", token=hub.token())
    assert (found["first"], found["published"]) == ([[1, 0, 0], "major"], "1.0.0")
    assert (found["nothing new"], found["again"]) == ([[1, 0, 0], "none"], "1.0.0")
    assert found["second"] == [[2, 0, 0], "major"] and found["card only"] == [[1, 0, 1], "patch"]
    assert found["problems"] == [[], [], [], []] and found["rebuilt"] == [[], []]
    assert "pairs moved (thresholds changed)" in found["why"] and found["why"].startswith("major since 1.0.0")
    assert found["changes"]["since"] == "1.0.0"
    assert {**found["changes"], "since": 0} == {
        **{k: v for k, v in found["diff"].items() if k not in ("before", "after")},
        "since": 0,
    }
    assert found["backwards"].startswith("Version 1.5.0 is below the newest one, 2.0.0")
    assert "has no such revision" in found["no such"]
    assert len(hub.store.repos["dataset", "acme/udasa-life"].commits) == 3


# --- the token


def test_the_token_is_nowhere(hub, build, tmp_path):
    """Through the command line, with every library as talkative as it gets; failures talk the most."""
    home, token, repo = tmp_path / "home", hub.token(), "acme/udasa-secret"
    home.mkdir()
    talk = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "DATASETS_VERBOSITY": "debug", "RUST_LOG": "debug"}
    env = client_env(hub, home=home, token=token) | talk
    main = "import logging; logging.basicConfig(level='DEBUG'); from udasa.cli import main; main()"
    said = []

    def udasa(*args):
        done = subprocess.run(
            [sys.executable, "-c", main, *args], cwd=home, env=env, capture_output=True, text=True, timeout=240
        )
        said.append(done.stdout + done.stderr)
        return done.returncode

    hub.fail_next("POST", "/commit/", 500)
    assert udasa("publish", str(build), repo, "--version", "auto") == 2
    assert udasa("publish", str(build), repo, "--version", "auto", "--gated", "auto") == 0
    assert udasa("verify", f"{repo}@v1.0.0") == 0
    assert udasa("rebuild", "--verify", repo) == 0
    assert udasa("rebuild", repo, "-o", "again") == 0
    assert udasa("diff", repo, str(build)) == 0
    assert udasa("inspect", f"{repo}@v1.0.0", "--against", str(build), "-o", "page.html") == 0
    assert all(len(text) > 500 for text in said), "it did talk"
    written = [path for folder in (home, build) for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if token.encode() in path.read_bytes()] == []
    assert not any(token in text for text in said)
    stored = hub.store.repos["dataset", repo].resolve("main").files.values()
    assert not any(token.encode() in hub.store.content(file) for file in stored)


# --- models


def push_model(folder, repo):
    from pathlib import Path

    from huggingface_hub import ModelCard, snapshot_download

    from udasa.publish import publish_model

    commit = publish_model(Path(folder), repo)
    got = Path(snapshot_download(repo, revision=commit))
    return {
        "commit": commit,
        "files": sorted(p.name for p in got.iterdir()),
        "base": ModelCard.load(repo).data.base_model,
    }


def test_an_adapter_is_pushed_with_its_card(hub, tmp_path):
    for name in ("training.json", "adapter_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(ClientError, match="not a finished training: it lacks README"):
        run_client(hub, push_model, str(tmp_path), "acme/adapter", home=tmp_path / "home", token=hub.token("owner"))
    card = "---\nbase_model: org/base\nlibrary_name: peft\nlicense: apache-2.0\n---\n# Adapter\n"
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "model.safetensors").write_text("of an earlier run")
    found = run_client(hub, push_model, str(tmp_path), "acme/adapter", home=tmp_path / "home", token=hub.token("owner"))
    assert found["base"] == "org/base" and "merged" not in found["files"]
    assert set(found["files"]) >= {"README.md", "adapter_model.safetensors", "adapter_config.json", "training.json"}
    wanted = (".eval_results/udasa.yaml", "figures/loss.svg", "steps.jsonl", "merged/model.safetensors")
    wanted += ("transitions.json", "transitions.md")
    for path in (*wanted, "figures/notes.txt", "checkpoint/optimizer.pt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("- value: 1\n")
    (tmp_path / "transitions.json").write_text("[]")
    (tmp_path / "training.json").write_text('{"merged": true}')
    run_client(hub, push_model, str(tmp_path), "acme/adapter", home=tmp_path / "home", token=hub.token("owner"))
    least = {".gitattributes", "README.md", "adapter_model.safetensors", "adapter_config.json", "training.json"}
    assert set(hub.store.repos["model", "acme/adapter"].resolve("main").files) == {*least, *wanted}


def test_what_an_earlier_push_left_of_other_weights_goes(hub, tmp_path):
    """A merged model, transitions and results that this training does not have; not what is none of its own."""
    for name in ("README.md", "training.json", "adapter_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "README.md").write_text("---\nbase_model: org/base\nlicense: apache-2.0\n---\n# Adapter\n")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    user = {"home": tmp_path / "home", "token": hub.token("owner")}
    old = ["merged/model.safetensors", "transitions.json", ".eval_results/udasa.yaml"]
    for path in (*old, "NOTES.md", "plots/mine.png"):
        (tmp_path / "old" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / path).write_text("- value: 1\n")
    run_client(hub, upload_model, str(tmp_path / "old"), "acme/again", **user)
    assert set(old) <= set(hub.store.repos["model", "acme/again"].resolve("main").files)
    run_client(hub, push_model, str(tmp_path), "acme/again", **user)
    found = set(hub.store.repos["model", "acme/again"].resolve("main").files)
    assert not set(old) & found and {"NOTES.md", "plots/mine.png", "adapter_model.safetensors"} <= found


def upload_model(folder, repo):
    from huggingface_hub import HfApi

    HfApi().create_repo(repo, private=True)
    HfApi().upload_folder(repo_id=repo, folder_path=folder)
