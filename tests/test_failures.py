"""Prompts that no engine answers: each in the ledger with its reason, the build stopped when they are too many."""

import subprocess
import sys
from dataclasses import replace

import pytest

from tests.tables import recipe, write_jsonl
from udasa import flow, run
from udasa import recipe as recipes
from udasa.backends import Failure, FakeSampler
from udasa.errors import UserError


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
    with pytest.raises(UserError, match=r"4 of 12 prompts have no responses, above the recipe's max_failed of 25%"):
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


def contents(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in flow.LOCAL)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


KILLED = """
import os, random, signal, sys
from pathlib import Path
from udasa import backends, flow, recipe

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
        (backends.FakeSampler, "sample"), (backends.FakeEntailer, "entail"), (backends.FakeJudge, "judge"),
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
