import json
import shutil

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.builds import built, recipe
from tests.releases import contents, edit, first, manifest, released
from udasa import flow, run, schema
from udasa.backends import Failure
from udasa.backends_fake import FakeSampler
from udasa.cli import app
from udasa.errors import UserError
from udasa.publish import rebuild, rebuild_differs
from udasa.recipe import Pairing


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return built(tmp_path_factory.mktemp("recompute") / "build")


@pytest.fixture(scope="module")
def whole(build, tmp_path_factory):
    return released(build, tmp_path_factory.mktemp("recompute") / "release")


def published(build):
    """A build's files but what the models were asked on the way, which no release holds."""
    return {name: data for name, data in contents(build).items() if name not in ("planted.json", *flow.LOCAL)}


def test_a_release_comes_out_byte_for_byte(whole):
    found = rebuild_differs(str(whole))
    tables = {path for path in contents(whole) if path.endswith(".parquet")}
    assert (set(found.files), found.differ) == (tables, [])


def test_a_rebuilt_build_is_the_build(build, whole, tmp_path):
    """Every shard has the bytes it had, so the build can be restaged, published and gone on with."""
    again = contents(rebuild(str(whole), tmp_path / "again"))
    assert again == published(build)


def test_a_build_with_duplicates_comes_out_too(tmp_path):
    sources = recipe().sources
    twice = (
        *sources,
        type(sources[0])(name="again", task="sentiment", path="bundled:data/harmlessness.jsonl", limit=6),
    )
    source = built(tmp_path / "build", sources=twice)
    release = released(source, tmp_path / "release")
    assert json.loads((release / "manifest.json").read_text())["ledger"].keys() > {"duplicate-prompt"}
    assert rebuild_differs(str(release)).differ == []
    assert contents(rebuild(str(release), tmp_path / "again")) == published(source)


def test_a_build_with_unanswered_prompts_comes_out_too(tmp_path, monkeypatch):
    original = FakeSampler.sample

    def sample(self, prompts, seeds, report=lambda n: None):
        drawn = original(self, prompts, seeds, report)
        return [Failure("engine-error", "gone") if i == 3 else one for i, one in enumerate(drawn)]

    monkeypatch.setattr(FakeSampler, "sample", sample)
    release = released(built(tmp_path / "build", max_failed=0.5), tmp_path / "release")
    assert manifest(release)["ledger"]["engine-error"] > 0
    assert rebuild_differs(str(release)).differ == []


def test_pairs_stand_in_the_order_of_the_sources(build, whole):
    """By hash, the new rows of a source would be scattered over the file, and a new version would upload all of it."""
    order = {row: i for i, row in enumerate(run.read_frame(build, "prompts")["prompt_id"])}
    tables = sorted(whole.glob("data/*/*.parquet"))
    found = [[order[i] for i in run.read_parquet(path)["prompt_id"].to_pylist()] for path in tables]
    assert found == [sorted(rows) for rows in found]
    assert sum(map(len, found)) == run.read_frame(build, "pairs").height > 20


def test_what_does_not_follow_from_the_responses_is_named(whole, tmp_path):
    release = shutil.copytree(whole, tmp_path / "release")
    edit(first(release), lambda rows: rows[0].update(gap=rows[0]["gap"] / 2))
    name = first(release).relative_to(release).as_posix()
    assert rebuild_differs(str(release)).differ == [name]
    run = CliRunner().invoke(app, ["rebuild", "--verify", str(release)], env={"COLUMNS": "200"})
    assert run.exit_code == 1 and f"differs: {name}" in run.stdout


def test_another_outcome_is_named(whole, tmp_path):
    release = shutil.copytree(whole, tmp_path / "release")
    edit(release / "ledger.parquet", lambda rows: rows[0].update(outcome="tie"), schema.LEDGER)
    assert rebuild_differs(str(release)).differ == ["ledger.parquet"]


def test_another_policy_in_the_manifest_is_found(build, whole, tmp_path):
    other = built(tmp_path / "build", pairing=Pairing(rejected="next"))
    release = shutil.copytree(released(other, tmp_path / "release"), tmp_path / "forged")
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["recipe"]["pairing"]["rejected"] = "max"
    (release / "manifest.json").write_text(json.dumps(manifest))
    assert any(name.startswith("data/") for name in rebuild_differs(str(release)).differ)


def test_the_command_line(whole, tmp_path):
    run = CliRunner()
    good = run.invoke(app, ["rebuild", "--verify", str(whole)], env={"COLUMNS": "200"})
    assert good.exit_code == 0 and "tables come out byte for byte" in good.stdout
    assert run.invoke(app, ["rebuild", str(whole), "-o", str(tmp_path / "again")]).exit_code == 0
    assert pl.read_parquet(tmp_path / "again/pairs/00000.parquet").height
    with pytest.raises(UserError, match="not empty"):
        rebuild(str(whole), tmp_path / "again")
    assert isinstance(run.invoke(app, ["rebuild", str(whole)]).exception, UserError)
