"""Prompts that no engine answers: each in the ledger with its reason, the build stopped when they are too many."""

import subprocess
import sys
from dataclasses import replace

import pytest

from tests.tables import recipe, write_jsonl
from udasa import flow, run
from udasa import recipe as recipes
from udasa.backends import Failure
from udasa.backends_fake import FakeJudge, FakeSampler
from udasa.errors import UserError

pytestmark = pytest.mark.processes


@pytest.fixture
def settings(tmp_path):
    """Twelve prompts in four shards, of which a quarter may fail."""
    path = write_jsonl(tmp_path / "prompts.jsonl", *(f"Question {i}?" for i in range(12)))
    return replace(recipe(path), shard_size=3, max_failed=0.25)


@pytest.fixture
def unanswered(monkeypatch):
    """Prompts whose text holds one of these words fail with that reason."""
    original, words = FakeSampler.sample, {}

    def sample(self, prompts, seeds, report=lambda n: None):
        drawn = original(self, prompts, seeds, report)
        for i, messages in enumerate(prompts):
            for word, reason in words.items():
                if word in messages[-1]["content"]:
                    drawn[i] = Failure(reason, f"because of {word}")
        return drawn

    monkeypatch.setattr(FakeSampler, "sample", sample)
    return words


def test_a_failed_prompt_is_in_the_ledger_with_its_reason_and_nowhere_else(settings, unanswered, tmp_path):
    whole = flow.build(settings, tmp_path / "whole")
    unanswered |= {" 4?": "context-too-long", " 7?": "engine-error"}
    folder = flow.build(settings, tmp_path / "build")
    ledger = run.read_frame(folder, "ledger")
    assert ledger.height == 12
    lines = {row["source_row"]: (row["outcome"], row["detail"]) for row in ledger.iter_rows(named=True)}
    assert lines[4] == ("context-too-long", "because of  4?")
    assert lines[7] == ("engine-error", "because of  7?")
    before = {row["source_row"]: row["outcome"] for row in run.read_frame(whole, "ledger").iter_rows(named=True)}
    assert {n: outcome for n, (outcome, _) in lines.items() if n not in (4, 7)} == {
        n: outcome for n, outcome in before.items() if n not in (4, 7)
    }
    scored = run.read_frame(folder, "scored")
    assert sorted(scored["source_row"]) == [i for i in range(12) if i not in (4, 7)]
    same = run.read_frame(whole, "scored").filter(~run.read_frame(whole, "scored")["source_row"].is_in([4, 7]))
    assert scored.equals(same)


def test_too_many_failures_stop_the_build_as_soon_as_that_is_certain(settings, unanswered, tmp_path):
    unanswered |= {f" {i}?": "context-too-long" for i in (0, 1, 4, 7, 11)}
    with pytest.raises(
        UserError,
        match=r"4 of 12 prompts have no responses or no judgement of them, above the recipe's max_failed of 25%",
    ):
        flow.build(settings, tmp_path / "build")
    assert len(run.shard_paths(tmp_path / "build", "responses")) == 3
    assert not (tmp_path / "build" / "scored").exists()


def test_an_engine_that_answers_nothing_stops_the_build_and_loses_nothing(settings, unanswered, tmp_path):
    whole = flow.build(settings, tmp_path / "whole")
    unanswered |= {f" {i}?": "engine-error" for i in (3, 4, 5)}
    with pytest.raises(UserError, match="answered none of the 3 prompts of a shard; the first error: because of  3"):
        flow.build(settings, tmp_path / "build")
    assert len(run.shard_paths(tmp_path / "build", "responses")) == 1
    unanswered.clear()
    assert contents(flow.build(settings, tmp_path / "build")) == contents(whole)


def test_failed_shards_are_sampled_again_on_demand(settings, unanswered, tmp_path):
    whole = flow.build(settings, tmp_path / "whole")
    unanswered |= {" 4?": "engine-error"}
    folder = flow.build(settings, tmp_path / "build")
    assert contents(folder) != contents(whole)
    unanswered.clear()
    assert contents(flow.build(settings, folder)) != contents(whole)
    flow.forget_failures(folder)
    assert contents(flow.build(settings, folder)) == contents(whole)


