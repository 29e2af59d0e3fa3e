"""Cycles on a tiny policy: each builds from what the one before it trained."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from tests import tiny
from tests.builds import FAKE, recipe
from udasa import cli, run
from udasa import cycle as module
from udasa import recipe as recipes
from udasa.backends import ModelSpec, Sampling
from udasa.cycle import cycle, distinct_2
from udasa.errors import LimitError, UserError
from udasa.heldout import held_out
from udasa.probe import probe
from udasa.recipe import Judging, Lint, Pairing, Staging, Training, Workers
from udasa.release import open_data

pytest.importorskip("trl")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def settings():
    """A tiny policy that answers; the fakes compare and judge."""
    base = recipe()
    return recipe(
        policy=ModelSpec(model=str(tiny.policy())),
        sampling=Sampling(k=3, max_new_tokens=6),
        judging=Judging(constitution=base.judging.constitution, model=FAKE),
        pairing=Pairing(truncated="keep", risk_ceiling=1.0),
        staging=Staging(test_share=0.3),
        training=Training(learning_rate=2e-3, batch_size=8, device_batch_size=8, max_length=128),
    )


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    output = tmp_path_factory.mktemp("cycles")
    return output, cycle(settings, output, 2)


@pytest.fixture
def begun(whole, settings, tmp_path):
    """The same cycles, of which the first build is done."""
    for name in ("models.json", "settings.json"):
        shutil.copy(whole[0] / name, tmp_path)
    shutil.copytree(whole[0] / "1" / "build", tmp_path / "1" / "build")
    return tmp_path


def models(folder):
    return json.loads((folder / "build" / "models.json").read_text())


def responses(folder):
    rows = run.read(folder / "build", "responses", ["prompt_id", "responses"]).to_pylist()
    return {row["prompt_id"]: [one["text"] for one in row["responses"]] for row in rows}


def test_the_second_cycle_samples_from_what_the_first_trained(whole):
    output, _ = whole
    assert models(output / "2")["policy"]["model"] == str(output / "1" / "policy")
    assert models(output / "2")["policy"]["sha256"] != models(output / "1")["policy"]["sha256"]
    first, second = responses(output / "1"), responses(output / "2")
    assert first.keys() == second.keys() and first != second


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_merged_policy_is_the_base_with_its_adapter(whole):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = whole[0] / "1"
    adapter = sorted(folder.glob("training/stages/*"))[-1]
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.policy()), str(adapter)).eval()
    merged = AutoModelForCausalLM.from_pretrained(folder / "policy").eval()
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(tuned(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-5, rtol=0)


def held(output):
    return held_out(open_data(str(output / "1" / "build")), max_length=128)


def test_the_table_counts_from_the_first_policy(whole, settings):
    output, found = whole
    by = {(one.metric, one.arm): one for one in found.outcomes}
    again = probe(ModelSpec(model=str(output / "2" / "policy")), held(output), base=settings.policy)
    assert by["kl", "cycle 2"].value.value == pytest.approx(np.mean(list(again["kl"].values())), abs=1e-4)
    assert by["kl", "cycle 2"].value.value > 0
    assert by["semantic-sets", "cycle 1"].items == 40 and by["semantic-sets", "cycle 1"].unit == "sets a prompt"
    assert by["accuracy", "cycle 1"].items == by["accuracy", "cycle 2"].items, "the first cycle's held-out pairs"
    assert by["distinct-2", "cycle 2"].difference is not None
    assert (output / "cycles.md").read_text().startswith("| metric | cycle |")


def test_the_first_policy_is_in_the_table(whole, settings):
    output, found = whole
    base = {one.metric: one for one in found.outcomes if one.arm == "base"}
    again = probe(settings.policy, held(output))
    assert base.keys() == {"length", "refusal", "canary"}
    assert base["canary"].value.value == pytest.approx(np.mean(list(again["canary"].values())))
    canary = [one.value.value for one in found.outcomes if one.metric == "canary"]
    assert len(set(canary)) == 3, "the first policy, and the one after each cycle"


def test_the_table_says_which_policy_a_row_is_of(whole):
    assert (whole[0] / "cycles.md").read_text().split("\n\n")[1] == module.NOTE + "\n"
    assert module.NOTE.startswith("semantic-sets, distinct-2, sampled-length, paired: of the policy before")


def test_a_cycle_keeps_what_its_training_came_to(whole):
    known = json.loads((whole[0] / "2" / "cycle.json").read_bytes())
    done = [json.loads(path.read_bytes())["result"] for path in whole[0].glob("2/training/stages/*/stage.json")]
    assert sorted(known["stages"], key=str) == sorted(done, key=str) and done
    names = {one["name"] for one in known["findings"]}
    assert {"leaked-test-prompts", "evaluation-near-duplicates", "over-max-length"} <= names
    assert [one.to_json() for one in whole[1].findings["cycle 2"]] == known["findings"]


def test_held_out_prompts_are_the_same_in_every_cycle(whole):
    splits = []
    for number in ("1", "2"):
        rows = run.read_frame(whole[0] / number / "build", "pairs", ["prompt_id", "split"])
        splits.append(dict(rows.iter_rows()))
    shared = splits[0].keys() & splits[1].keys()
    assert len(shared) > 10 and all(splits[0][name] == splits[1][name] for name in shared)


def test_what_is_done_is_not_done_again(whole, settings, monkeypatch):
    for name in ("train_stages", "probe"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("done again"))
    assert cycle(settings, whole[0], 2) == whole[1]
    audited = replace(settings, lint=Lint(longer_chosen=1.0), workers=Workers(count=2))
    assert cycle(audited, whole[0], 2) == whole[1], "no row hangs on these"


def test_distinct_2_counts_pairs_of_words():
    assert distinct_2(["a b c", "a b d"]) == 3 / 4
    assert distinct_2(["a b a b"]) == 2 / 3
    assert distinct_2(["one", ""]) is None


def test_no_cycle_is_refused(settings, tmp_path):
    with pytest.raises(UserError, match="at least 1, got 0"):
        cycle(settings, tmp_path, 0)


def test_a_policy_with_an_adapter_is_refused_before_anything_is_built(settings, tmp_path):
    adapted = replace(settings, policy=replace(settings.policy, adapter=str(tmp_path)))
    with pytest.raises(UserError, match="has an adapter already"):
        cycle(adapted, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_other_settings_of_training_are_refused(whole, settings):
    other = replace(settings, training=replace(settings.training, learning_rate=1e-4, beta=0.7))
    with pytest.raises(
        UserError, match=r"training.beta: 0.1 -> 0.7; training.learning_rate: 0.002 -> 0.0001\. Use a new"
    ):
        cycle(other, whole[0], 3)
    assert not (whole[0] / "3").exists()


def test_other_weights_are_refused(begun, settings):
    pinned = json.loads((begun / "models.json").read_text())
    pinned["policy"]["sha256"] = "0" * 64
    (begun / "models.json").write_text(json.dumps(pinned))
    with pytest.raises(UserError, match=r"begun with other weights: policy.*0000"):
        cycle(settings, begun, 1)


def test_what_an_earlier_version_wrote_is_refused(begun, settings):
    (begun / "settings.json").unlink()
    with pytest.raises(UserError, match=r"no settings.json that says what they are.*Use a new folder"):
        cycle(settings, begun, 1)


def test_a_held_out_prompt_is_not_trained_on(begun, settings, monkeypatch):
    trained = run.read_frame(begun / "1" / "build", "pairs").filter(split="train").to_dicts()[0]

    def leaky(*args, **kwargs):
        found = held_out(*args, **kwargs)
        return replace(found, pairs=[*found.pairs, {**found.pairs[0], "prompt_id": "x", "prompt": trained["prompt"]}])

    monkeypatch.setattr(module, "held_out", leaky)
    with pytest.raises(LimitError, match=r"leaked-test-prompts is .*--allow-overlap"):
        cycle(settings, begun, 1)
    assert not (begun / "1" / "training").exists()
    (begun / "recipe.json").write_text(recipes.to_json(settings))
    done = CliRunner().invoke(
        cli.app, ["cycle", str(begun / "recipe.json"), "-o", str(begun), "--cycles", "1", "--allow-overlap"]
    )
    assert done.exit_code == 0, done.output
    assert "cycle 1: leaked-test-prompts: 1 of " in done.output and module.NOTE in done.output
    known = json.loads((begun / "1" / "cycle.json").read_bytes())
    assert {one["name"]: one["count"] for one in known["findings"]}["leaked-test-prompts"] == 1


def test_label_smoothing_by_the_gap(begun, settings):
    smoothed = replace(settings, training=replace(settings.training, loss="cdpo", label_smoothing="gap"))
    (begun / "settings.json").write_text(recipes.to_json(smoothed))
    cycle(smoothed, begun, 1)
    stages = json.loads((begun / "1" / "cycle.json").read_bytes())["stages"]
    assert stages and all(0 < stage["label_smoothing"] < 0.5 for stage in stages)
