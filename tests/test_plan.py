"""What a build will cost and has cost: predictions, the log, budgets."""

import json
import tempfile

import pytest

from tests.builds import built, recipe
from tests.releases import contents
from udasa import costs, flow, log, plan, run
from udasa import recipe as recipes
from udasa.errors import UserError
from udasa.recipe import Source


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return built(tmp_path_factory.mktemp("plan") / "whole")


def words(prompts):
    return [sum(len(m["content"].split()) for m in messages) for messages in prompts]


def rows(folder):
    return {name: data for name, data in contents(folder).items() if name not in flow.LOCAL}


def by_name(found):
    return {p.name: p for p in found.predictions}


def test_the_actual_tokens_are_in_the_interval_and_all_prompts_make_it_exact(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    actual, prices = plan.actual(whole), plan.Prices(prompt=2.0, response=8.0)
    few = by_name(plan.plan(recipe(), 16, words, prices))
    asked = sum(words(run.read(whole, "prompts")["messages"].to_pylist()))
    tokens = few["response tokens"]
    assert tokens.low <= actual["response tokens"] <= tokens.high and tokens.low < tokens.high and tokens.n == 16
    assert few["prompt tokens"].low <= asked <= few["prompt tokens"].high
    assert few["scored seconds"].n == plan.SHARDS
    every = by_name(plan.plan(recipe(), 1000, words, prices))
    exact = every["response tokens"]
    assert exact.value == exact.low == exact.high == pytest.approx(actual["response tokens"])
    assert every["money"].value == pytest.approx((asked * 2 + actual["response tokens"] * 8) / 1e6)
    assert list(tmp_path.iterdir()) == []


def test_the_total_of_a_sample_is_the_textbooks():
    found = plan.sampled("x", "tokens", [1.0, 2.0, 3.0, 4.0], 100)
    half = 100 * 3.182446305284263 * (5 / 3) ** 0.5 * 0.96**0.5 / 2
    assert (found.value, found.high) == (250.0, pytest.approx(250 + half))
    assert found.low == 0.0 if half > 250 else found.low == pytest.approx(250 - half)


def test_a_budget_stops_between_shards_and_a_larger_one_goes_on_to_the_same_bytes(whole, tmp_path, udasa):
    path, folder = tmp_path / "r.json", tmp_path / "b"
    path.write_text(recipes.to_json(recipe()))
    first = next(line.tokens for line in log.read(whole) if line.step == "responses")
    code, _, error = udasa("build", path, "-o", folder, "--max-budget", f"{first}tokens")
    assert code == 3 and f"Stopped at the budget of {first} tokens" in error
    assert len(run.shard_paths(folder, "responses")) == 1
    assert udasa("build", path, "-o", folder, "--max-budget", f"{first}tokens")[0] == 3
    assert len(run.shard_paths(folder, "responses")) == 1, "the budget is of all runs"
    code, shown, _ = udasa("build", path, "-o", folder, "--json", "--max-budget", "60m")
    lines = [json.loads(line) for line in shown.splitlines()]
    assert code == 0 and [line["step"] for line in lines if line.get("shard")] == ["responses"] * 2 + ["scored"] * 3
    assert [line["eta"] for line in lines if line.get("step") == "scored"][-1] == 0
    assert lines[-1]["actual"]["response tokens"] == plan.actual(whole)["response tokens"]
    assert rows(folder) == rows(whole)


def test_a_budget_in_money_needs_prices(tmp_path):
    with pytest.raises(UserError, match="needs prices"):
        log.parse_budget("12.50money", None)
    budget = log.parse_budget("12.50money", log.Rates(per_prompt=0.5, per_token=0.25))
    line = log.Line(step="responses", shard="0", rows=4, seconds=None, load_seconds=0.0, tokens=8)
    assert budget.spent([line]) == 4.0
    for wrong in ("30", "m", "0tokens", "-1m", "nanm", "1.2.3m"):
        with pytest.raises(UserError, match="is no budget"):
            log.parse_budget(wrong, None)


def test_a_torn_last_line_is_taken_away_and_another_is_said(tmp_path):
    line = log.Line(step="responses", shard="0", rows=4, seconds=1.0, load_seconds=0.0, tokens=8)
    assert log.read(tmp_path) == []
    log.append(tmp_path, line)
    with (tmp_path / log.LOG).open("a") as file:
        file.write('{"step": "respo')
    assert log.read(tmp_path) == [line]
    log.append(tmp_path, line)
    assert log.read(tmp_path) == [line, line]
    (tmp_path / log.LOG).write_text("{}\n")
    with pytest.raises(UserError, match="cannot be read"):
        log.read(tmp_path)


def test_shards_that_a_killed_run_did_not_log_are_counted_without_a_time(tmp_path):
    folder = built(tmp_path / "b")
    before = plan.actual(folder)["response tokens"]
    (folder / log.LOG).unlink()
    costs.adopt(folder)
    assert plan.actual(folder)["response tokens"] == before
    assert {line.seconds for line in log.read(folder)} == {None}


def test_a_plan_is_kept_and_compared(whole, tmp_path, udasa):
    path, folder = tmp_path / "r.json", tmp_path / "b"
    path.write_text(recipes.to_json(recipe()))
    code, shown, _ = udasa("plan", path, "--json", "-o", folder)
    assert code == 0 and json.loads(shown)["prompts"] == 40
    assert [path.name for path in folder.iterdir()] == [log.PLAN], "the folder is not claimed yet"
    code, shown, _ = udasa("plan", path, "--pilot", 4)
    assert code == 0 and "40 prompts, from a pilot of 4" in " ".join(shown.split())
    code, shown, error = udasa("build", path, "-o", folder)
    assert code == 0 and "Predicted and actual" in shown and "response tokens" in shown
    assert "responses: 40 in" in error and "tokens/s" in error and "scored: 40 in" in error
    assert rows(folder) == rows(whole)


def test_a_plan_of_a_broken_source_says_so(tmp_path, udasa):
    path = tmp_path / "r.json"
    broken = (Source(name="mine", task="helpfulness", path=str(tmp_path / "none.jsonl")),)
    path.write_text(recipes.to_json(recipe(sources=broken)))
    code, _, error = udasa("plan", path)
    assert code == 2 and "there is no file at" in error
    code, _, error = udasa("plan", path, "--price-in", 1)
    assert code == 2 and "Give both" in error
