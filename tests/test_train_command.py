"""`udasa train`, and the card that it writes: its code is run as it stands there."""

import re

import pytest

from tests import tiny
from tests.builds import recipe
from tests.train_data import DEPRECATED, SETTINGS, pair, publish, rows
from udasa import cards
from udasa import recipe as recipes
from udasa.backends import ModelSpec

pytest.importorskip("trl")
pytest.importorskip("peft")


def write_recipe(path, **training):
    import dataclasses

    settings = dataclasses.replace(SETTINGS, **training)
    made = recipe(policy=ModelSpec(model=str(tiny.policy())), training=settings, name="tiny")
    path.write_text(recipes.to_json(made))
    return path


def run_code(card, folder, monkeypatch):
    """Run every Python block of a card, together, in a folder where what they name is to be found."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, re.S))
    monkeypatch.chdir(folder)
    exec(compile(code, "the card", "exec"), {})
    return code


@pytest.mark.filterwarnings(DEPRECATED)
def test_the_code_on_the_card_runs(udasa, tmp_path, monkeypatch):
    """An adapter on a local base, with the merged model beside it."""
    pairs = rows("conservative", num=6)
    pairs["conservative"].append(pair("conservative", 6, chosen="Yes.", rejected="Yes."))
    data = publish(tmp_path / "pairs", pairs)
    path = write_recipe(tmp_path / "r.json", stages=("conservative",))
    output = tmp_path / "udasa-tiny-adapter"
    code, shown, said = udasa("train", data, "-o", output, "--recipe", path, "--merge")
    assert code == 0
    assert "not measured what each stage improves and forgets" in said and "pairs is not a release" in said
    assert not (output / "transitions.md").exists()
    assert "identical-after-template: 1 of 7 pairs have the same tokens on both sides. For example conserv" in shown
    card = (output / "README.md").read_text()
    cards.validate(card, "model")
    assert "1 of 7 pairs have the same tokens" in card
    assert "(figures/training.svg)" in card
    (tmp_path / "path" / "to" / "the").mkdir(parents=True)
    (tmp_path / "path" / "to" / "the" / "base-model").symlink_to(tiny.policy())
    ran = run_code(card, tmp_path, monkeypatch)
    assert "PeftModel.from_pretrained" in ran and 'subfolder="merged"' in ran.replace("'", '"')


def test_the_code_on_the_card_of_a_whole_model_runs(udasa, tmp_path, monkeypatch):
    data = publish(tmp_path / "pairs", rows("conservative", num=6))
    path = write_recipe(tmp_path / "r.json", stages=("conservative",), tuning="full")
    output = tmp_path / "udasa-tiny-adapter"
    code, _, said = udasa("train", data, "-o", output, "--recipe", path, "--on-forgetting", "off")
    assert code == 0 and "not measured" not in said
    card = (output / "README.md").read_text()
    cards.validate(card, "model")
    assert "peft" not in run_code(card, tmp_path, monkeypatch)
    assert "library_name: transformers" in card


def test_an_overlap_is_refused_and_allowed_from_the_command_line(udasa, tmp_path):
    from udasa.lint import read_evaluation

    text = max(read_evaluation().texts.to_list(), key=len)
    pairs = {"conservative": [*rows("conservative", num=6)["conservative"], pair("conservative", 6, prompt=text)]}
    data = publish(tmp_path / "pairs", pairs)
    path = write_recipe(tmp_path / "r.json", stages=("conservative",), max_length=400)
    code, _, said = udasa("train", data, "-o", tmp_path / "o", "--recipe", path)
    assert code == 1 and "evaluation-near-duplicates" in said and "--allow-overlap" in said
    code, shown, _ = udasa("train", data, "-o", tmp_path / "o", "--recipe", path, "--allow-overlap")
    assert code == 0 and "evaluation-near-duplicates: 1 of 7 prompts" in shown
    assert "**Beyond the limit of 0.**" in (tmp_path / "o" / "README.md").read_text()


def test_a_name_that_the_hub_would_refuse_is_refused_before_training(udasa, tmp_path):
    data = publish(tmp_path / "pairs", rows("conservative", num=4))
    recipe = write_recipe(tmp_path / "r.json", stages=("conservative",))
    code, _, err = udasa("train", data, "-o", tmp_path / "out", "--recipe", recipe, "--push", "a/b/c")
    assert code == 2 and "'a/b/c' is not a Hub repository id" in err and not (tmp_path / "out").exists()
