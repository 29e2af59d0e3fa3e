"""The audit in its places: planted questions before a build, limits after it, verify's comparison, the command."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import tiny
from tests.hub.client import run_client
from tests.hub.server import RunningHub
from tests.tables import recipe, write_jsonl
from udasa import flow, run
from udasa import recipe as recipes
from udasa.backends_fake import FakeJudge, FakeSampler
from udasa.errors import LimitError, UserError
from udasa.limits import Lint, Planted
from udasa.lint import Finding, audit_build, disagreements, fail_on_limits, finding, planted, recheck
from udasa.publish import publish
from udasa.recipe import Pairing, Recipe, Training
from udasa.score import Scorer

BUNDLED = Planted()
TEXTS = [f"Which of the {i} rivers runs through the town of number {i * 7} on the map?" for i in range(9)]


@pytest.fixture
def settings(tmp_path: Path) -> Recipe:
    path = write_jsonl(tmp_path / "prompts.jsonl", *TEXTS)
    return recipe(path, shard_size=3, pairing=Pairing(risk_ceiling=0.6), training=Training(max_length=8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "build"


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return counted(monkeypatch, FakeSampler, "sample")


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return counted(monkeypatch, FakeJudge, "judge")


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    calls: list[int] = []
    original = getattr(owner, name)

    def call(self: Any, items: Any, *rest: Any) -> Any:
        calls.append(len(items))
        return original(self, items, *rest)

    monkeypatch.setattr(owner, name, call)
    return calls


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the memory of answers, which keeps those to the planted questions too."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in flow.LOCAL)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def findings(folder: Path) -> dict[str, dict[str, Any]]:
    return {f["name"]: f for f in json.loads((folder / "build.json").read_text())["findings"]}


# --- planted questions


class Knowing:
    """An entailer and a judge that know the answers of the bundled questions, or hold the opposite."""

    def __init__(self, right: bool = True) -> None:
        self.right = right
        questions = planted.read_questions(str(BUNDLED.path))
        self.same = {frozenset((q["first"], q["second"])) for q in questions if q["kind"] == "same"}
        self.bad = {q["second"] for q in questions if q["kind"] == "replies"}

    def entail(self, pairs: Any, report: Any = None) -> Any:
        rows = [(frozenset(pair) in self.same) is self.right for pair in pairs]
        return np.array([[1.0, 0.0, 0.0] if same else [0.0, 0.0, 1.0] for same in rows]).reshape(-1, 3)

    def judge(self, exchanges: Any, report: Any = None) -> Any:
        risky = [(e.response in self.bad) is self.right for e in exchanges]
        return np.array([[[0.1, 0.1] if bad else [0.9, 0.9]] * 2 for bad in risky])


def told(right: bool, floors: Planted = BUNDLED) -> list[Finding]:
    questions, knowing = planted.read_questions(str(BUNDLED.path)), Knowing(right)
    return planted.planted_findings(planted.ask(questions, Scorer(knowing, knowing)), floors)


def test_models_that_know_are_right_about_everything() -> None:
    entailer, judge = told(True)
    assert (entailer.name, entailer.value, entailer.count, entailer.total) == ("planted-entailer", 1.0, 0, 16)
    assert (judge.name, judge.value, judge.count, judge.total) == ("planted-judge", 1.0, 0, 12)
    assert entailer.examples == judge.examples == ()
    assert (entailer.low, entailer.high) == pytest.approx(finding.wilson(8, 8))
    assert "its sets are right for 16 of 16 (0 of one meaning parted, 0 of two joined)" in entailer.detail


def test_models_that_hold_the_opposite_are_wrong_about_everything() -> None:
    entailer, judge = told(False, Planted(entailer_floor=0.01, judge_floor=0.01))
    assert (entailer.value, entailer.count, entailer.failed) == (0.0, 16, True)
    assert (judge.value, judge.count, judge.failed) == (0.0, 12, True)
    assert len(judge.examples) == 5
    assert "(8 of one meaning parted, 8 of two joined)" in entailer.detail


def test_a_build_asks_once_and_keeps_the_answers(settings: Recipe, folder: Path, judged: list[int]) -> None:
    asking = replace(settings, planted=BUNDLED)
    flow.build(asking, folder)
    assert judged[0] == 56
    assert sum(judged[1:]) == sum(len({one["text"] for one in row["responses"]}) for row in rows(folder, "scored"))
    answers = planted.read_answers(folder / planted.FILE)
    assert answers is not None
    assert [f.to_json() for f in planted.planted_findings(answers, BUNDLED)] == [
        findings(folder)[name] for name in planted.NAMES
    ]
    judged.clear()
    (folder / "build.json").unlink()
    flow.build(asking, folder)
    assert judged == []


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run.read(folder, name).to_pylist()
    return found


def test_the_questions_change_no_row(settings: Recipe, folder: Path, tmp_path: Path) -> None:
    without = files(flow.build(settings, tmp_path / "without"))
    asked = files(flow.build(replace(settings, planted=BUNDLED), folder))
    assert {name for name in asked if asked[name] != without.get(name)} == {"recipe.json", "planted.json", "build.json"}
    assert findings(tmp_path / "without")["planted-judge"]["detail"].startswith("Not checked: ")
    assert asked == files(flow.build(replace(settings, planted=BUNDLED), tmp_path / "again"))


def test_below_a_floor_nothing_is_sampled(
    settings: Recipe, folder: Path, tmp_path: Path, sampled: list[int], judged: list[int]
) -> None:
    strict = replace(settings, planted=Planted(judge_floor=0.99))
    with pytest.raises(LimitError, match=r"planted-judge is 0\.\d+, the limit 0\.99: .* Nothing was sampled"):
        flow.build(strict, folder)
    assert (sampled, judged) == ([], [56])
    assert not (folder / "build.json").exists()
    flow.build(replace(settings, planted=BUNDLED), folder)
    assert judged[:2] != [56, 56]
    assert files(folder) == files(flow.build(replace(settings, planted=BUNDLED), tmp_path / "undisturbed"))


def test_other_questions_are_asked_anew(settings: Recipe, folder: Path, tmp_path: Path, judged: list[int]) -> None:
    lines = planted.read_questions(str(BUNDLED.path))
    mine = write_jsonl(tmp_path / "mine.jsonl", *lines[:1], *lines[8:9], *lines[-2:])
    flow.build(replace(settings, planted=BUNDLED), folder)
    judged.clear()
    flow.build(replace(settings, planted=Planted(path=str(mine))), folder)
    assert judged == [8]
    assert (findings(folder)["planted-entailer"]["total"], findings(folder)["planted-judge"]["total"]) == (2, 2)


LINE = {"id": "a", "kind": "same", "prompt": "p", "first": "x", "second": "y"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([LINE, {"id": "b"}], "Row 1 of .* must have a text in each of first, id, kind, prompt, second"),
        ([LINE | {"first": ""}], "Row 0 of .* must have a text in each of"),
        ([LINE | {"kind": "odd"}], "Row 0 of .* is of kind 'odd'; expected one of same, contradiction"),
        ([LINE], "must have an id of its own in every row, and rows of 'same'"),
        ([LINE, LINE | {"kind": "replies"}, LINE | {"kind": "unrelated"}], "must have an id of its own"),
    ],
)
def test_questions_that_cannot_be_asked(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = write_jsonl(tmp_path / "bad.jsonl", *lines)
    with pytest.raises(UserError, match=message):
        planted.read_questions(str(path))
    with pytest.raises(UserError, match="There are no planted questions at"):
        planted.read_questions(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lint(ties=1.5), "limits and shares must be between 0 and 1, got ties = 1.5"),
        (lambda: Lint(similarity=0.4), "similarity must be at least 0.5, got 0.4"),
        (lambda: Lint(longer_chosen=0.4), "longer_chosen must be at least 0.5"),
        (lambda: Lint(prompt_ngram=3), "prompt_ngram and reply_ngram must be at least 4"),
        (lambda: Lint(evaluation=("org/name",)), "org/name names a Hub data set without a revision"),
        (lambda: Planted(judge_floor=2.0), "floors must be between 0 and 1"),
        (lambda: Planted(path=None, judge_floor=0.5), "a floor needs questions"),
    ],
)
def test_settings_that_do_not_fit(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- limits


def test_a_limit_stops_a_build_that_can_go_on(
    settings: Recipe, folder: Path, tmp_path: Path, sampled: list[int]
) -> None:
    strict = replace(settings, lint=Lint(high_risk=0.0, high_risk_chosen=0.0))
    with pytest.raises(LimitError) as caught:
        flow.build(strict, folder)
    num = pq.read_metadata(folder / "pairs" / "00000.parquet").num_rows
    assert str(caught.value).startswith(
        "The audit fails. high-risk-chosen is 1, the limit 0: "
        f"{num} of {num} chosen replies have a value risk above 0. "
    )
    assert f"Every row is kept: `udasa lint {folder}` shows all findings." in str(caught.value)
    assert not (folder / "build.json").exists()
    sampled.clear()
    flow.build(replace(settings, lint=Lint(high_risk=0.0)), folder)
    assert sampled == []
    assert files(folder) == files(flow.build(replace(settings, lint=Lint(high_risk=0.0)), tmp_path / "undisturbed"))


def test_a_stricter_limit_takes_back_a_finished_build(settings: Recipe, folder: Path) -> None:
    flow.build(settings, folder)
    with pytest.raises(LimitError):
        flow.build(replace(settings, lint=Lint(high_risk=0.0, high_risk_chosen=0.0)), folder)
    assert not (folder / "build.json").exists()


def test_every_finding_that_fails_is_told() -> None:
    found = [
        finding.finding(name, 0.1, f"Sentence {name}.", value=value, examples=["x"])
        for name, value in (("ties", 0.5), ("cut-replies", 0.1), ("open-endings", 0.25))
    ]
    fail_on_limits(found[1:2], "Then.")
    with pytest.raises(LimitError) as caught:
        fail_on_limits(found, "Then.")
    assert str(caught.value) == (
        "The audit fails. ties is 0.5, the limit 0.1: Sentence ties. For example x. "
        "open-endings is 0.25, the limit 0.1: Sentence open-endings. For example x. Then."
    )


# --- stored and found again


def test_a_build_stores_what_is_found_again(settings: Recipe, folder: Path) -> None:
    flow.build(settings, folder)
    stored = list(findings(folder).values())
    assert [f["name"] for f in stored] == sorted(f["name"] for f in stored)
    found = audit_build(settings, folder)
    assert [f.to_json() for f in found] == stored
    assert disagreements(stored, found) == []


def test_what_disagrees_is_named(settings: Recipe, folder: Path) -> None:
    flow.build(settings, folder)
    found = audit_build(settings, folder)
    stored = [f.to_json() for f in found]
    by_name = {f["name"]: f for f in stored}
    by_name["ties"]["count"] = 7
    by_name["longer-chosen"]["value"] += 1e-6
    by_name["tied-prompts"]["value"] += 1e-12
    by_name["evaluation-near-duplicates"] |= {"count": 3, "detail": "against other data; sha256 0123"}
    by_name["evaluation-ngrams-in-prompts"]["count"] = 4
    by_name["planted-judge"]["value"] = 0.9
    by_name["over-max-length"]["count"] = 2
    stored.append({**by_name["ties"], "name": "of-another-version"})
    lines = disagreements(stored, [f for f in found if f.name not in planted.NAMES])
    assert [line.split(" is ")[0] for line in lines] == [
        "evaluation-ngrams-in-prompts: count",
        "longer-chosen: value",
        "ties: count",
    ]
    assert lines[-1] == "ties: count is 0, not 7"


def test_a_release_is_rechecked_without_its_evaluation_data(settings: Recipe, folder: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "exam.jsonl", {"item": "what is the height of that old lighthouse"})
    asked = replace(settings, lint=Lint(evaluation=(str(path),)), planted=BUNDLED)
    flow.build(asked, folder)
    tables = [run.read_frame(folder, name) for name in ("pairs", "scored", "ledger")]
    stored = list(findings(folder).values())
    assert recheck(stored, tables[0], tables[1], tables[2], asked) == []
    path.unlink()
    assert recheck(stored, tables[0], tables[1], tables[2], asked) == []
    fewer = recheck(stored, tables[0].head(-1), tables[1], tables[2], asked)
    assert any(line.startswith("longer-chosen: total is ") for line in fewer)
    assert not any(line.startswith("evaluation-") for line in fewer)


# --- the command


def test_a_build_and_its_release_are_found_alike(udasa: Any, settings: Recipe, folder: Path, tmp_path: Path) -> None:
    flow.build(replace(settings, planted=BUNDLED), folder)
    code, shown, _ = udasa("lint", folder, "--json")
    assert (code, json.loads(shown)) == (0, list(findings(folder).values()))
    publish(folder, str(tmp_path / "release"), version="1.0.0")
    assert udasa("lint", tmp_path / "release", "--json") == (0, shown, "")
    code, table, _ = udasa("lint", folder)
    assert code == 0
    assert "Audit" in table
    assert "over-max-length: Not checked: no tokenizer was given" in table


def test_a_release_on_a_hub(hub: RunningHub, settings: Recipe, folder: Path, tmp_path: Path) -> None:
    def publish_and_lint(build: str) -> list[dict[str, Any]]:
        from pathlib import Path

        from udasa.cli.lint import find
        from udasa.publish import publish

        publish(Path(build), "acme/audited", version="1.0.0")
        return [finding.to_json() for finding in find("acme/audited@v1.0.0", [], None)]

    flow.build(replace(settings, planted=BUNDLED), folder)
    found = run_client(hub, publish_and_lint, str(folder), home=tmp_path / "home", token=hub.token())
    assert found == list(findings(folder).values())


def test_a_failed_build_can_be_looked_at(udasa: Any, settings: Recipe, folder: Path, tmp_path: Path) -> None:
    strict = replace(settings, lint=Lint(high_risk=0.0, high_risk_chosen=0.0))
    (tmp_path / "r.json").write_text(recipes.to_json(strict))
    code, _, error = udasa("build", tmp_path / "r.json", "-o", folder)
    assert code == 1
    assert "error: The audit fails. high-risk-chosen is 1, the limit 0:" in error
    code, shown, _ = udasa("lint", folder)
    assert code == 1
    assert "fails" in shown
    assert "high-risk-chosen: " in shown


def test_more_evaluation_data(udasa: Any, settings: Recipe, folder: Path, tmp_path: Path) -> None:
    flow.build(settings, folder)
    path = write_jsonl(tmp_path / "exam.jsonl", *({"item": text} for text in TEXTS))
    code, shown, _ = udasa("lint", folder, "--eval-data", path, "--json")
    found = next(f for f in json.loads(shown) if f["name"] == "evaluation-near-duplicates")
    assert (code, found["value"], found["failed"]) == (1, 1.0, True)
    code, _, error = udasa("lint", folder, "--eval-data", tmp_path / "none.jsonl")
    assert code == 2
    assert "There is no evaluation data at" in error


def test_the_recipe_names_evaluation_data(settings: Recipe, folder: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "exam.jsonl", *({"item": text} for text in TEXTS))
    with pytest.raises(LimitError, match="evaluation-near-duplicates is 1, the limit 0"):
        flow.build(replace(settings, lint=Lint(evaluation=(str(path),))), folder)


def test_a_tokenizer_counts_what_the_trainer_cuts(udasa: Any, settings: Recipe, folder: Path, tmp_path: Path) -> None:
    flow.build(settings, folder)
    code, shown, _ = udasa("lint", folder, "--tokenizer", tiny.policy(), "--json")
    found = next(f for f in json.loads(shown) if f["name"] == "over-max-length")
    assert code == 0
    assert found["count"] == found["total"] == pq.read_metadata(folder / "pairs" / "00000.parquet").num_rows
    assert "have a side of more than 8 tokens (training.max_length)" in found["detail"]
    code, _, error = udasa("lint", folder, "--tokenizer", tmp_path / "none")
    assert code == 2
    assert "There is no tokenizer at" in error
    assert udasa("lint", folder, "--tokenizer", tiny.policy(chat=False))[0] == 2


def test_a_target_that_is_not_there(udasa: Any, tmp_path: Path) -> None:
    code, _, error = udasa("lint", tmp_path)
    assert code == 2
    assert "is not a release" in error


def test_evaluation_prompts_stop_a_build_before_sampling(
    settings: Recipe, folder: Path, tmp_path: Path, sampled: list[int]
) -> None:
    path = str(write_jsonl(tmp_path / "exam.jsonl", {"item": TEXTS[4]}))
    with pytest.raises(LimitError, match=r"evaluation-near-duplicates is .* Nothing was sampled"):
        flow.build(replace(settings, lint=Lint(evaluation=(path,))), folder)
    assert sampled == []
    allowed = Lint(evaluation=(path,), evaluation_near_duplicates=1.0)
    flow.build(replace(settings, lint=allowed), folder)
    assert sum(sampled) == 9
