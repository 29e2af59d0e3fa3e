import json
import shutil
import subprocess
import sys

import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from tests.builds import built, recipe
from tests.hub.client import ClientError, client_env, run_client
from tests.hub.sample import prepare
from tests.hub.store import File
from tests.releases import edit
from udasa.cards import validate
from udasa.cli import app
from udasa.errors import UserError
from udasa.publish import publish, read_back
from udasa.recipe import Pairing, Staging
from udasa.restage import restage


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return built(tmp_path_factory.mktemp("published") / "build")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- to a folder


def test_a_folder_release_loads_by_stage(build, tmp_path):
    target = tmp_path / "release"
    release = publish(build, str(target), version="1.2.3")
    manifest = json.loads((target / "manifest.json").read_text())
    cache = str(tmp_path / "cache")
    total = 0
    for stage, splits in manifest["counts"]["stages"].items():
        data = load_dataset(str(target), stage, cache_dir=cache)
        assert {split: data[split].num_rows for split in data} == {s: n for s, n in splits.items() if n}
        assert all(set(data[split]["stage"]) == {stage} for split in data)
        total += sum(splits.values())
    everything = load_dataset(str(target), cache_dir=cache)
    assert sum(split.num_rows for split in everything.values()) == total == manifest["counts"]["pairs"]
    row = next(iter(load_dataset(str(target), "exploratory", split="train", streaming=True)))
    assert row["chosen"][0]["role"] == "assistant" and row["chosen"] != row["rejected"]
    assert not {s["prompt_id"] for s in everything["train"]} & {s["prompt_id"] for s in everything["test"]}
    assert (release.version, release.commit) == ("1.2.3", None)


def test_the_counts_of_the_ledger_sum_to_the_prompts(build, tmp_path):
    publish(build, str(tmp_path / "release"), version="1.0.0")
    manifest = json.loads((tmp_path / "release" / "manifest.json").read_text())
    assert sum(manifest["ledger"].values()) == manifest["counts"]["prompts"] == 40
    assert manifest["ledger"]["paired"] == manifest["counts"]["pairs"]
    validate((tmp_path / "release" / "README.md").read_text(), "dataset")


def test_publishing_again_changes_nothing(build, tmp_path):
    target = tmp_path / "release"
    first = publish(build, str(target), version="1.0.0")
    before = contents(target)
    assert publish(build, str(target), version="1.0.0")[:4] == first[:4]
    assert contents(target) == before


def test_two_builds_of_one_recipe_give_the_same_release(build, tmp_path):
    other = built(tmp_path / "other")
    releases = []
    for name, source in (("a", build), ("b", other)):
        publish(source, str(tmp_path / name / "release"), version="1.0.0")
        releases.append(contents(tmp_path / name / "release"))
    assert releases[0] == releases[1]


def test_a_stage_without_rows_is_left_out(tmp_path):
    source = built(tmp_path / "build", staging=Staging(thresholds=(0.0, 0.0), test_share=0.0))
    publish(source, str(tmp_path / "release"), version="1.0.0")
    data = load_dataset(str(tmp_path / "release"), "conservative", cache_dir=str(tmp_path / "cache"))
    assert list(data) == ["train"]
    assert not (tmp_path / "release" / "data" / "exploratory").exists()


def test_a_folder_with_something_else_is_left_alone(build, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already holds something else"):
        publish(build, str(tmp_path), version="1.0.0")
    assert contents(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0-rc1", ""])
def test_a_version_has_three_numbers(build, tmp_path, version):
    with pytest.raises(UserError, match=r"MAJOR\.MINOR\.PATCH"):
        publish(build, str(tmp_path / "release"), version=version)


def test_an_unfinished_build_is_refused(build, tmp_path):
    shutil.copytree(build, tmp_path / "build")
    (tmp_path / "build" / "build.json").unlink()
    with pytest.raises(UserError, match="holds no finished build"):
        publish(tmp_path / "build", str(tmp_path / "release"), version="1.0.0")
    assert not (tmp_path / "release").exists()


def test_a_build_without_pairs_says_why(tmp_path):
    source = built(tmp_path / "build", pairing=Pairing(epsilon=2.0))
    with pytest.raises(UserError, match=r"has no pair to publish; its ledger says why: .*'tie': \d+"):
        publish(source, str(tmp_path / "release"), version="1.0.0")


@pytest.mark.parametrize("path", ["data/conservative/train-00000-of-00001.parquet", "ledger.parquet"])
def test_a_changed_byte_is_found_on_reading_back(build, tmp_path, path):
    target = tmp_path / "release"
    publish(build, str(target), version="1.0.0")
    payload = bytearray((target / path).read_bytes())
    payload[len(payload) // 2] ^= 1
    (target / path).write_bytes(payload)
    with pytest.raises(Exception, match=r"does not fit its manifest|parquet|Parquet|ZSTD|generating the dataset"):
        read_back(str(target), None)


# --- to the Hub


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


# --- other writers, and a Hub that fails


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


def test_a_version_is_proposed_and_nothing_published(build, tmp_path):
    run = CliRunner().invoke(app, ["publish", str(build), str(tmp_path / "release")], env={"COLUMNS": "300"})
    assert run.exit_code == 0 and "Nothing was published. The differences ask for 1.0.0" in run.stdout
    assert not (tmp_path / "release").exists()


def test_a_build_that_does_not_hold_together_is_not_published(build, tmp_path):
    broken = shutil.copytree(build, tmp_path / "build")
    edit(broken / "pairs" / "00000.parquet", lambda rows: rows[0].update(rejected=rows[0]["chosen"]))
    with pytest.raises(UserError, match="does not hold together, so it was not published: sides: "):
        publish(broken, str(tmp_path / "release"), version="1.0.0")
    assert not (tmp_path / "release").exists()


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
    found = run_client(hub, push_model, str(tmp_path), "acme/adapter", home=tmp_path / "home", token=hub.token("owner"))
    assert found["base"] == "org/base"
    assert set(found["files"]) >= {"README.md", "adapter_model.safetensors", "adapter_config.json", "training.json"}
    for path in (".eval_results/udasa.yaml", "figures/loss.svg", "figures/notes.txt", "checkpoint/optimizer.pt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("- value: 1\n")
    run_client(hub, push_model, str(tmp_path), "acme/adapter", home=tmp_path / "home", token=hub.token("owner"))
    assert set(hub.store.repos["model", "acme/adapter"].resolve("main").files) == {
        *(".gitattributes", "README.md", "adapter_model.safetensors", "adapter_config.json", "training.json"),
        *(".eval_results/udasa.yaml", "figures/loss.svg"),
    }