@pytest.fixture
def unjudged(monkeypatch):
    """Prompts whose text holds one of these words get no judgement of their first response."""
    original, words = FakeJudge.judge, []

    def judge(self, exchanges, report=lambda n: None):
        found, seen = list(original(self, exchanges, report)), set()
        for i, exchange in enumerate(exchanges):
            text = exchange.messages[-1]["content"]
            if text not in seen and any(word in text for word in words):
                found[i] = Failure("engine-error", f"503 about {text}")
            seen.add(text)
        return found

    monkeypatch.setattr(FakeJudge, "judge", judge)
    return words


def test_a_prompt_that_a_judge_left_out_is_in_the_ledger_and_has_null_values(settings, unjudged, tmp_path):
    whole = flow.build(settings, tmp_path / "whole")
    unjudged.append(" 4?")
    folder = flow.build(settings, tmp_path / "build")
    (line,) = run.read_frame(folder, "ledger").filter(outcome="judge-error").to_dicts()
    assert line["detail"] == "engine-error: 503 about Question 4?"
    rows = {row["prompt_id"]: row for row in run.read(folder, "scored").to_pylist()}
    first, *others = rows[line["prompt_id"]]["responses"]
    assert (first["judge_failure"], first["value_risk"]) == (line["detail"], None)
    assert first["value_uncertainty"] is None and first["acceptable"] is None
    assert all(one["judge_failure"] is None for one in others if one["text"] != first["text"])
    assert line["prompt_id"] not in run.read(folder, "pairs")["prompt_id"].to_pylist()
    unjudged.clear()
    assert contents(flow.build(settings, folder)) != contents(whole)
    flow.forget_failures(folder)
    assert contents(flow.build(settings, folder)) == contents(whole)


def test_missing_judgements_count_with_missing_responses(settings, unanswered, unjudged, tmp_path):
    unanswered |= {" 1?": "context-too-long", " 2?": "engine-error"}
    unjudged.append(" 7?")
    flow.build(settings, tmp_path / "just")  # 3 of 12
    unjudged.append(" 9?")
    with pytest.raises(UserError, match=r"4 of 12 prompts have .*: \{'context-too-long': 1, .*'judge-error': 2\}"):
        flow.build(settings, tmp_path / "build")


def test_a_judge_that_answers_nothing_stops_the_build_and_loses_nothing(settings, unjudged, tmp_path, monkeypatch):
    whole = flow.build(settings, tmp_path / "whole")
    with monkeypatch.context() as down:
        down.setattr(
            FakeJudge, "judge", lambda self, exchanges, report: [Failure("engine-error", "503")] * len(exchanges)
        )
        with pytest.raises(
            UserError, match=r"answered about none of the \d+ responses of a shard; the first error: 503"
        ):
            flow.build(settings, tmp_path / "build")
    assert contents(flow.build(settings, tmp_path / "build")) == contents(whole)


def contents(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in flow.LOCAL)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


KILLED = """
import os, random, signal, sys
from pathlib import Path
from udasa import backends_fake as fakes, flow, recipe

settings, folder, rng = recipe.load(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3]))

def deadly(owner, name, left):
    original = getattr(owner, name)
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, call)

def attempt(left):
    for owner, name in (
        (os, "fsync"), (os, "replace"), (Path, "mkdir"), (Path, "open"),
        (fakes.FakeSampler, "sample"), (fakes.FakeEntailer, "entail"), (fakes.FakeJudge, "judge"),
    ):
        deadly(owner, name, left)
    flow.build(settings, folder)

kills = 0
while kills < 100:
    child = os.fork()  # before anything here has started a thread
    if child == 0:
        attempt([rng.randrange(20, 90)])
        os._exit(0)
    rng.random()
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    kills += 1
print(kills, os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("seed", range(10))
def test_a_build_killed_again_and_again_at_random_points_has_the_same_bytes(settings, tmp_path, seed):
    """SIGKILL at random calls, at least 30 times in all, each followed by the same build."""
    whole, folder, stored = flow.build(settings, tmp_path / "whole"), tmp_path / "build", tmp_path / "stored.json"
    stored.write_text(recipes.to_json(settings))
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(stored), str(folder), str(seed)]
    kills, code = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert (int(kills) >= 3, int(code)) == (True, 0)
    assert contents(folder) == contents(whole)
