"""Cycles on a tiny policy: each builds from what the one before it trained."""

import json

import numpy as np
import pytest

from tests import tiny
from tests.builds import FAKE, recipe
from udasa import cycle as module
from udasa import run
from udasa.backends import ModelSpec, Sampling
from udasa.cycle import cycle, distinct_2
from udasa.errors import UserError
from udasa.heldout import held_out
from udasa.probe import probe
from udasa.recipe import Judging, Pairing, Staging, Training
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
    by = {(one.metric, one.arm): one for one in found}
    again = probe(ModelSpec(model=str(output / "2" / "policy")), held(output), base=settings.policy)
    assert by["kl", "cycle 2"].value.value == pytest.approx(np.mean(list(again["kl"].values())), abs=1e-4)
    assert by["kl", "cycle 2"].value.value > 0
    assert by["semantic-sets", "cycle 1"].items == 40 and by["semantic-sets", "cycle 1"].unit == "sets a prompt"
    assert by["accuracy", "cycle 1"].items == by["accuracy", "cycle 2"].items, "the first cycle's held-out pairs"
    assert by["distinct-2", "cycle 2"].difference is not None
    assert (output / "cycles.md").read_text().startswith("| metric | after |")


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


def test_distinct_2_counts_pairs_of_words():
    assert distinct_2(["a b c", "a b d"]) == 3 / 4
    assert distinct_2(["a b a b"]) == 2 / 3
    assert distinct_2(["one", ""]) is None


def test_no_cycle_is_refused(settings, tmp_path):
    with pytest.raises(UserError, match="at least 1, got 0"):
        cycle(settings, tmp_path, 0)
