"""Pairs that are given by stage, of any names, and what comes after each stage."""

import dataclasses
import json

import pytest

from tests.progress import recorder
from tests.train_data import SETTINGS, datasets, make_policy, publish, rows, spread, steps_of, weights
from udasa import allocator
from udasa.errors import UserError
from udasa.recipe import Override
from udasa.train import train, train_stages

pytest.importorskip("trl")
pytest.importorskip("peft")

NAMES = ("random-1", "random-2")


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def run(tmp_path_factory, policy):
    """Train two stages of names of our own; `(output, staged, calls of the hook)`."""
    output, calls = tmp_path_factory.mktemp("staged"), []

    def after(name, folder):
        calls.append((name, folder, (folder / "stage.json").is_file()))
        return "go on"

    return output, train_stages(datasets(*NAMES), output, policy=policy, training=SETTINGS, after_stage=after), calls


def test_stages_of_any_names_are_trained_in_the_order_given(run, policy, tmp_path):
    output, staged, calls = run
    folders = [output / "stages" / f"{n}-{name}" for n, name in enumerate(NAMES, 1)]
    assert [result.stage for result in staged.results] == list(NAMES)
    assert (staged.adapter, staged.verdict) == (folders[-1], "go on")
    assert calls == [(name, folder, True) for name, folder in zip(NAMES, folders, strict=True)]
    turned = train_stages(
        dict(reversed(datasets(*NAMES).items())), tmp_path, policy=policy, training=SETTINGS, progress=recorder([])
    )
    assert turned.adapter == tmp_path / "stages" / "2-random-1"
    assert spread(weights(turned.adapter), weights(staged.adapter)) > 0


@pytest.mark.parametrize("change", ["order", "dtype", "override"])
def test_what_would_mix_two_runs_is_refused(run, policy, change):
    """Stages in another order, a base in another precision; and settings for a stage that is not there."""
    output, _, _ = run
    pairs, training = datasets(*NAMES), SETTINGS
    if change == "order":
        pairs, said = dict(reversed(pairs.items())), r"there -> now\): order\[0\]: 'random-1' -> 'random-2'"
    elif change == "dtype":
        policy, said = dataclasses.replace(policy, dtype="bfloat16"), r"base_dtype: 'auto' -> 'bfloat16'"
    else:
        training = dataclasses.replace(SETTINGS, overrides=(Override(stage="exploratory", beta=0.5),))
        said = "overrides for exploratory, and the stages are random-1, random-2"
    with pytest.raises(UserError, match=said):
        train_stages(pairs, output, policy=policy, training=training)


def test_memory_is_given_back_in_every_step_and_changes_nothing(run, policy, tmp_path, monkeypatch):
    _, staged, _ = run
    steps, calls = sum(result.steps for result in staged.results), {}
    for pages in "01":
        calls[pages] = []
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", pages)
        monkeypatch.setattr(allocator, "give_back", lambda into=calls[pages]: into.append(1))
        again = train_stages(datasets(*NAMES), tmp_path / pages, policy=policy, training=SETTINGS)
        assert spread(weights(again.adapter), weights(staged.adapter)) == 0
    assert len(calls["1"]) - len(calls["0"]) == steps > 0


def test_the_front_trains_as_the_stages_do(policy, tmp_path):
    """Pairs that are read from a data set and the same pairs, given, make the same adapter."""
    stages = ("conservative", "moderate")
    settings = dataclasses.replace(SETTINGS, stages=stages)
    train(publish(tmp_path / "pairs", rows(*stages)), tmp_path / "read", policy=policy, training=settings)
    given = train_stages(datasets(*stages), tmp_path / "given", policy=policy, training=settings)
    assert spread(weights(tmp_path / "read"), weights(given.adapter)) == 0


def test_a_resumed_run_asks_again_what_comes_after(run, policy):
    output, staged, _ = run
    calls, steps = [], []
    again = train_stages(
        datasets(*NAMES),
        output,
        policy=policy,
        training=SETTINGS,
        after_stage=lambda name, _: calls.append(name) or "go on",
        progress=recorder(steps),
    )
    assert (again, calls, steps) == (staged, list(NAMES), [])


@pytest.mark.parametrize(
    ("verdict", "stands"), [("stop", ("random-1",)), ("rollback", ())], ids=["stop", "rollback of the first"]
)
def test_a_verdict_ends_the_run(run, policy, tmp_path, verdict, stands):
    steps = []
    given = {"policy": policy, "training": SETTINGS, "after_stage": lambda *_: verdict, "progress": recorder(steps)}
    if stands:
        staged = train_stages(datasets(*NAMES), tmp_path, **given)
        assert [result.stage for result in staged.results] == list(stands)
        assert staged.verdict == verdict
        assert spread(weights(staged.adapter), weights(run[0] / "stages" / "1-random-1")) == 0
    else:
        with pytest.raises(UserError, match="first stage, 'random-1', was taken back"):
            train_stages(datasets(*NAMES), tmp_path, **given)
    assert {name for name, *_ in steps_of(steps)} == {"train random-1"}


def test_a_later_stage_that_is_taken_back_leaves_the_one_before(run, policy):
    output, staged, _ = run
    back = train_stages(
        datasets(*NAMES),
        output,
        policy=policy,
        training=SETTINGS,
        after_stage=lambda name, _: "rollback" if name == "random-2" else "go on",
    )
    assert (back.results, back.verdict) == (staged.results[:1], "rollback")
    assert back.adapter == output / "stages" / "1-random-1"


def test_what_the_hook_raises_leaves_the_stage_complete(policy, tmp_path):
    def fail(name, folder):
        raise UserError("the evaluation failed")

    with pytest.raises(UserError, match="the evaluation failed"):
        train_stages(datasets(*NAMES), tmp_path, policy=policy, training=SETTINGS, after_stage=fail)
    assert [p.parent.name for p in tmp_path.rglob("stage.json")] == ["1-random-1"]


def test_other_columns_change_no_step_but_pin_the_run(run, policy, tmp_path):
    few = train_stages(
        datasets(*NAMES, columns=("prompt_id", "prompt", "chosen", "rejected")),
        tmp_path,
        policy=policy,
        training=SETTINGS,
    )
    assert spread(weights(few.adapter), weights(run[1].adapter)) == 0
    pinned = [
        json.loads((out / "stages" / "1-random-1" / "stage.json").read_text())["run"] for out in (run[0], tmp_path)
    ]
    assert pinned[0]["pairs"] != pinned[1]["pairs"]


def test_no_pairs_at_all_is_an_error(policy, tmp_path):
    from datasets import Dataset

    with pytest.raises(UserError, match="no training pairs in all"):
        train_stages({"all": Dataset.from_list([])}, tmp_path, policy=policy, training=SETTINGS)
