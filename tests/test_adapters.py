import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests import tiny
from udasa.adapters import find_adapter
from udasa.backends import Exchange, ModelSpec, Principle, Sampling, Server
from udasa.backends_hf import identity, load_causal_lm, make_judge, make_sampler, quiet
from udasa.errors import UserError
from udasa.questions import fingerprint
from udasa.recipe import Entailment, Training
from udasa.train.stages import train_stages

BASE = ModelSpec(model=str(tiny.policy()))
PROMPTS = [[{"role": "user", "content": "What is the capital of France?"}], [{"role": "user", "content": "A cat?"}]]
SEEDS = [[1, 2, 3], [4, 5, 6]]


def adapted(folder=None, **settings):
    return dataclasses.replace(BASE, adapter=str(folder or tiny.adapter()), **settings)


def merged(tmp_path):
    """Return the same policy with the adapter added to its weights, by PEFT and not by udasa."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    shutil.copytree(tiny.policy(), tmp_path / "merged")
    with quiet():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.policy()), tiny.adapter())
        model.merge_and_unload().save_pretrained(tmp_path / "merged")
    return ModelSpec(model=str(tmp_path / "merged"))


def test_sampler_and_judge_run_the_model_that_the_adapter_makes(tmp_path):
    drawn = [make_sampler(s, Sampling(k=3, max_new_tokens=12)).sample(PROMPTS, SEEDS) for s in (adapted(), BASE)]
    expected = make_sampler(merged(tmp_path), Sampling(k=3, max_new_tokens=12)).sample(PROMPTS, SEEDS)
    assert [[r.text for r in row] for row in drawn[0]] == [[r.text for r in row] for row in expected]
    sums = [np.array([[r.logprob_sum for r in row] for row in rows]) for rows in (drawn[0], expected, drawn[1])]
    np.testing.assert_allclose(sums[0], sums[1], atol=1e-3)
    assert np.abs(sums[0] - sums[2]).min() > 0.1
    exchanges, safe = [Exchange(PROMPTS[0], "Paris.")], (Principle(id="safe", question="Is it safe?"),)
    judged = [
        make_judge(s, safe).judge(exchanges) for s in (adapted(), ModelSpec(model=str(tmp_path / "merged")), BASE)
    ]
    np.testing.assert_allclose(judged[0], judged[1], atol=1e-5)
    assert np.abs(judged[0] - judged[2]).max() > 1e-3


def test_the_adapter_stays_apart_from_the_weights():
    with torch.inference_mode():
        plain, with_adapter = (load_causal_lm(s)[0] for s in (BASE, adapted()))
    for name, values in plain.named_parameters():
        place = name.replace(".weight", ".base_layer.weight")
        found = dict(with_adapter.named_parameters())
        assert torch.equal(values, found.get(place, found.get(name)))
    assert not with_adapter.training


def test_the_identity_and_the_answers_hang_on_the_adapter(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny.adapter(), other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 99}))
    first, second = identity(adapted()), identity(adapted(other))
    assert {name: first[name] for name in identity(BASE)} == identity(BASE)
    assert first["adapter"]["sha256"] != second["adapter"]["sha256"]
    assert first["adapter"]["origin"] == "local folder"
    prints = {fingerprint(Entailment(model=s)) for s in (BASE, adapted(), adapted(other))}
    assert len(prints) == 3


def test_a_hub_adapter_is_fetched_at_its_revision(monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(tiny.adapter())

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = find_adapter(adapted("org/adapter", adapter_revision="abc"))
    assert asked == [("org/adapter", "abc", ["adapter_config.json", "adapter_model.safetensors"])]
    assert (found.identity["origin"], found.identity["revision"]) == ("Hub", "abc")
    assert found.identity["sha256"] == find_adapter(adapted()).identity["sha256"] and found.rank == 4


def test_an_adapter_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no adapter_config\.json and no adapter_model\.safetensors"):
        find_adapter(adapted(tmp_path))
    with pytest.raises(UserError, match=r"Pin its commit sha \(adapter_revision\)"):
        find_adapter(adapted("org/adapter"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target_modules": ["no_such_layer"]}, "does not fit .*no_such_layer"),
        ({"r": 8}, "does not fit .*have other sizes"),
        ({"target_modules": ["q_proj"]}, "of its layers are missing or not the model's"),
    ],
)
def test_an_adapter_of_another_model_is_refused(tmp_path, change, reason):
    shutil.copytree(tiny.adapter(), tmp_path / "other")
    path = tmp_path / "other" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=f"(?s){reason}"):
        load_causal_lm(adapted(tmp_path / "other"))


def test_a_server_takes_the_name_that_it_gave_the_adapter():
    server = Server(url="http://localhost:1/v1")
    with pytest.raises(ValidationError, match="give the name under which it is served as model"):
        adapted("org/adapter", adapter_revision="abc", backend="openai", server=server)
    with pytest.raises(ValidationError, match="adapter_revision belongs to an adapter"):
        ModelSpec(model="org/name", adapter_revision="abc")


def test_training_does_not_stack_adapters(tmp_path):
    with pytest.raises(UserError, match="has an adapter already"):
        train_stages({}, tmp_path / "out", policy=adapted(), training=Training())
