import json
import shutil

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.builds import built, recipe
from tests.releases import edit, first, released, seal
from udasa import schema
from udasa.cli import app
from udasa.publish import diff, versions
from udasa.publish.differences import CHANGES, REASONS
from udasa.recipe import Pairing, Staging, Weights
from udasa.release import open_data
from udasa.restage import restage

FIXED = Staging(thresholds=(0.1, 0.3))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return built(tmp_path_factory.mktemp("differences") / "build", staging=FIXED)


@pytest.fixture(scope="module")
def whole(build, tmp_path_factory):
    return released(build, tmp_path_factory.mktemp("differences") / "release")


@pytest.fixture
def release(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "release")


def compare(a, b):
    return diff(open_data(str(a)), open_data(str(b)))


def counted(found):
    return {(change, reason): count for change, reason, count in found.counts()}


def test_a_build_and_its_release_are_the_same(build, whole):
    found = compare(build, whole)
    assert found.rows.is_empty() and found.schemas == [] and found.settings == []
    assert (found.level(), found.pairs[0]) == ("none", found.pairs[1])
    assert found.why() == "no row, threshold or column differs"


def test_more_prompts_are_added_and_move_the_ranks_of_the_others(build, tmp_path):
    """u is a rank share of the build, so twelve new prompts change the numbers of old pairs."""
    other = built(tmp_path / "more", staging=FIXED, sources=tuple(grown(source) for source in recipe().sources))
    found = compare(build, other)
    new = found.rows.filter(pl.col("changes").list.contains("added"))
    assert set(new["reason"]) <= {"new prompt", "other rows changed"}
    assert counted(found)["added", "new prompt"] > 0
    assert {r for (c, r) in counted(found) if c not in ("added", "removed")} == {"other rows changed"}
    assert found.responses["added"] > 0 and found.level() == "major"
    back = compare(other, build)
    assert counted(back)["removed", "prompt removed"] == counted(found)["added", "new prompt"]
    assert back.responses["removed"] == found.responses["added"]


def grown(source):
    import dataclasses

    return dataclasses.replace(source, limit=13)


def test_rows_that_are_only_added_ask_for_a_minor_version(build, whole, tmp_path):
    """As with fixed thresholds and a calibration that does not look at the other rows."""
    smaller = shutil.copytree(whole, tmp_path / "smaller")
    gone = []
    edit(first(smaller), lambda rows: gone.append(rows.pop()["prompt_id"]))

    def without(rows):
        return [row for row in rows if row["prompt_id"] not in gone]

    edit(first(smaller, "responses/train-*"), without, schema.SCORED)
    edit(smaller / "ledger.parquet", without, schema.LEDGER)
    seal(smaller)
    found = compare(smaller, build)
    assert counted(found) == {("added", "new prompt"): 1}
    assert (found.responses, found.ledger) == ({"added": 1, "removed": 0, "changed": 0},) * 2
    assert found.level() == "minor"
    assert compare(build, smaller).level() == "major"


def test_other_thresholds_move_rows_and_change_nothing_else(build, tmp_path):
    other = restage(build, tmp_path / "other", recipe(staging=Staging(thresholds=(0.15, 0.3))))
    found = compare(build, other)
    moved = found.rows.filter((pl.col("gap_before") >= 0.1) & (pl.col("gap_before") < 0.15))
    assert counted(found) == {("moved", "thresholds changed"): found.rows.height}
    assert found.rows.height == moved.height > 0
    assert set(found.rows["stage_before"]) == {"moderate"} and set(found.rows["stage_after"]) == {"exploratory"}
    assert found.level() == "major" and "staging.thresholds[0]: 0.1 -> 0.15" in found.settings


@pytest.mark.parametrize(
    "changes",
    [{"weights": Weights(value=0.0)}, {"pairing": Pairing(rejected="next")}, {"pairing": Pairing(epsilon=0.2)}],
)
def test_other_settings_are_the_reason(build, tmp_path, changes):
    found = compare(build, restage(build, tmp_path / "other", recipe(staging=FIXED, **changes)))
    assert {reason for _, reason in counted(found)} == {"settings changed"}
    assert found.responses == {"added": 0, "removed": 0, "changed": 0}


