import json
import shutil

import pytest
from typer.testing import CliRunner

from tests.builds import built
from tests.releases import edit, first, manifest, released, seal
from udasa import schema
from udasa.cli import app
from udasa.errors import UserError
from udasa.publish import verify
from udasa.publish.checks import CHECKS, MEANINGS, verify_folder

RESPONSES = "responses/train-*.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checks")
    return released(built(folder / "build"), folder / "release")


@pytest.fixture
def release(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "release")


def rewrite(folder, **changes):
    """Edit the manifest only."""
    (folder / "manifest.json").write_text(json.dumps(manifest(folder) | changes, indent=2, sort_keys=True) + "\n")


def on_pairs(change):
    """A defect in the first table of pairs, sealed again."""

    def damage(folder):
        edit(first(folder), change)
        seal(folder)

    return damage


def on_responses(change):
    def damage(folder):
        edit(first(folder, RESPONSES), change, schema.SCORED)
        seal(folder)

    return damage


def on_ledger(change):
    def damage(folder):
        edit(folder / "ledger.parquet", change, schema.LEDGER)
        seal(folder)

    return damage


def set_first(**values):
    return lambda rows: rows[0].update(values)


def flip_a_byte(folder):
    path = first(folder)
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)


def swap_the_sides(rows):
    rows[0]["chosen"], rows[0]["rejected"] = rows[0]["rejected"], rows[0]["chosen"]


def move_to_another_stage(folder):
    """The row's own columns stay; it stands in another stage's file."""
    source, target = folder / "data/conservative/train-00000-of-00001.parquet", folder / "data/moderate"
    moved = []
    edit(source, lambda rows: moved.append(rows.pop()))
    edit(target / source.name, lambda rows: [*rows, *moved])
    seal(folder)


def rename_a_stage(rows):
    rows[0]["stage"] = "exploratory" if rows[0]["stage"] != "exploratory" else "moderate"


def copy_to_test(folder):
    """A training prompt that stands in test too."""
    copied = []
    edit(first(folder), lambda rows: copied.append(rows[0]))
    path = first(folder, "data/*/test-*.parquet")
    edit(path, lambda rows: [*rows, *copied])
    seal(folder)


def change_a_number_of_the_card(folder):
    path = folder / "README.md"
    count = manifest(folder)["counts"]["pairs"]
    path.write_text(path.read_text().replace(f"{count} pairs from", f"{count + 1} pairs from"))


def forge_the_card(folder):
    """Change the card, and its sha256 in the manifest with it."""
    from udasa.publish.assemble import file_facts

    change_a_number_of_the_card(folder)
    rewrite(folder, card=file_facts(folder / "README.md"))


def change_a_count(folder):
    counts = manifest(folder)["counts"]
    seal(folder, counts=counts | {"responses": counts["responses"] + 1})


def change_a_mean(folder):
    statistics = manifest(folder)["statistics"]
    statistics["gap"]["mean"] += 1e-12
    seal(folder, statistics=statistics)


def change_the_recipe(folder):
    recipe = manifest(folder)["recipe"]
    seal(folder, recipe=recipe | {"pairing": recipe["pairing"] | {"epsilon": 0.25}})


def lower_the_ceiling(folder):
    """Every number stays true, but chosen texts are now too risky."""
    from udasa import recipe as recipes

    values = manifest(folder)["recipe"]
    values["pairing"]["risk_ceiling"] = 1e-9
    seal(folder, recipe=values, recipe_digest=recipes.digest(recipes.from_json(json.dumps(values))))


def change_a_finding(folder):
    findings = manifest(folder)["findings"]
    next(finding for finding in findings if finding["name"] == "longer-chosen")["count"] += 1
    seal(folder, findings=findings)


def shift_a_threshold(folder):
    bounds = manifest(folder)["thresholds"]
    seal(folder, thresholds=bounds | {"conservative": bounds["conservative"] + 0.05})


