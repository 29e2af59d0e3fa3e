"""Experiments: cells, their budget, their resumption and their table."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from tests import tiny
from tests.builds import FAKE, built, recipe
from udasa import arms
from udasa.arms.contrast import contrasted
from udasa.backends import ModelSpec, Sampling
from udasa.digests import stable_hash
from udasa.errors import DivergedError, LimitError, UserError
from udasa.experiment import Plan, compare, experiment, run, to_markdown
from udasa.heldout import is_held_out
from udasa.probe import METRICS
from udasa.recipe import Training
from udasa.train import Staged

pytest.importorskip("trl")
pytest.importorskip("peft")

PLAN = Plan(arms=("staged", "single", "random"), seeds=(0, 1), holdout=0.3)
Result = dataclasses.make_dataclass("Result", ["stage", "pairs", "steps"])


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return str(built(tmp_path_factory.mktemp("experiment") / "build", sampling=Sampling(k=4, max_new_tokens=8)))


@pytest.fixture(scope="module")
def settings():
    """A tiny policy on the fakes' prompts."""
    training = Training(learning_rate=2e-3, batch_size=4, device_batch_size=4, max_length=96)
    return recipe(policy=ModelSpec(model=str(tiny.policy())), training=training)


@pytest.fixture
def trained(monkeypatch):
    """Put a trainer and a probe in the place of the real ones, that say what they were given; returns the cells."""
    seen = []

    def train(pairs, output, *, policy, training, progress):
        seen.append(output.name)
        results = [Result(stage, len(rows), -(-len(rows) // training.batch_size)) for stage, rows in pairs.items()]
        return Staged(tuple(results), output / str([rows["prompt_id"] for rows in pairs.values()]), "go on", ())

    def probe(policy, held, *, adapter=None, base_logprobs):
        names = [row["prompt_id"] for row in held.pairs]
        cell = adapter and (adapter.parent.name, adapter.name)
        return {metric: {n: stable_hash(cell, metric, n) % 1000 / 1000 for n in names} for metric in METRICS}

    monkeypatch.setattr(run, "train_stages", train)
    monkeypatch.setattr(run, "probe", probe)
    monkeypatch.setattr(run, "base_logprobs", lambda _, held: np.zeros((len(held.pairs), 2)))
    return seen


def test_a_real_experiment(build, settings, tmp_path):
    """Two arms, one seed, on a real policy: every number is there, and the same pairs were trained on."""
    found = experiment(
        build, tmp_path, settings=settings, plan=Plan(arms=("staged", "single"), seeds=(0,), holdout=0.3)
    )
    spent, cells = json.loads((tmp_path / "budget.json").read_text()), cells_of(tmp_path)
    assert spent["staged"] == spent["single"] and spent["staged"]["steps"] == 3 and spent["staged"]["tokens"] > 500
    for cell in cells.values():
        assert sum(stage["steps"] for stage in cell["stages"]) == 3
        assert sum(stage["pairs"] for stage in cell["stages"]) == spent["staged"]["pairs"] == 12
    values = {(one.metric, one.arm): one.value.value for one in found}
    assert values["kl", "staged"] > 0 and values["margin", "staged"] != values["margin", "single"]
    assert values["canary", "base"] != values["canary", "staged"]
    assert {metric for metric, _ in values} >= set(METRICS)


def cells_of(output):
    return {path.parent.name: json.loads(path.read_text()) for path in output.glob("cells/*/cell.json")}


def test_every_arm_has_the_same_pairs_and_none_is_held_out(trained, build, settings, tmp_path):
    found = experiment(build, tmp_path, settings=settings, plan=PLAN)
    assert {outcome.arm for outcome in found} == {"base", *PLAN.arms} and len(cells_of(tmp_path)) == 6
    rows = [pl.read_parquet(tmp_path / "pairs" / f"{name}.parquet") for name in PLAN.arms]
    assert rows[0].equals(rows[1]) and rows[0].equals(rows[2])
    held = set(json.loads((tmp_path / "base.json").read_text())["values"]["margin"])
    assert len(held) > 3 and not held & set(rows[0]["prompt_id"])


def test_ablations_of_other_pairs_are_cut_to_the_same_number(trained, build, settings, tmp_path):
    plan = Plan(arms=("staged", "value-only", "judge-only", "rlcd"), seeds=(0,), holdout=0.3)
    fake = dataclasses.replace(settings, policy=settings.policy)
    run_arms = dataclasses.replace(arms.ARMS["rlcd"], pair=lambda opened, _: contrasted(opened, FAKE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(arms.ARMS, "rlcd", run_arms)
        experiment(build, tmp_path, settings=fake, plan=plan)
    spent = json.loads((tmp_path / "budget.json").read_text())
    assert len({one["steps"] for one in spent.values()}) == len({one["pairs"] for one in spent.values()}) == 1
    assert len({one["tokens"] for one in spent.values()}) > 1, "other texts have other lengths, and it is said"


def test_pairs_that_cannot_be_trained_on_are_named(trained, build, settings, tmp_path, monkeypatch, caplog):
    published = arms.ARMS["staged"].pair

    def with_twins(opened, policy):
        rows = published(opened, policy)
        twins = pl.col("prompt_id").is_in(rows.filter(pl.col("split") == "train")["prompt_id"][:2].implode())
        return rows.with_columns(rejected=pl.when(twins).then("chosen").otherwise("rejected"))

    for name in PLAN.arms:
        monkeypatch.setitem(arms.ARMS, name, dataclasses.replace(arms.ARMS[name], pair=with_twins))
    experiment(build, tmp_path, settings=settings, plan=PLAN, allow_overlap=True)
    for one in json.loads((tmp_path / "budget.json").read_text()).values():
        found = {finding["name"]: finding for finding in one["findings"]}
        assert found["identical-after-template"]["count"] == len(found["identical-after-template"]["examples"]) > 0
        assert "leaked-test-prompts" in found
    assert "staged: identical-after-template" in caplog.text


def test_a_held_out_prompt_in_training_is_refused(trained, build, settings, tmp_path, monkeypatch):
    """The same text under another id, which no id can show."""
    published = arms.ARMS["staged"].pair

    def leaking(opened, policy):
        rows = published(opened, policy)
        held = rows.filter(is_held_out(rows, opened, PLAN.holdout))["prompt"].to_list()[0]
        return rows.with_columns(pl.Series("prompt", [held] * rows.height, rows.schema["prompt"]))

    for name in PLAN.arms:
        monkeypatch.setitem(arms.ARMS, name, dataclasses.replace(arms.ARMS[name], pair=leaking))
    with pytest.raises(LimitError, match="leaked-test-prompts"):
        experiment(build, tmp_path, settings=settings, plan=PLAN)
    assert not trained and not list(tmp_path.iterdir()), "and the folder is still free"


def test_an_experiment_that_cannot_be_leaves_the_folder_free(trained, build, settings, tmp_path):
    large = dataclasses.replace(settings.training, batch_size=256)
    with pytest.raises(UserError, match=r"Lower training\.batch_size"):
        experiment(build, tmp_path, settings=dataclasses.replace(settings, training=large), plan=PLAN)
    experiment(build, tmp_path, settings=settings, plan=PLAN)
    assert (tmp_path / "results.md").is_file()


def test_smoothing_from_the_gap_reaches_every_arm_that_has_gaps(trained, build, settings, tmp_path, monkeypatch):
    smooth = dataclasses.replace(settings.training, loss="cdpo", label_smoothing="gap")
    given, seen = dataclasses.replace(settings, training=smooth), []
    train = run.train_stages
    monkeypatch.setattr(run, "train_stages", lambda pairs, *a, **k: seen.append(pairs) or train(pairs, *a, **k))
    experiment(build, tmp_path / "all", settings=given, plan=dataclasses.replace(PLAN, seeds=(0,)))
    assert len(seen) == 3 and all(0 < gap <= 1 for cell in seen for rows in cell.values() for gap in rows["gap"])
    bare = dataclasses.replace(arms.ARMS["random"], pair=lambda o, p: arms.ARMS["staged"].pair(o, p).drop("gap"))
    monkeypatch.setitem(arms.ARMS, "random", bare)
    with pytest.raises(UserError, match="those of the arm random have none"):
        experiment(build, tmp_path / "bare", settings=given, plan=PLAN)


def test_an_arm_that_diverges_is_left_out_and_named(trained, build, settings, tmp_path, monkeypatch, caplog):
    """With one of two seeds; the others are compared with the first that stands, and nothing is trained again."""
    train = run.train_stages

    def diverge(pairs, output, **options):
        if output.name == "staged-1":
            raise DivergedError("loss is nan at step 2")
        return train(pairs, output, **options)

    monkeypatch.setattr(run, "train_stages", diverge)
    found = experiment(build, tmp_path, settings=settings, plan=PLAN)
    assert {one.arm for one in found} == {"base", "single", "random"}
    assert {one.arm for one in found if one.difference} == {"random"}
    table = (tmp_path / "results.md").read_text()
    assert "minus single (95 %)" in table and table.endswith("\nLeft out, for they diverged: staged with seed 1.\n")
    assert "staged diverged with seed 1: loss is nan at step 2" in caplog.text
    monkeypatch.setattr(run, "train_stages", lambda *_, **__: pytest.fail("trained again"))
    assert experiment(build, tmp_path, settings=settings, plan=PLAN) == found
    for path in tmp_path.glob("cells/*/cell.json"):
        path.write_text('{"diverged": "kl is not finite"}')
    with pytest.raises(UserError, match="Every arm diverged"):
        experiment(build, tmp_path, settings=settings, plan=PLAN)


def test_an_experiment_that_was_killed_goes_on_to_the_same_table(trained, build, settings, tmp_path, monkeypatch):
    experiment(build, tmp_path / "whole", settings=settings, plan=PLAN)
    train, before = run.train_stages, len(trained)

    def die(*args, **options):
        if len(trained) == before + 2:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(run, "train_stages", die)
    with pytest.raises(KeyboardInterrupt):
        experiment(build, tmp_path / "killed", settings=settings, plan=PLAN)
    assert trained[before:] == ["staged-0", "single-0"] and not (tmp_path / "killed" / "results.json").exists()
    monkeypatch.setattr(run, "train_stages", train)
    experiment(build, tmp_path / "killed", settings=settings, plan=PLAN)
    assert trained[before + 2 :] == ["random-0", "staged-1", "single-1", "random-1"]
    for name in ("results.json", "results.md", "budget.json", "base.json", "cells/random-1/cell.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_experiment_trains_nothing_and_takes_more_seeds(trained, build, settings, tmp_path):
    first = experiment(build, tmp_path, settings=settings, plan=PLAN)
    trained.clear()
    assert experiment(build, tmp_path, settings=settings, plan=PLAN) == first and not trained
    found = experiment(build, tmp_path, settings=settings, plan=dataclasses.replace(PLAN, seeds=(0, 1, 2)))
    assert trained == ["staged-2", "single-2", "random-2"] and {one.seeds for one in found} == {1, 3}


def test_another_experiment_in_the_folder_is_refused(trained, build, settings, tmp_path):
    experiment(build, tmp_path, settings=settings, plan=PLAN)
    training = dataclasses.replace(settings.training, learning_rate=1e-3)
    for changed, plan, field in (
        (dataclasses.replace(settings, training=training), PLAN, r"settings\.learning_rate: 0\.002 -> 0\.001"),
        (settings, dataclasses.replace(PLAN, arms=("staged", "single")), r"arms\[2\]: 'random' -> None"),
        (settings, dataclasses.replace(PLAN, holdout=0.4), r"holdout: 0\.3 -> 0\.4"),
    ):
        with pytest.raises(UserError, match=rf"another experiment; these differ \(there -> now\): {field}\."):
            experiment(build, tmp_path, settings=changed, plan=plan)


def test_plans_that_mean_nothing_are_refused(build, settings, tmp_path):
    for wrong, message in (
        ({"seeds": ()}, "seeds"),
        ({"holdout": 1.0}, "holdout"),
        ({"arms": ("none",)}, "no arm none"),
    ):
        with pytest.raises(UserError, match=message):
            Plan(**wrong)
    half = dataclasses.replace(settings, training=dataclasses.replace(settings.training, epochs=0.5))
    with pytest.raises(UserError, match=r"whole epochs.*0\.5"):
        experiment(build, tmp_path, settings=half, plan=PLAN)


# --- the table


def values(offset, items=8):
    rng = np.random.default_rng(3)
    base = rng.normal(size=items)
    return {"margin": {f"p{n}": float(base[n] + offset) for n in range(items)}, "canary": {"a": 1.0, "b": 2.0}}


def test_differences_are_paired_by_item():
    found = compare({("staged", 0): values(0.0), ("single", 0): values(0.5)})
    by = {(one.metric, one.arm): one for one in found}
    shift = by["margin", "single"].difference
    assert shift.value == pytest.approx(0.5) and shift.high - shift.low < 1e-9, "the items' own spread is gone"
    assert by["margin", "staged"].value.high - by["margin", "staged"].value.low > 0.5
    assert by["margin", "staged"].difference is None


def test_items_that_a_cell_lacks_are_left_out_everywhere():
    short = values(0.0)
    del short["margin"]["p3"]
    found = compare({("staged", 0): values(0.0), ("single", 0): short})
    assert {one.items for one in found if one.metric == "margin"} == {7}


def test_the_base_has_rows_only_where_it_is_not_the_measure():
    found = compare({("staged", 0): values(0.0)}, base=values(0.0))
    assert [one.metric for one in found if one.arm == "base"] == ["canary"]
    lines = to_markdown(found).splitlines()
    assert lines[0] == "| metric | arm | items x seeds | value (95 %) | minus staged (95 %) |"
    assert "| canary, bits a byte | base | 2 x 1 | 1.500 (" in lines[3]
