import json
import shutil

import pytest
from datasets import load_dataset

from tests.builds import built
from tests.hub.client import ClientError, run_client
from udasa.cards import validate
from udasa.errors import UserError
from udasa.publish import publish, read_back
from udasa.recipe import Pairing, Staging


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
    assert publish(build, str(target), version="1.0.0") == first
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

    return list(publish(Path(build), repo, version=version, private=private))


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
    other = built(tmp_path / "build", pairing=Pairing(rejected="max"))
    with pytest.raises(ClientError, match=r"already has a tag v1\.0\.0 with other content") as refused:
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
        ("outsider", "may not write to acme/udasa-other"),
    ],
)
def test_a_refused_token_publishes_nothing(hub, build, tmp_path, token, message):
    given = hub.token(token) if token == "outsider" else token
    with pytest.raises(ClientError, match=message) as refused:
        run_client(hub, publish_to_hub, str(build), "acme/udasa-other", "1.0.0", home=tmp_path, token=given)
    assert refused.value.type == "UserError"
    assert str(given) not in refused.value.message.replace("None", "")
    assert "acme/udasa-other" not in str(hub.store)


def test_a_moved_head_publishes_nothing(hub, build, tmp_path):
    hub.fail_next("POST", "/commit/", 412, "The branch was updated since you opened this page.")
    args = (str(build), "acme/udasa-moved", "1.0.0")
    with pytest.raises(ClientError, match="changed while this release was being prepared; nothing was published"):
        run_client(hub, publish_to_hub, *args, home=tmp_path, token=hub.token("owner"))
    assert run_client(hub, commits, "acme/udasa-moved", home=tmp_path, token=hub.token("owner"))["tags"] == {}
    run_client(hub, publish_to_hub, *args, home=tmp_path, token=hub.token("owner"))
    assert list(run_client(hub, commits, "acme/udasa-moved", home=tmp_path, token=hub.token("owner"))["tags"]) == [
        "v1.0.0"
    ]


def test_a_release_whose_tag_failed_is_completed_by_publishing_again(hub, build, tmp_path):
    hub.fail_next("POST", "/tag/", 500)
    args = (str(build), "acme/udasa-untagged", "1.0.0")
    with pytest.raises(ClientError) as failed:
        run_client(hub, publish_to_hub, *args, home=tmp_path, token=hub.token("owner"))
    assert failed.value.status == 500
    commit = run_client(hub, publish_to_hub, *args, home=tmp_path, token=hub.token("owner"))[3]
    found = run_client(hub, commits, "acme/udasa-untagged", home=tmp_path, token=hub.token("owner"))
    assert found["tags"] == {"v1.0.0": commit} and found["commits"][0] == commit and len(found["commits"]) == 2


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