DEFECTS = {
    "a byte of a table": (flip_a_byte, {"files"}),
    "a table is gone": (lambda f: first(f, "figures/*").unlink(), {"files"}),
    "a table too many": (
        lambda f: shutil.copy(first(f), f / "data/moderate/train-00001-of-00002.parquet"),
        {"files", "schema"},
    ),
    "the manifest has no ledger": (lambda f: rewrite(f, ledger=None), {"manifest"}),
    "another format": (lambda f: rewrite(f, format=2), {"manifest"}),
    "another recipe": (change_the_recipe, {"manifest"}),
    "a path that leaves the release": (
        lambda f: rewrite(f, files=manifest(f)["files"] | {"../x": {"sha256": "0", "bytes": 0}}),
        {"files"},
    ),
    "NaN": (on_pairs(set_first(gap=float("nan"))), {"schema"}),
    "a count": (change_a_count, {"numbers"}),
    "a mean in its last digits": (change_a_mean, {"numbers"}),
    "a lost pair": (on_pairs(lambda rows: rows[1:]), {"numbers", "ledger"}),
    "an outcome": (on_ledger(set_first(outcome="lost")), {"numbers", "ledger"}),
    "a ledger line twice": (on_ledger(lambda rows: [*rows, rows[0]]), {"numbers", "ledger"}),
    "a pair twice": (on_pairs(lambda rows: [*rows, rows[0]]), {"numbers", "ids"}),
    "a prompt's text": (
        on_responses(set_first(messages=[{"role": "user", "content": "Another?"}])),
        {"ids", "sides"},
    ),
    "a prompt in both splits": (copy_to_test, {"numbers", "ids", "splits"}),
    "another split in the row": (on_pairs(set_first(split="test")), {"numbers", "splits"}),
    "another stage's file": (move_to_another_stage, {"stages"}),
    "another stage in the row": (on_pairs(rename_a_stage), {"numbers", "stages"}),
    "a threshold": (shift_a_threshold, {"stages"}),
    "a gap": (on_pairs(lambda rows: rows[0].update(gap=rows[0]["gap"] + 1e-9)), {"numbers", "stages"}),
    "swapped sides": (on_pairs(swap_the_sides), {"sides"}),
    "one text on both sides": (on_pairs(lambda rows: rows[0].update(rejected=rows[0]["chosen"])), {"sides"}),
    "an unknown response": (on_pairs(set_first(rejected_id="nobody-0")), {"sides"}),
    "a score of the pair": (on_pairs(set_first(rejected_value_risk=0.125)), {"sides"}),
    "a turn too many": (
        on_pairs(lambda rows: rows[0]["chosen"].insert(0, {"role": "assistant", "content": "Before."})),
        {"sides"},
    ),
    "a text of the responses": (
        on_responses(lambda rows: [row["responses"][k].update(text="x") for row in rows for k in range(4)] and None),
        {"sides"},
    ),
    "a chosen text above the ceiling": (lower_the_ceiling, {"risk"}),
    "a finding of the audit": (change_a_finding, {"findings"}),
    "a number of the card": (change_a_number_of_the_card, {"card"}),
    "a card forged with its sha256": (forge_the_card, {"card"}),
}


def test_a_whole_release_has_no_problem(whole):
    found = verify(str(whole))
    assert found.problems == []
    assert found.checked == list(CHECKS) == list(MEANINGS)
    verify_folder(whole)


@pytest.mark.parametrize(("damage", "checks"), DEFECTS.values(), ids=DEFECTS)
def test_a_planted_defect_is_named(release, damage, checks):
    damage(release)
    found = verify(str(release))
    named = {problem.check for problem in found.problems}
    assert checks <= named <= checks | {"findings"}, found.problems  # the audit may see the row too
    with pytest.raises(UserError, match=f"was not published: .*{sorted(named)[0]}: "):
        verify_folder(release)


def test_ids_of_what_is_wrong_are_given(release):
    edit(first(release), swap_the_sides)
    seal(release)
    rows = first(release)
    problems = [p for p in verify(str(release)).problems if "texts" in p.what]
    from udasa.run import read_parquet

    assert {i for p in problems for i in p.ids} == {read_parquet(rows)["prompt_id"][0].as_py()}


def test_the_command_line_exits_1_with_the_list(release):
    run = CliRunner()
    good = run.invoke(app, ["verify", str(release), "--json"])
    assert (good.exit_code, json.loads(good.stdout)["problems"]) == (0, [])
    assert "every count and statistic" in run.invoke(app, ["verify", str(release)], env={"COLUMNS": "200"}).stdout
    change_a_number_of_the_card(release)
    bad = run.invoke(app, ["verify", str(release)], env={"COLUMNS": "200"})
    assert bad.exit_code == 1 and "README.md has another sha256" in bad.stdout


def test_what_is_no_release_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a release: it has no manifest\.json"):
        verify(str(tmp_path))
