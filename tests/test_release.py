import json
import shutil

import pytest

from tests.builds import built
from tests.hub.client import ClientError, run_client
from tests.releases import first, released
from udasa.errors import UserError
from udasa.release import is_folder, open_data, open_release


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return built(tmp_path_factory.mktemp("opened") / "build")


@pytest.fixture(scope="module")
def release(build, tmp_path_factory):
    return released(build, tmp_path_factory.mktemp("opened") / "release")


def test_a_release_and_its_build_have_the_same_tables(build, release):
    a, b = open_data(str(build)), open_data(str(release))
    assert (a.kind, b.kind, b.commit) == ("build", "release", None)
    assert a.recipe == b.recipe
    for table, key in (("pairs", ["prompt_id"]), ("scored", ["prompt_id"]), ("ledger", ["source", "source_row"])):
        assert a.frame(table).sort(key).equals(b.frame(table).sort(key))
    assert a.frame("pairs").equals(b.frame("pairs")), "both are sorted by prompt id"
    assert b.facts == json.loads((release / "manifest.json").read_text())


@pytest.mark.parametrize("target", ["./x", "../x", "~/x", "/x", "."])
def test_what_is_a_folder(target):
    assert is_folder(target)


@pytest.mark.parametrize("target", ["org/name", "org/name@v1.0.0", "name"])
def test_what_is_not_a_folder(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_folder(target)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither a release .* nor a finished build"),
        ({"manifest.json": "{"}, "is not JSON"),
        ({"manifest.json": "[]"}, "must hold a JSON object, got a list"),
        ({"manifest.json": '{"recipe": {}}'}, "the recipe in .* does not fit"),
    ],
)
def test_what_cannot_be_opened_says_why(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        open_data(str(tmp_path)).recipe  # noqa: B018
    with pytest.raises(UserError, match="There is no folder"):
        open_release(str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"neither a folder \(./name\) nor a Hub repository"):
        open_release("a/b/c")


def test_a_manifest_of_something_else_has_no_recipe(tmp_path):
    (tmp_path / "manifest.json").write_text('{"files": []}')
    with pytest.raises(UserError, match=r"the recipe in .* does not fit"):
        _ = open_release(str(tmp_path)).recipe


def test_a_broken_table_says_which(release, tmp_path):
    copy = shutil.copytree(release, tmp_path / "copy")
    first(copy).write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"cannot be read \(data/\*/\*\.parquet\)"):
        open_release(str(copy)).frame("pairs")
    shutil.rmtree(copy / "responses")
    with pytest.raises(UserError, match=r"has no responses/\*\.parquet"):
        open_release(str(copy)).frame("scored")


def opened(repo):
    from udasa.release import open_release

    return open_release(repo).facts["version"]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("owner", "does not let you read acme/nothing, or it is not there"),
        ("hf_wrong", "does not accept the token"),
        (None, "does not let you read acme/nothing"),
    ],
)
def test_what_is_not_on_the_hub(hub, tmp_path, token, message):
    given = hub.token(token) if token == "owner" else token
    with pytest.raises(ClientError, match=message) as refused:
        run_client(hub, opened, "acme/nothing", home=tmp_path, token=given)
    assert refused.value.type == "UserError" and "published" not in refused.value.message


def test_no_hub_at_all(hub, tmp_path):
    env = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    with pytest.raises(ClientError, match=r"connection to the Hub failed .*Run it again") as failed:
        run_client(hub, opened, "acme/nothing", home=tmp_path, env=env)
    assert failed.value.type == "UserError"
