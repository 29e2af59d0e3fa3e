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
from udasa.errors import UserError
from udasa.recipe import Staging, Training
from udasa.train import go_on

pytest.importorskip("trl")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    options = {"sampling": Sampling(k=4, max_new_tokens=4), "staging": Staging(test_share=0.3)}
    return released(built(folder / "build", **options), folder / "release")


@pytest.fixture(scope="module")
def unheld(tmp_path_factory):
    """A release of which no pairs are held out."""
    folder = tmp_path_factory.mktemp("unheld")
    return released(built(folder / "build", staging=Staging(test_share=0.0)), folder / "release")


def write_recipe(path, **changes):
    training = Training(learning_rate=2e-3, batch_size=8, device_batch_size=8, max_length=96, **changes)
    path.write_text(recipes.to_json(recipe(policy=ModelSpec(model=str(tiny.policy())), training=training)))
    return path


def test_every_stage_is_measured_without_being_asked_for(data, udasa, tmp_path):
    path = write_recipe(tmp_path / "r.json", tuning="full", max_steps=1)
    code, shown, said = udasa("train", data, "-o", tmp_path / "out", "--recipe", path)
    assert code == 0, said
    stages = [stage["stage"] for stage in json.loads((tmp_path / "out" / "training.json").read_text())["stages"]]
    rows = (tmp_path / "out" / "transitions.md").read_text().splitlines()[2:]
    found = {tuple(row.split(" | ")[:2]) for row in rows}
    assert (
        len(stages) > 1
        and {(f"| {s}", f"{m}") for s in stages for m in ("accuracy, share", "canary, bits a byte")} <= found
    )
    assert "Transitions" in shown


@pytest.mark.parametrize(
    ("release", "tuning", "option", "watched"),
    [
        ("data", "lora", None, "warn"),
        ("data", "lora", "stop", "stop"),
        ("data", "lora", "off", None),
        ("data", "qlora", None, None),
        ("data", "qlora", "warn", "warn"),
        ("unheld", "lora", None, None),
        ("unheld", "lora", "off", None),
    ],
)
def test_what_is_measured_by_default_and_what_is_not(
    release, tuning, option, watched, request, udasa, tmp_path, monkeypatch
):
    given = {}

    def train(*_, **options):
        given.update(options)
        raise UserError("Not trained.")

    monkeypatch.setattr("udasa.train.train", train)
    path = write_recipe(tmp_path / "r.json", tuning=tuning)
    command = ["train", request.getfixturevalue(release), "-o", tmp_path / "out", "--recipe", path]
    _, _, said = udasa(*command, *(["--on-forgetting", option] if option else []))
    assert "Not trained." in said
    assert getattr(given["after_stage"], "on_forgetting", None) == watched
    assert (given["after_stage"] is go_on) == (watched is None)
    assert ("It is not measured what each stage improves and forgets." in said) == (option is None and watched is None)


def test_what_was_asked_for_and_cannot_be_measured_is_refused(unheld, udasa, tmp_path):
    path = write_recipe(tmp_path / "r.json")
    code, _, said = udasa("train", unheld, "-o", tmp_path / "out", "--recipe", path, "--on-forgetting", "warn")
    assert code == 2 and "are held out; at least 2 are needed" in said and not (tmp_path / "out").exists()


def test_an_arm_is_trained_watched_and_recorded(data, tmp_path, monkeypatch, capsys):
    path = write_recipe(tmp_path / "r.json")
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
