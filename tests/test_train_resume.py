"""Runs that are killed, and go on to the bytes of one that was not."""

import json
import multiprocessing
import signal

import pytest

from tests import killed_training
from tests.progress import recorder
from tests.train_data import datasets, logged, make_policy, spread, steps_of, weights
from udasa.errors import UserError
from udasa.train import checkpoints, train_stages

pytestmark = pytest.mark.processes

pytest.importorskip("trl")
pytest.importorskip("peft")

STAGES = ("first", "second")


@pytest.fixture(scope="module")
def policy():
    return make_policy()


def train(output, policy, **more):
    pairs = datasets(*STAGES, num=24)
    return train_stages(pairs, output, policy=policy, training=killed_training.settings(), **more)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, policy):
    output = tmp_path_factory.mktemp("unbroken")
    return output, train(output, policy)


def untimed(entries):
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in entries]


def assert_same(output, staged, unbroken):
    """Hold a run to the unbroken one: every file of the adapters byte by byte, every step's log, every result."""
    for name in STAGES:
        folder, whole = (next(found.glob(f"stages/*-{name}")) for found in (output, unbroken[0]))
        assert {p.name for p in folder.iterdir()} == {p.name for p in whole.iterdir()}
        assert "checkpoints" not in {p.name for p in folder.iterdir()}
        for path in (folder / "adapter_model.safetensors", folder / "adapter_config.json"):
            assert path.read_bytes() == (whole / path.name).read_bytes()
    assert untimed(logged(output)) == untimed(logged(unbroken[0]))
    ours, theirs = ([{**vars_of(r), "seconds": 0} for r in run.results] for run in (staged, unbroken[1]))
    assert ours == theirs


def vars_of(result):
    import dataclasses

    return dataclasses.asdict(result)


def test_a_run_that_is_killed_again_and_again(unbroken, policy, tmp_path):
    """By SIGKILL, in processes of their own: between checkpoints, and in the writing of one."""
    output, cache = tmp_path / "out", tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    found = []
    for place in (("step", "first", 5), ("checkpoint", "second", 4)):
        process = context.Process(target=killed_training.run, args=(policy.model, str(output), str(cache), *place))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        newest = [checkpoints.newest(path) for path in sorted(output.glob("stages/*/checkpoints"))]
        found.append([path and path.name for path in newest])
    assert found == [["checkpoint-4"], ["checkpoint-2"]]
    assert (output / "stages" / "1-first" / "stage.json").is_file()
    calls = []
    staged = train(output, policy, progress=recorder(calls))
    assert steps_of(calls) == [("train second", n, 6) for n in (2, 3, 4, 5, 6)]
    assert_same(output, staged, unbroken)


def test_a_run_that_lacked_only_the_marker_of_a_stage(unbroken, policy, tmp_path, monkeypatch):
    """The adapter is there and the marker is not: the steps after the newest checkpoint are done again."""
    from udasa.train import stages

    class Stopped(Exception):
        pass

    whole = stages.write_file

    def write_file(path, payload):
        if path.name == stages.DONE and "second" in str(path):
            raise Stopped
        whole(path, payload)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "write_file", write_file)
        with pytest.raises(Stopped):
            train(tmp_path, policy)
    calls = []
    staged = train(tmp_path, policy, progress=recorder(calls))
    assert steps_of(calls) == [("train second", n, 6) for n in (4, 5, 6)]
    assert_same(tmp_path, staged, unbroken)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_run_that_is_stopped_in_a_stage(unbroken, policy, tmp_path, step):
    """The steps after the newest checkpoint are done again, and no others."""

    class Stopped(Exception):
        pass

    seen = []

    def report(name, done, total):
        seen.append((name, done))
        if (name, done) == ("train second", step):
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path, policy, progress=recorder(Calls(report)))
    calls = []
    staged = train(tmp_path, policy, progress=recorder(calls))
    kept = (step - 1) // 2 * 2
    assert steps_of(calls) == [("train second", n, 6) for n in range(max(kept, 1), 7)]
    assert_same(tmp_path, staged, unbroken)


class Calls(list):
    """A list that hands what is appended on."""

    def __init__(self, then):
        super().__init__()
        self.then = then

    def append(self, call):
        self.then(*call)


def test_all_weights_go_on_too(policy, tmp_path):
    """Without an adapter: stopped after a checkpoint, to the bytes of the model that was trained in one go."""
    import dataclasses

    class Stopped(Exception):
        pass

    def report(name, done, total):
        if (name, done) == ("train all", 3):
            raise Stopped

    settings = dataclasses.replace(killed_training.settings(), tuning="full", learning_rate=1e-4)
    given = {"policy": policy, "training": settings}
    pairs = datasets("all", num=16)
    whole = train_stages(pairs, tmp_path / "whole", **given)
    with pytest.raises(Stopped):
        train_stages(pairs, tmp_path / "out", **given, progress=recorder(Calls(report)))
    assert checkpoints.newest(tmp_path / "out" / "stages" / "1-all" / "checkpoints").name == "checkpoint-2"
    again = train_stages(pairs, tmp_path / "out", **given)
    assert (again.adapter / "model.safetensors").read_bytes() == (whole.adapter / "model.safetensors").read_bytes()


def test_a_stage_that_was_begun_is_not_gone_on_with_under_other_settings(policy, tmp_path):
    import dataclasses

    class Stopped(Exception):
        pass

    def report(name, done, total):
        if (name, done) == ("train first", 3):
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path, policy, progress=recorder(Calls(report)))
    changed = dataclasses.replace(killed_training.settings(), beta=0.3)
    with pytest.raises(UserError, match=r"settings\.beta: 0\.1 -> 0\.3"):
        train_stages(datasets(*STAGES, num=24), tmp_path, policy=policy, training=changed)


@pytest.mark.parametrize("what", ["loss", "grad_norm"])
def test_a_step_that_is_not_finite_names_the_checkpoint_before_it(policy, tmp_path, monkeypatch, what):
    """The loss, or the gradient of one that is finite: that of a root at 0 is infinite, and times 0 not a number."""
    import math

    from trl.trainer.dpo_trainer import DPOTrainer

    def break_one(*args, **options):
        loss = whole(*args, **options)
        if next(steps) != 9:  # two batches a step: the tenth is in the fifth step
            return loss
        return loss * math.nan if what == "loss" else loss + (0 * loss).sqrt()

    whole, steps = DPOTrainer.compute_loss, iter(range(1000))
    monkeypatch.setattr(DPOTrainer, "compute_loss", break_one)
    with pytest.raises(UserError, match=rf"{what} is nan at step 5 of stage 'first'.*checkpoint is .*checkpoint-4\. "):
        train(tmp_path, policy)


def test_checkpoints_that_are_not_complete_are_no_checkpoints(tmp_path):
    for step, complete in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        if complete:
            checkpoints.mark(folder)
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-10"
    checkpoints.drop_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]
    assert checkpoints.newest(tmp_path / "none") is None


def test_the_adapters_of_two_stages_differ(unbroken):
    first, second = (weights(next(unbroken[0].glob(f"stages/*-{name}"))) for name in STAGES)
    assert spread(first, second) > 1e-4
