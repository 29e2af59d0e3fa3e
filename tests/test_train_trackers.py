"""Trackers: every step is told, a stage is a run, and what is not ours stays open."""

import sys
from types import SimpleNamespace

import pytest

from tests.train_data import SETTINGS, datasets, make_policy
from udasa.errors import UserError
from udasa.train import train_stages

pytest.importorskip("trl")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture
def known(monkeypatch):
    """Return what replaces the callback of a tracker."""
    from transformers.integrations import integration_utils

    return lambda name, tracker: monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, tracker)


def test_a_tracker_is_told_every_step(policy, tmp_path, known):
    from transformers import TrainerCallback

    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            seen.append((args.run_name, state.global_step, "loss" in logs))

    known("tensorboard", Tracker)
    pairs = datasets("conservative", "moderate", num=8)
    train_stages(pairs, tmp_path / "run", policy=policy, training=SETTINGS, report_to=("tensorboard",))
    told = [(1, True), (2, True), (2, False)]
    assert seen == [(f"run-{stage}", *each) for stage in pairs for each in told]


def test_an_unknown_tracker_is_refused_before_anything_runs(policy, tmp_path):
    with pytest.raises(UserError, match=r"tracker no-such-one.*tensorboard"):
        train_stages(datasets("all"), tmp_path, policy=policy, training=SETTINGS, report_to=("no-such-one",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("open_before", "runs"), [(None, ["run-conservative", "run-moderate"]), ("theirs", ["theirs", "theirs"])]
)
def test_wandb_keeps_a_run_a_stage_unless_one_was_open(open_before, runs, policy, tmp_path, known, monkeypatch):
    """Its callback begins a run only where none is open, and ends none."""
    from transformers import TrainerCallback

    wandb = SimpleNamespace(run=open_before, finish=lambda: setattr(wandb, "run", None))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    seen = []

    class Tracker(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            wandb.run = wandb.run or args.run_name
            seen.append(wandb.run)

    known("wandb", Tracker)
    pairs = datasets("conservative", "moderate", num=4)
    train_stages(pairs, tmp_path / "run", policy=policy, training=SETTINGS, report_to=("wandb",))
    assert (seen, wandb.run) == (runs, open_before)

    class Failing(Tracker):
        def on_log(self, args, state, control, **_):
            raise RuntimeError("no space left")

    known("wandb", Failing)
    with pytest.raises(RuntimeError, match="no space left"):
        train_stages(pairs, tmp_path / "failed", policy=policy, training=SETTINGS, report_to=("wandb",))
    assert wandb.run == open_before
