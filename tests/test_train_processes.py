"""Several processes that train together: on a CPU here, as on several GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.train_data import SETTINGS, datasets, logged, spread, weights
from udasa import resources
from udasa.backends import ModelSpec
from udasa.errors import UserError
from udasa.train import processes, train_stages

pytest.importorskip("trl")
pytest.importorskip("peft")

CONFIGS = sorted((resources.shelf("builders") / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_config_files(path):
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(path))
    assert config.to_dict()["distributed_type"] == yaml.safe_load(path.read_text())["distributed_type"]
    assert config.num_processes == 2


def test_the_config_files_are_for_the_three_ways():
    assert [path.stem for path in CONFIGS] == ["deepspeed", "fsdp", "processes"]


def test_a_number_of_processes_that_does_not_divide_the_batch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    monkeypatch.setattr(processes, "wait", lambda: None)
    monkeypatch.setattr(processes, "from_main", lambda work: work())
    with pytest.raises(UserError, match="3 processes of 4 pairs each do not divide a batch of 4"):
        train_stages(datasets("all"), tmp_path, policy=ModelSpec(model=str(tiny.policy())), training=SETTINGS)


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    """The same batches, cut in two: the same losses and weights."""
    model = str(tiny.policy())
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "ACCELERATE_USE_CPU": "true"}
    for number, size in ((1, 4), (2, 2)):
        cache = tmp_path / f"cache-{number}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
        command += ["-m", "tests.launched_training", model, str(tmp_path / str(number)), str(cache), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        trained = {path.name for path in cache.iterdir() if path.is_file()}
        assert trained == {f"process-{rank}-of-{number}" for rank in range(number)}
        assert [path.suffix for path in (cache / "references").iterdir()] == [".parquet"]
    one, two = (logged(tmp_path / number) for number in "12")
    assert [step["loss"] for step in two] == pytest.approx([step["loss"] for step in one], abs=1e-5)
    # Adam scales up what the order of a sum changes in a tiny gradient, in every step of both stages
    for stage, apart in (("1-first", 1e-4), ("2-second", SETTINGS.learning_rate / 4)):
        folders = [tmp_path / number / "stages" / stage for number in "12"]
        assert spread(*map(weights, folders)) < apart
        assert {p.name for p in folders[0].iterdir()} == {p.name for p in folders[1].iterdir()}
