"""Builds that are stopped and killed anywhere go on to the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flow.hand import SHARDS, files, nine_prompts, table
from tests.tables import write_jsonl
from udasa import flow, prompts, questions, run
from udasa import recipe as recipes
from udasa.backends_fake import FakeEntailer, FakeSampler
from udasa.recipe import Recipe

NUM_WRITES = 2 + 2 * (SHARDS + 1 + SHARDS + SHARDS + 1 + 1) + 1


def test_the_number_of_writes_of_a_build(settings: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    original = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (original(a, b), written.append(str(Path(b).relative_to(folder)))))
    flow.build(settings, folder)
    assert len(written) == len(set(written)) == NUM_WRITES
    assert (written[0], written[-1]) == ("recipe.json", "build.json")


@pytest.mark.parametrize("number", range(NUM_WRITES))
def test_a_build_interrupted_at_any_write_goes_on_to_the_same_bytes(
    whole: Path, settings: Recipe, folder: Path, sampled: list[int], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    original, left = os.replace, [number]

    def interrupted(source: Any, target: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        original(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        flow.build(settings, folder)
    done = len(run.shard_paths(folder, "responses"))
    sampled.clear()
    flow.build(settings, folder)
    assert files(folder) == files(whole)
    assert sampled == [3] * (SHARDS - done)


def asked(monkeypatch: pytest.MonkeyPatch, fails_at: int | None = None) -> list[int]:
    """The number of questions of every call of the entailer, which fails at the given call."""
    calls: list[int] = []
    original = FakeEntailer.entail

    def entail(self: FakeEntailer, pairs: Any, report: Any) -> Any:
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        calls.append(len(pairs))
        return original(self, pairs, report)

    monkeypatch.setattr(FakeEntailer, "entail", entail)
    return calls


@pytest.mark.parametrize("fails_at", range(1, 12, 3))
def test_a_shard_that_stops_half_way_asks_only_what_is_left(
    whole: Path, settings: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    monkeypatch.setattr(questions, "BLOCK", 7)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before = asked(patch, fails_at)
        flow.build(settings, folder)
    after = asked(monkeypatch)
    flow.build(settings, folder)
    assert files(folder) == files(whole)
    rest = len(after)
    flow.build(settings, folder.with_name("undisturbed"))
    assert before + after[:rest] == after[rest:]


def test_answers_of_another_build_may_be_given(
    whole: Path, settings: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = asked(monkeypatch)
    flow.build(settings, folder, answers=whole / flow.ANSWERS)
    assert files(folder) == files(whole)
    assert calls == []
    assert not (folder / flow.ANSWERS).exists()


@pytest.mark.parametrize(("fake", "method"), [(FakeSampler, "sample"), (FakeEntailer, "entail")])
@pytest.mark.parametrize("fails_at", range(SHARDS))
def test_a_model_that_fails_in_a_shard_loses_that_shard_only(
    whole: Path, settings: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch, fake: Any, method: str, fails_at: int
) -> None:
    original, calls = getattr(fake, method), [0]

    def failing(self: Any, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == fails_at + 1:
            raise RuntimeError("out of memory")
        return original(self, *args)

    monkeypatch.setattr(fake, method, failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        flow.build(settings, folder)
    assert len(run.shard_paths(folder, "responses" if method == "sample" else "scored")) == fails_at
    flow.build(settings, folder)
    assert calls[0] == SHARDS + 1
    assert files(folder) == files(whole)


KILLED = """
import os, signal, sys
from pathlib import Path
from udasa import backends_fake, flow, recipe

where, number, stored, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
owner = os if where == "replace" else backends_fake.FakeSampler
original, calls = getattr(owner, where), [0]

def deadly(*args):
    calls[0] += 1
    if calls[0] == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)

setattr(owner, where, deadly)
flow.build(recipe.load(stored), Path(folder))
"""


@pytest.mark.parametrize(
    ("where", "number", "done"), [("sample", 2, 1), ("replace", 1, 0), ("replace", 13, 1)], ids=lambda x: str(x)
)
def test_a_build_that_was_killed_goes_on_to_the_same_bytes(
    whole: Path, settings: Recipe, folder: Path, tmp_path: Path, sampled: list[int], where: str, number: int, done: int
) -> None:
    stored = tmp_path / "stored.json"
    stored.write_text(recipes.to_json(settings))
    killed = subprocess.run([sys.executable, "-c", KILLED, where, str(number), str(stored), str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (folder / "build.json").exists()
    flow.build(settings, folder)
    assert sampled == [3] * (SHARDS - done)
    assert files(folder) == files(whole)


def test_sources_that_shrink_before_they_are_all_read_leave_no_stale_shard(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, write = nine_prompts(tmp_path), run.write_shard

    def interrupted(path: Path, rows: Any) -> None:
        if path.parent.name == "dropped":
            raise KeyboardInterrupt
        write(path, rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "write_shard", interrupted)
        flow.build(settings, folder)
    write_jsonl(tmp_path / "first.jsonl", "Question 0?", "Question 1?")
    flow.build(settings, folder)
    assert [row["source_row"] for row in table(folder, "prompts")] == [0, 1, 0, 1, 2]
    assert len(table(folder, "ledger")) == 5


def test_sources_that_change_after_they_were_read_do_not_count(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = nine_prompts(tmp_path)

    def fail(*_: Any) -> Any:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(FakeSampler, "sample", fail)
        flow.build(settings, folder)
    write_jsonl(tmp_path / "first.jsonl", "Something else?")
    monkeypatch.setattr(prompts, "collect", fail)
    flow.build(settings, folder)
    assert [row["source_row"] for row in table(folder, "scored")] == [0, 1, 2, 3, 4, 5, 7, 1, 2]
