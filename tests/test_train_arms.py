"""`udasa train` with an arm and a watch over its transitions, on a real release and a tiny policy."""

import json
import sys

import pytest

from tests import tiny
from tests.builds import built, recipe
from tests.releases import released
from udasa import recipe as recipes
from udasa.backends import ModelSpec, Sampling
from udasa.cli import main
from udasa.recipe import Staging, Training

pytest.importorskip("trl")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    options = {"sampling": Sampling(k=4, max_new_tokens=4), "staging": Staging(test_share=0.3)}
    return released(built(folder / "build", **options), folder / "release")


def test_an_arm_is_trained_watched_and_recorded(data, tmp_path, monkeypatch, capsys):
    training = Training(learning_rate=2e-3, batch_size=8, device_batch_size=8, max_length=96)
    settings = recipe(policy=ModelSpec(model=str(tiny.policy())), training=training)
    path = tmp_path / "r.json"
    path.write_text(recipes.to_json(settings))
    command = ["udasa", "train", str(data), "-o", str(tmp_path / "out"), "--recipe", str(path)]
    monkeypatch.setattr(sys, "argv", [*command, "--arm", "sft", "--on-forgetting", "warn"])
    with pytest.raises(SystemExit) as done:
        main()
    shown = capsys.readouterr()
    assert not done.value.code, shown.err
    trained = json.loads((tmp_path / "out" / "training.json").read_text())
    assert trained["arm"] == "sft" and trained["settings"]["loss"] == "sft"
    assert [stage["stage"] for stage in trained["stages"]] == ["all"]
    rows = json.loads((tmp_path / "out" / "transitions.json").read_text())
    assert {row["stage"] for row in rows} == {"all"} and {"accuracy", "kl", "canary"} <= {row["metric"] for row in rows}
    assert "Transitions" in shown.out
    monkeypatch.setattr(sys, "argv", [*command, "--arm", "nothing"])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2 and "There is no arm nothing" in capsys.readouterr().err