def test_a_settings_that_decides_no_pair_is_no_reason(build, tmp_path):
    found = compare(build, restage(build, tmp_path / "other", recipe(staging=FIXED, license="mit")))
    assert found.rows.is_empty() and found.level() == "patch" and len(found.settings) == 1


def test_another_split_is_said(build, tmp_path):
    other = restage(build, tmp_path / "other", recipe(staging=Staging(thresholds=(0.1, 0.3), test_share=0.5)))
    assert set(counted(compare(build, other))) == {("split", "settings changed")}


def swap(rows):
    row = rows[0]
    row["chosen"], row["rejected"] = row["rejected"], row["chosen"]


def test_a_flip_by_hand_is_unexplained(build, release):
    edit(first(release), swap)
    assert counted(compare(build, release)) == {("flipped", "unexplained"): 1}


def test_a_replaced_text_by_hand_is_unexplained(build, release):
    edit(first(release), lambda rows: rows[0]["rejected"][0].update(content="other"))
    assert counted(compare(build, release)) == {("replaced", "unexplained"): 1}


def test_other_labels_are_said(build, release):
    edit(first(release), lambda rows: rows[0].update(license="cc0-1.0"))
    assert set(counted(compare(build, release))) == {("relabelled", "unexplained")}


@pytest.mark.parametrize(
    ("field", "value", "reason"), [("text", "again", "resampled"), ("value_risk", 0.25, "scores changed")]
)
def test_the_prompts_own_responses_come_first_as_a_reason(build, release, field, value, reason):
    flipped = []

    def pick(rows):
        flipped.append(rows[0]["prompt_id"])
        swap(rows)

    edit(first(release), pick)

    def change(rows):
        for row in rows:
            if row["prompt_id"] in flipped:
                row["responses"][0][field] = value

    edit(first(release, "responses/train-*"), change, schema.SCORED)
    found = compare(build, release)
    assert counted(found) == {("flipped", reason): 1}
    assert found.responses == {"added": 0, "removed": 0, "changed": 1}


def test_a_column_that_is_new_is_a_schema_change(build, release):
    for path in release.glob("data/*/*.parquet"):
        pl.read_parquet(path, hive_partitioning=False).drop("chosen_value_risk").write_parquet(path)
    found = compare(release, build)
    assert found.schemas == ["pairs.chosen_value_risk: absent -> Float64"] and found.level() == "major"


def test_the_table_and_the_json(build, tmp_path):
    other = restage(build, tmp_path / "other", recipe(staging=Staging(thresholds=(0.15, 0.3))))
    found = compare(build, other)
    run = CliRunner()
    printed = json.loads(run.invoke(app, ["diff", str(build), str(other), "--json"]).stdout)
    assert printed["counts"] == [{"change": "moved", "reason": "thresholds changed", "pairs": found.rows.height}]
    assert printed["rows"] == found.rows.to_dicts() and printed["level"] == "major"
    table = run.invoke(app, ["diff", str(build), str(other)], env={"COLUMNS": "200"}).stdout
    assert f"{found.rows.height} pairs differ" in table and "Asks for: major." in table
    assert {c for c, _ in counted(found)} <= set(CHANGES) and {r for _, r in counted(found)} <= set(REASONS)


# --- versions


@pytest.mark.parametrize(
    ("level", "expected"),
    [("major", (2, 0, 0)), ("minor", (1, 3, 0)), ("patch", (1, 2, 4)), ("none", (1, 2, 3))],
)
def test_a_bump(level, expected):
    assert versions.bump((1, 2, 3), level) == expected


def test_only_release_tags_count():
    tags = {"v1.0.0": "a", "v1.10.0": "b", "v1.9.0": "c", "1.11.0": "d", "v2": "e", "v01.0.0": "f", "draft": "g"}
    assert max(versions.releases(tags)) == (1, 10, 0)
    assert versions.releases(tags) == {(1, 0, 0): "a", (1, 10, 0): "b", (1, 9, 0): "c"}
