"""What a policy is measured by, against TRL, against transformers, and against itself."""

import math

import numpy as np
import pytest

from tests import tiny
from tests.train_data import SETTINGS, datasets
from udasa import backends_hf, probe
from udasa.backends import ModelSpec
from udasa.errors import UserError
from udasa.heldout import HeldOut, held_out, read_canary
from udasa.train import train_stages

pytest.importorskip("trl")
pytest.importorskip("peft")
import torch

DEPRECATED = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"


@pytest.fixture(scope="module")
def policy():
    return ModelSpec(model=str(tiny.policy()))


@pytest.fixture(scope="module")
def held():
    rows = [row for rows in datasets("conservative", "moderate", num=4).values() for row in rows]
    stages = {row["prompt_id"]: {"stage": row["prompt_id"].split("-")[0]} for row in rows}
    pairs = [row | stages[row["prompt_id"]] for row in rows]
    return HeldOut(pairs=pairs, max_length=48, max_new_tokens=12, canary={"a": "Is it safe?", "b": "A cat, a mat."})


@pytest.fixture(scope="module")
def adapter(policy, tmp_path_factory):
    """An adapter after three steps, far enough from its base to tell."""
    return train_stages(
        datasets("conservative"), tmp_path_factory.mktemp("adapter"), policy=policy, training=SETTINGS
    ).adapter


@pytest.fixture(scope="module")
def values(policy, held, adapter):
    return probe.probe(policy, held, adapter=adapter)


