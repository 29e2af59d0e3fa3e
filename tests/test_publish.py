import json
import shutil

import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from tests.builds import built
from tests.releases import contents, edit
from udasa.cards import validate
from udasa.cli import app
from udasa.errors import UserError
from udasa.publish import publish, read_back
from udasa.recipe import Pairing, Staging


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return built(tmp_path_factory.mktemp("published") / "build")


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
