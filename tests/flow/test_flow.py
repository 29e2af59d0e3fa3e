"""Whole builds on the fakes: the same bytes, and what a folder must be."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import builds
from tests.builds import FAKE
from tests.flow.hand import SHARDS, files, nine_prompts, table
from udasa import backends, flow, run, schema
from udasa import recipe as recipes
from udasa.backends import ModelSpec, Principle, Sampling
from udasa.backends_fake import FakeJudge
from udasa.errors import UserError
from udasa.recipe import Judging, Pairing, Recipe, Training, Weights

# --- what a build holds


def test_a_build_holds_these_files(whole: Path) -> None:
    shards = [f"{name}/{i:05d}" for name in ("prompts", "responses", "scored") for i in range(SHARDS)]
    shards += [f"{name}/00000" for name in ("dropped", "pairs", "ledger")]
    expected = {f"{shard}{end}" for shard in shards for end in (".parquet", ".done")}
    assert set(files(whole)) == {*expected, "recipe.json", "models.json", "build.json"}
    for name, kind in (
        ("prompts", schema.PROMPTS),
        ("responses", schema.RESPONSES),
        ("scored", schema.SCORED),
        ("pairs", schema.PAIRS),
        ("ledger", schema.LEDGER),
        ("dropped", schema.LEDGER),
    ):
        assert run.read(whole, name).schema == kind


def test_the_ledger_has_a_line_for_every_source_row(whole: Path) -> None:
    ledger = table(whole, "ledger")
    places = [(line["source"], line["source_row"]) for line in ledger]
    assert places == [("first", i) for i in range(8)] + [("second", i) for i in range(3)]
    counts = Counter(line["outcome"] for line in ledger)
    assert set(counts) <= set(schema.OUTCOMES)
    assert (counts["duplicate-prompt"], counts["near-duplicate-prompt"]) == (1, 1)
    assert counts["paired"] == run.read(whole, "pairs").num_rows > 0
    assert sum(counts.values()) == 11
    paired = {line["prompt_id"] for line in ledger if line["outcome"] == "paired"}
    assert paired == {row["prompt_id"] for row in table(whole, "pairs")}


def test_pairs_come_from_the_stored_responses_of_their_prompt(whole: Path, settings: Recipe) -> None:
    scored = {row["prompt_id"]: row for row in table(whole, "scored")}
    for pair in table(whole, "pairs"):
        row = scored[pair["prompt_id"]]
        assert pair["prompt"] == row["messages"]
        by_id = {one["response_id"]: one for one in row["responses"]}
        assert len(by_id) == settings.sampling.k
        for side in ("chosen", "rejected"):
            one = by_id[pair[f"{side}_id"]]
            assert pair[side] == [{"role": "assistant", "content": one["text"]}]
            assert {name: pair[f"{side}_{name}"] for name in schema.SCORES} == {n: one[n] for n in schema.SCORES}


def test_the_summary_of_a_build(whole: Path, settings: Recipe) -> None:
    summary = json.loads((whole / "build.json").read_text())
    assert summary["recipe_digest"] == recipes.digest(settings)
    assert summary["models"]["policy"] == {"model": "fake", "revision": None, "origin": "fake", "sha256": None}
    assert summary["models"]["judge"]["same_as_policy"] is True
    assert summary["models"]["entailer"]["kind"] == "nli"
    gaps = sorted(row["gap"] for row in table(whole, "pairs"))
    assert summary["thresholds"]["moderate"] in gaps
    assert summary["thresholds"]["conservative"] in gaps
    assert recipes.from_json((whole / "recipe.json").read_text()) == settings


# --- the same bytes


def test_two_builds_are_byte_identical(whole: Path, settings: Recipe, folder: Path) -> None:
    assert files(flow.build(settings, folder)) == files(whole)


@pytest.mark.parametrize("size", [1, 2, 5, 9, 256])
def test_rows_do_not_depend_on_the_shard_size(whole: Path, settings: Recipe, folder: Path, size: int) -> None:
    flow.build(replace(settings, shard_size=size), folder)
    assert len(run.shard_paths(folder, "responses")) == -(-9 // size)
    for name in ("prompts", "responses", "scored"):
        assert table(folder, name) == table(whole, name)
    for name in ("pairs", "ledger", "dropped"):
        assert (folder / name / "00000.parquet").read_bytes() == (whole / name / "00000.parquet").read_bytes()


def test_another_seed_gives_other_responses(whole: Path, settings: Recipe, folder: Path) -> None:
    flow.build(replace(settings, seed=1), folder)
    assert table(folder, "prompts") == table(whole, "prompts")
    seeds = [{one["seed"] for row in table(f, "responses") for one in row["responses"]} for f in (whole, folder)]
    assert len(seeds[0]) == len(seeds[1]) == 36
    assert not seeds[0] & seeds[1]


def test_a_finished_build_is_left_as_it_is(whole: Path, settings: Recipe, sampled: list[int]) -> None:
    before = files(whole)
    flow.build(settings, whole)
    assert files(whole) == before
    assert sampled == []


def test_pairing_again_from_stored_scores_gives_the_same_bytes(
    whole: Path, settings: Recipe, sampled: list[int]
) -> None:
    before = files(whole)
    for name in ("pairs/00000.parquet", "pairs/00000.done", "ledger/00000.parquet", "ledger/00000.done", "build.json"):
        (whole / name).unlink()
    flow.build(settings, whole)
    assert files(whole) == before
    assert sampled == []


def test_other_weights_and_pairing_need_no_model(whole: Path, settings: Recipe, sampled: list[int]) -> None:
    before = table(whole, "pairs")
    flow.pair_and_stage(replace(settings, weights=Weights(factual=0.0), pairing=Pairing(rejected="next")), whole)
    assert table(whole, "pairs") != before
    assert sampled == []


# --- whose folder it is


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"sampling": Sampling(k=5)}, "sampling.k: 4 -> 5"),
        ({"pairing": Pairing(risk_ceiling=0.5)}, "pairing.risk_ceiling: 0.6 -> 0.5"),
        ({"policy": ModelSpec(model="other", backend="fake")}, "policy.model: 'fake' -> 'other'"),
        ({"shard_size": 4, "system": "Hi"}, "shard_size: 3 -> 4; system: None -> 'Hi'"),
    ],
)
def test_another_recipe_is_refused_with_the_fields_named(
    whole: Path, settings: Recipe, changes: Mapping[str, Any], field: str
) -> None:
    before = files(whole)
    with pytest.raises(UserError) as caught:
        flow.build(replace(settings, **changes), whole)
    assert str(caught.value) == (
        f"{whole} holds a build of another recipe; these fields differ: {field}. "
        "Build into a new folder, or use the recipe that began this one."
    )
    assert files(whole) == before


def test_other_training_settings_are_taken_and_the_data_left(whole: Path, settings: Recipe, sampled: list[int]) -> None:
    before, other = files(whole), replace(settings, training=Training(beta=0.3))
    flow.build(other, whole)
    after = files(whole)
    assert sampled == []
    assert {name for name in after if after[name] != before[name]} <= {"recipe.json", "build.json"}
    stored = recipes.from_json((whole / "recipe.json").read_text())
    assert stored == other
    assert json.loads((whole / "build.json").read_text())["recipe_digest"] == recipes.digest(stored)


def test_a_build_goes_on_only_with_the_weights_that_it_was_begun_with(
    settings: Recipe, folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(FakeJudge, "judge", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            flow.build(settings, folder)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(flow, "identity", lambda spec: {**backends.identity(spec), "sha256": "0" * 64})
        with pytest.raises(
            UserError, match=r"was begun with other weights: policy: .*'sha256': None.* -> .*'sha256': '000"
        ):
            flow.build(settings, folder)
    flow.build(settings, folder)
    assert files(folder) == files(whole)


def test_a_folder_that_is_no_build_is_refused(settings: Recipe, folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    message = "is not empty and not a build (it has no recipe.json). Give a new or empty folder."
    with pytest.raises(UserError) as caught:
        flow.build(settings, folder)
    assert str(caught.value) == f"{folder} {message}"
    with pytest.raises(UserError) as caught:
        flow.build(settings, folder / "thesis.tex")
    assert str(caught.value) == f"{folder / 'thesis.tex'} {message}"
    assert files(folder) == {"thesis.tex": b"years of work"}


def test_an_empty_folder_is_taken(settings: Recipe, folder: Path, whole: Path) -> None:
    folder.mkdir()
    assert flow.build(settings, folder) == folder
    assert files(folder) == files(whole)


def test_a_recipe_that_cannot_be_read_is_named(settings: Recipe, folder: Path) -> None:
    folder.mkdir()
    (folder / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match=r"recipe\.json does not fit: 'name': Field required"):
        flow.build(settings, folder)


def test_a_bad_source_leaves_a_folder_that_can_be_built_into(folder: Path, tmp_path: Path) -> None:
    settings = nine_prompts(tmp_path)
    content = (tmp_path / "second.jsonl").read_bytes()
    (tmp_path / "second.jsonl").write_text("")
    with pytest.raises(UserError, match="Source 'second' is empty"):
        flow.build(settings, folder)
    (tmp_path / "second.jsonl").write_bytes(content)
    flow.build(settings, folder)
    assert len(table(folder, "ledger")) == 11


# --- edges


def test_a_build_without_a_pair_is_finished_and_says_why(settings: Recipe, folder: Path) -> None:
    flow.build(replace(settings, pairing=Pairing(epsilon=2.0)), folder)
    assert run.read(folder, "pairs").equals(schema.PAIRS.empty_table())
    outcomes = {line["outcome"] for line in table(folder, "ledger")}
    assert "tie" in outcomes
    assert "paired" not in outcomes
    assert json.loads((folder / "build.json").read_text())["thresholds"] == {"moderate": 0.0, "conservative": 0.0}


def test_a_prompt_without_an_outcome_is_an_error(
    settings: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = flow.pairing.pairs.pair

    def forgetful(*args: Any) -> Any:
        paired = original(*args)
        return paired._replace(outcomes=paired.outcomes.head(-1))

    monkeypatch.setattr(flow.pairing.pairs, "pair", forgetful)
    with pytest.raises(ValueError, match="without a known outcome"):
        flow.build(settings, folder)
    assert not (folder / "build.json").exists()


def test_progress_is_reported_step_by_step(settings: Recipe, folder: Path) -> None:
    seen: dict[str, list[int]] = {}

    class Progress:
        def __init__(self, name: str, total: int) -> None:
            self.done = seen.setdefault(name, [-total])

        def __enter__(self) -> Any:
            return self.done.append

        def __exit__(self, *_: object) -> None:
            pass

    flow.build(settings, folder, Progress)
    assert list(seen) == ["responses", "scored"]
    assert {name: (counts[0], sum(counts)) for name, counts in seen.items()} == {
        "responses": (-9, 0),
        "scored": (-9, 0),
    }


def test_shards_are_plain_parquet(whole: Path) -> None:
    for path in whole.rglob("*.parquet"):
        marker = json.loads(path.with_suffix(".done").read_text())
        assert pq.read_table(path).num_rows == marker["rows"]


def test_every_answer_of_the_judge_can_be_named(tmp_path: Path) -> None:
    principles = tuple(Principle(id=name, question=f"Is it {name}?") for name in ("safe", "honest"))
    for judging, answers in (
        (Judging(constitution=principles, ask_p_true=True), ["safe", "honest"]),
        (Judging(kind="trained", model=FAKE), list(backends.MEMBERS)),
    ):
        folder = builds.built(tmp_path / judging.kind, judging=judging)
        judge = json.loads((folder / "models.json").read_text())["judge"]
        assert (judge["kind"], judge["answers"]) == (judging.kind, answers)
        for row in run.read(folder, "scored").to_pylist():
            for response in row["responses"]:
                exchange = backends.Exchange(row["messages"], response["text"])
                for name, value in zip(answers, response["acceptable"], strict=True):
                    one = FakeJudge((Principle(id=name, question=""),))
                    assert value == pytest.approx(one.judge([exchange]).mean())
                assert (response["p_true"] is None) == (not judging.ask_p_true)


def test_an_older_build_goes_on_only_with_the_same_kind_of_judge(tmp_path: Path) -> None:
    settings = builds.recipe(judging=Judging(kind="trained", model=FAKE))
    flow.claim(tmp_path, settings)
    flow.pin_models(settings, tmp_path)
    models = json.loads((tmp_path / "models.json").read_text())
    models["judge"]["answers"] = models["judge"]["answers"][:3]
    (tmp_path / "models.json").write_text(json.dumps(models))
    with pytest.raises(UserError, match="was begun with other weights"):
        flow.pin_models(settings, tmp_path)


def test_a_folder_that_is_no_trained_judge_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    for backend, message in (("hf", "is not a trained judge"), ("vllm", "set its backend to 'hf'")):
        model = ModelSpec(model=str(tmp_path / "judge"), backend=backend)
        settings = builds.recipe(judging=Judging(kind="trained", model=model))
        with pytest.raises(UserError, match=message):
            flow.build(settings, tmp_path / backend)
        assert not (tmp_path / backend / "responses").exists()
