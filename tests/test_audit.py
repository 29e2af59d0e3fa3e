"""Audits on builds with a known answer."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import builds, tables
from tests.tables import answered, reply
from udasa import audit, flow, recipe, run, schema
from udasa.audit.changes import Side, changes
from udasa.audit.consistency import without
from udasa.backends import Principle
from udasa.backends_fake import FakeEntailer, FakeJudge
from udasa.errors import UserError
from udasa.recipe import Judging, Pairing, Staging, Weights
from udasa.score import Scorer

PRINCIPLES = tuple(Principle(id=name, question=f"Is it {name}?") for name in ("safe", "true", "kind"))
JUDGING = Judging(constitution=PRINCIPLES)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builds.built(tmp_path_factory.mktemp("audit") / "build", judging=JUDGING)


def by_name(found: audit.Consistency) -> dict[str, audit.Comparison]:
    return {one.name: one for one in found.comparisons}


def test_identical_builds_keep_every_pair(build: Path) -> None:
    found = audit.stability(build, build)
    n = run.read(build, "pairs").num_rows
    pairs = found.pairs
    assert (pairs.before, pairs.after, found.prompts, found.only_before, found.only_after) == (n, n, 40, 0, 0)
    assert (pairs.kept.value, pairs.kept.high, pairs.kept.n) == (1.0, 1.0, n) and 0.8 < pairs.kept.low < 1
    zero = (pairs.flipped, pairs.replaced, pairs.dropped, pairs.added, pairs.reversed, pairs.moved)
    assert [one.value for one in zero] == [0.0] * 6
    assert {name: one.value for name, one in found.spearman.items()} == {
        "semantic_entropy": 1.0,
        "mean_u": 1.0,
        "gap": 1.0,
    }
    assert found.differs == () and pairs.reasons == {}
    assert sum(pairs.moves.values()) == n == sum(pairs.moves[f"{s} -> {s}"] for s in schema.STAGES)


def side(*rows: Any) -> Side:
    settings = builds.recipe(
        weights=Weights(factual=0.0, value=0.0),
        pairing=Pairing(rejected="max"),
        staging=Staging(thresholds=(0.3, 0.6), test_share=0.0),
    )
    return Side.made(tables.scored(*rows), settings, None)


def two(name: str, a: float, b: float, texts: tuple[str, str] = ("A", "B")) -> Any:
    return answered(name, reply(texts[0], a), reply(texts[1], b))


def test_every_change_is_counted_as_what_it_is() -> None:
    before = side(
        two("kept", 1, 8), two("flipped", 2, 7), two("replaced", 3, 6), two("dropped", 4, 5), two("new", 0, 0)
    )
    after = side(
        two("kept", 1, 4),
        two("flipped", 8, 2),
        two("replaced", 3, 6, ("a ", "C")),
        two("dropped", 5, 5),
        two("new", 0, 7),
        two("unknown", 0, 9),
    )
    found = changes(before, after)
    assert (found.before, found.after) == (4, 4)
    shares = (found.kept, found.flipped, found.replaced, found.dropped)
    assert [(one.value, one.n) for one in shares] == [(0.25, 4)] * 4
    assert (found.added.value, found.added.n) == (1.0, 1)
    assert (found.reversed.value, found.reversed.n) == (pytest.approx(1 / 3), 3)
    assert found.reasons == {"tie": 1}
    assert (found.moved.n, sum(found.moves.values())) == (3, 3)


@pytest.mark.parametrize("flipped", [0, 1, 3, 6])
def test_shuffled_labels_are_counted_exactly(flipped: int) -> None:
    rows = [(f"p{i}", i / 20, 1 - i / 20) for i in range(6)]
    before = side(*(two(name, a, b) for name, a, b in rows))
    after = side(*(two(name, *((b, a) if i < flipped else (a, b))) for i, (name, a, b) in enumerate(rows)))
    found = changes(before, after)
    assert (found.flipped.value, found.kept.value) == (pytest.approx(flipped / 6), pytest.approx(1 - flipped / 6))
    assert (found.reversed.value, found.moved.value) == (pytest.approx(flipped / 6), 0.0)


def test_stage_moves_are_counted_exactly() -> None:
    before = side(*(two(f"p{i}", 0.1, 0.9) for i in range(3)), two("q", 0.4, 0.5))
    after = side(*(two(f"p{i}", 0.1, 0.9) for i in range(2)), two("p2", 0.4, 0.5), two("q", 0.4, 0.5))
    found = changes(before, after)
    moved = {name: count for name, count in found.moves.items() if count}
    assert (
        found.moved.n == 4
        and found.moved.value
        == sum(count for name, count in moved.items() if name.split(" -> ")[0] != name.split(" -> ")[1]) / 4
    )
    stages = {name: (before.pairs[name]["stage"], after.pairs[name]["stage"]) for name in before.pairs}
    assert moved == {f"{a} -> {b}": list(stages.values()).count((a, b)) for a, b in stages.values()}


def test_the_second_scoring_of_a_deterministic_scorer_is_the_same(build: Path, tmp_path: Path) -> None:
    found = audit.consistency(build, tmp_path / "audit")
    assert (found.prompts, found.responses) == (40, 160)
    assert list(by_name(found)) == ["rescored", "one-response-fewer", "one-principle-fewer"]
    again = by_name(found)["rescored"]
    assert {name: one.value for name, one in again.spearman.items()} == dict.fromkeys(again.spearman, 1.0)
    assert {*schema.SCORES, "u", "gap", "semantic_entropy"} == set(again.spearman)
    assert max(again.largest_difference.values()) < 1e-12
    assert again.pairs.kept.value == 1.0 and again.pairs.moved.value == 0.0
    for name, columns in (
        ("one-response-fewer", {"semantic_uncertainty", "factual_uncertainty", "u", "gap"}),
        ("one-principle-fewer", {"value_uncertainty", "value_disagreement", "value_risk", "u", "gap"}),
    ):
        one = by_name(found)[name]
        assert set(one.spearman) == columns
        assert all(0.2 < e.value < 1 and e.low <= e.value <= e.high for e in one.spearman.values())
        assert one.pairs.before == again.pairs.before


def test_an_audit_is_repeated_to_the_byte_and_goes_on_where_it_stopped(build: Path, tmp_path: Path) -> None:
    audit.consistency(build, tmp_path / "one")
    written = (tmp_path / "one" / "consistency.json").read_bytes()
    for leftover in (tmp_path / "one" / "second" / "scored").glob("00001.*"):
        leftover.unlink()
    (tmp_path / "one" / "consistency.json").unlink()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("0000[02].parquet")}
    audit.consistency(build, tmp_path / "one")
    assert (tmp_path / "one" / "consistency.json").read_bytes() == written
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    other = audit.consistency(build, tmp_path / "two", seed=2)
    assert json.loads(written)["comparisons"] != json.loads(json.dumps(dataclasses.asdict(other)))["comparisons"]


def test_everything_is_made_from_the_responses_alone(build: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    for name in ("recipe.json", "build.json", "models.json"):
        bare.mkdir(exist_ok=True)
        shutil.copy2(build / name, bare / name)
    shutil.copytree(build / "responses", bare / "responses")
    audit.consistency(build, tmp_path / "a")
    audit.consistency(bare, tmp_path / "b")
    files = [(tmp_path / name / "consistency.json").read_text() for name in ("a", "b")]
    assert files[0] == files[1]


def test_leaving_out_a_response_is_scoring_without_it() -> None:
    texts = ("Yes. The sky is blue.", "No. It is red.", "", "Yes. The sky is blue.", "Blue, it is. Yes.")
    replies = [reply(text, logprob_mean=-0.3 * (i + 1)) for i, text in enumerate(texts)]
    scorer = Scorer(FakeEntailer(), FakeJudge(PRINCIPLES))

    def scores(*kept: int) -> list[dict[str, Any]]:
        row = answered("p", *(replies[i] for i in kept))
        found: list[dict[str, Any]] = scorer(tables.responses(row)).to_pylist()[0]["responses"]
        return found

    whole = scores(*range(5))
    for gone in range(5):
        rest = [i for i in range(5) if i != gone]
        for i, expected in zip(rest, scores(*rest), strict=True):
            found = without(whole, i, gone)
            assert found["semantic_uncertainty"] == pytest.approx(expected["semantic_uncertainty"], abs=1e-12)
            assert found["factual_uncertainty"] == (
                None if expected["factual_uncertainty"] is None else pytest.approx(expected["factual_uncertainty"])
            )


def test_a_resample_has_the_same_prompts_and_other_responses(build: Path, tmp_path: Path) -> None:
    again = audit.resample(build, tmp_path / "again", 5)
    prompts = [run.read(folder, "prompts").to_pylist() for folder in (build, again)]
    assert prompts[0] == prompts[1]
    assert run.read(build, "responses") != run.read(again, "responses")
    found = audit.stability(build, again, tmp_path / "out")
    assert found.differs == ("seed: 0 -> 5",) and found.prompts == 40
    shares = (found.pairs.kept, found.pairs.flipped, found.pairs.replaced, found.pairs.dropped)
    assert sum(one.value or 0 for one in shares) == pytest.approx(1.0)
    assert json.loads((tmp_path / "out" / "stability.json").read_text()) == json.loads(
        json.dumps(dataclasses.asdict(found))
    )
    with pytest.raises(UserError, match="itself built with seed 0"):
        audit.resample(build, tmp_path / "same", 0)


def test_an_unfinished_build_and_another_builds_prompts_are_refused(build: Path, tmp_path: Path) -> None:
    settings = builds.recipe(judging=JUDGING)
    flow.claim(tmp_path / "begun", settings)
    with pytest.raises(UserError, match="holds no finished build"):
        audit.consistency(tmp_path / "begun", tmp_path / "o")
    with pytest.raises(UserError, match="holds no finished build"):
        audit.stability(build, tmp_path / "begun")
    path = tables.write_jsonl(tmp_path / "mine.jsonl", "One?", "Two?", "Three?")
    source = recipe.Source(name="mine", task="helpfulness", path=str(path))
    other = builds.built(tmp_path / "other", sources=(source,))
    with pytest.raises(UserError, match="no prompt in common"):
        audit.stability(build, other)


def test_a_folder_of_another_audit_is_refused(build: Path, tmp_path: Path) -> None:
    other = builds.built(tmp_path / "other", judging=JUDGING, weights=Weights(value=2.0))
    audit.consistency(build, tmp_path / "audit")
    with pytest.raises(UserError, match=r"these fields differ: weights\.value"):
        audit.consistency(other, tmp_path / "audit")