@pytest.mark.filterwarnings(DEPRECATED)
def test_log_probabilities_are_trls(policy, held, tmp_path):
    """TRL's own reference log-probabilities of the same pairs, by its collator, truncation included."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in held.pairs]
    config = DPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        max_length=held.max_length,
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        report_to="none",
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=8,
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy.model),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(policy.model),
    )
    wanted = np.array([trainer.train_dataset[f"ref_{side}_logps"] for side in ("chosen", "rejected")]).T
    found = probe.base_logprobs(policy, held)
    assert found.shape == (8, 2)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4)


def test_the_base_is_at_no_distance_from_itself(policy, held):
    found = probe.probe(policy, held)
    assert set(found["accuracy"].values()) == {0.5} and set(found["margin"].values()) == {0.0}
    assert set(found["kl"].values()) == {0.0}
    assert list(found) == list(probe.METRICS)


def test_training_shows(values):
    """The pairs of the probe are those of the training, so what was learnt must show in every number."""
    assert np.mean(list(values["accuracy"].values())) == 1.0
    assert min(values["margin"].values()) > 0.1
    assert min(values["kl"].values()) >= 0 and max(values["kl"].values()) > 0.01


def test_swapped_sides_turn_the_margin(policy, held, adapter, values):
    pairs = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in held.pairs]
    turned = probe.probe(policy, HeldOut(**{**fields(held), "pairs": pairs}), adapter=adapter)
    for name, margin in values["margin"].items():
        assert turned["margin"][name] == pytest.approx(-margin, abs=1e-4)
        assert turned["accuracy"][name] == 1 - values["accuracy"][name]
        assert turned["kl"][name] == values["kl"][name], "the prompts are the same"


def fields(held):
    return {name: getattr(held, name) for name in held.__slots__}


def test_batches_do_not_show(policy, held, adapter, values):
    alone = probe.probe(ModelSpec(model=policy.model, batch_tokens=1), held, adapter=adapter)
    for metric, found in values.items():
        assert alone[metric] == pytest.approx(found, abs=1e-4), metric


def test_known_base_log_probabilities_are_taken(policy, held, adapter, values):
    known = probe.base_logprobs(policy, held)
    found = probe.probe(policy, held, adapter=adapter, base_logprobs=known)
    assert found["margin"] == pytest.approx(values["margin"], abs=1e-4)
    known[:, 0] += 1.0
    moved = probe.probe(policy, held, adapter=adapter, base_logprobs=known)
    assert moved["margin"] == pytest.approx({name: m - 1 for name, m in values["margin"].items()}, abs=1e-4)


def test_a_base_of_its_own_gives_what_the_adapter_off_gives(policy, held, adapter, values):
    found = probe.probe(policy, held, adapter=adapter, base=policy)
    for metric in ("margin", "kl"):
        assert found[metric] == pytest.approx(values[metric], abs=1e-4), metric


def test_greedy_responses_are_those_of_transformers(policy, held, values):
    model, tokenizer = backends_hf.load_causal_lm(policy)
    base = probe.probe(policy, held)
    for row in held.pairs:
        ids = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            made = model.generate(**ids, max_new_tokens=12, do_sample=False)
        new = made[0, ids["input_ids"].shape[1] :].tolist()
        ends = [n for n, token in enumerate(new, 1) if token == tokenizer.eos_token_id]
        assert base["length"][row["prompt_id"]] == (ends[0] if ends else len(new))


def test_the_kl_is_the_sum_over_a_sampled_response(policy, adapter, held):
    """By hand, one response at a time and without padding."""
    from peft import PeftModel

    with backends_hf.quiet():
        loaded = probe.load(policy, adapter, None)
        drawn = probe._answers(loaded, held, 1.0)
        found = probe.probe(policy, held, adapter=adapter)["kl"]
        base, tokenizer = backends_hf.load_causal_lm(policy)
        tuned = PeftModel.from_pretrained(backends_hf.load_causal_lm(policy)[0], str(adapter)).eval()
    ends = 0
    for row, response in zip(held.pairs, drawn, strict=True):
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        said = tokenizer(response.text, add_special_tokens=False)["input_ids"]
        ends += response.finish_reason == "stop"
        predicted = len(said) + 1 if response.finish_reason == "stop" else len(said)
        ids = torch.tensor([[*prompt, *said]])
        with torch.inference_mode():
            p, q = (model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (tuned, base))
        each = (p.exp() * (p - q)).sum(-1)[len(prompt) - 1 :][:predicted]
        assert len(each) == predicted
        assert found[row["prompt_id"]] == pytest.approx(float(each.sum()), abs=1e-4)


def test_bits_a_byte_of_a_uniform_model_are_those_of_its_vocabulary(held, tmp_path):
    """Tied embeddings of zero make every logit 0: log2 of the vocabulary a token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny.policy())
    model.get_input_embeddings().weight.data.zero_()
    tokenizer = AutoTokenizer.from_pretrained(tiny.policy())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = probe.probe(ModelSpec(model=str(tmp_path)), held)["canary"]
    for name, text in held.canary.items():
        tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert found[name] == pytest.approx(tokens * math.log2(len(tokenizer)) / len(text.encode()), rel=1e-5)


def test_a_policy_that_has_diverged_is_refused(held, policy, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(policy.model)
    model.model.norm.weight.data[0] = math.nan
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(policy.model).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"not finite for .* has diverged"):
        probe.probe(ModelSpec(model=str(tmp_path)), held, base=policy)


def test_stages_have_metrics_of_their_own(values, held):
    found = probe.by_stage(values, held)
    assert len(found["accuracy conservative"]) == len(found["margin moderate"]) == 4
    assert {**found["margin conservative"], **found["margin moderate"]} == values["margin"]


def test_the_canary_is_prose_of_some_length():
    texts = read_canary()
    assert len(texts) >= 20 and all(200 < len(text) < 500 and "\n" not in text for text in texts.values())


def test_held_out_pairs_are_the_test_split_made_larger_by_the_same_hash(tmp_path):
    from tests.builds import built
    from udasa.release import open_data

    opened = open_data(str(built(tmp_path / "build")))
    pairs = opened.frame("pairs")
    test = set(pairs.filter(split="test")["prompt_id"])
    names = [{row["prompt_id"] for row in held_out(opened, max_length=9, share=s).pairs} for s in (0.2, 0.5)]
    assert test < names[0] < names[1] < set(pairs["prompt_id"])
    assert 0.3 * pairs.height < len(names[1]) < 0.7 * pairs.height
