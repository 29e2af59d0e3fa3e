"""References: which policy it is, that it is read once, and that a wrong one is found."""

import dataclasses
import math

import pytest

from tests import tiny
from tests.progress import recorder
from tests.train_data import SETTINGS, datasets, make_policy, spread, weights
from udasa.backends import ModelSpec
from udasa.errors import UserError
from udasa.recipe import Override
from udasa.train import references, train_stages

pytest.importorskip("trl")
pytest.importorskip("peft")

LN2 = math.log(2)
STAGES = ("conservative", "moderate", "exploratory")


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "references"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model with the policy's tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("other")
    model = AutoModelForCausalLM.from_pretrained(tiny.policy())
    for parameter in model.parameters():
        parameter.data *= 1.2
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny.policy()).save_pretrained(folder)
    return ModelSpec(model=str(folder))


def read_pairs(calls):
    """Return how many pairs a reference read, pass by pass."""
    passes = [total for name, done, total in calls if name.startswith("reference") and done == total]
    return passes


def test_seeds_and_arms_of_the_same_pairs_read_the_base_model_once(policy, tmp_path, cache):
    """Stages in another order, one stage of them all, another seed, more epochs: the cache has it."""
    from datasets import concatenate_datasets

    pairs = datasets(*STAGES[:2], num=6)
    arms = {
        "staged": (pairs, {}),
        "reversed": (dict(reversed(pairs.items())), {"seed": 3}),
        "single": ({"all": concatenate_datasets(list(pairs.values()))}, {"epochs": 2.0}),
    }
    calls = {name: [] for name in arms}
    for name, (given, changed) in arms.items():
        settings = dataclasses.replace(SETTINGS, **changed)
        train_stages(given, tmp_path / name, policy=policy, training=settings, progress=recorder(calls[name]))
    assert {name: read_pairs(seen) for name, seen in calls.items()} == {"staged": [12], "reversed": [], "single": []}
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"learning_rate": 1.0, "seed": 7, "epochs": 3.0, "beta": 0.7, "loss": "ipo", "lora_rank": 2}, True),
        ({"max_length": 64}, False),
        ({"device_batch_size": 2}, False),
        ({"tuning": "full"}, False),
    ],
)
def test_what_an_answer_hangs_on(policy, changed, same):
    base = references.Reference(policy, None)
    keys = [
        references._key(base, policy, settings, ["a", "b"])
        for settings in (SETTINGS, dataclasses.replace(SETTINGS, **changed))
    ]
    assert (keys[0] == keys[1]) == same


def test_an_answer_hangs_on_the_weights_and_on_the_pairs(policy, other, tmp_path):
    keys = [
        references._key(references.Reference(policy, None), policy, SETTINGS, ["a", "b"]),
        references._key(references.Reference(policy, None), policy, SETTINGS, ["a", "c"]),
        references._key(references.Reference(other, None), policy, SETTINGS, ["a", "b"]),
    ]
    for scale in (b"1", b"2"):
        (tmp_path / "adapter_model.safetensors").write_bytes(scale)
        keys.append(references._key(references.Reference(policy, tmp_path), policy, SETTINGS, ["a", "b"]))
    assert len(set(keys)) == 5


def test_a_stored_answer_gives_the_bytes_of_a_new_one(policy, tmp_path, cache):
    for name in ("new", "stored"):
        train_stages(datasets("all"), tmp_path / name, policy=policy, training=SETTINGS)
    assert spread(*(weights(tmp_path / name / "stages" / "1-all") for name in ("new", "stored"))) == 0


def test_a_fixed_reference(policy, other, tmp_path):
    """A copy of the base model as the fixed reference is the reference `base`; another model is not."""
    pairs = datasets("first", "second")
    base = train_stages(pairs, tmp_path / "base", policy=policy, training=SETTINGS)
    copied = dataclasses.replace(policy, batch_tokens=policy.batch_tokens + 1)
    fixed, apart = (
        train_stages(
            pairs,
            tmp_path / name,
            policy=policy,
            training=dataclasses.replace(SETTINGS, reference="fixed", fixed_reference=spec),
        )
        for name, spec in (("same", copied), ("other", other))
    )
    assert spread(weights(fixed.adapter), weights(base.adapter)) < 1e-6
    assert fixed.results[1].first_loss == pytest.approx(base.results[1].first_loss, abs=1e-6)
    assert (fixed.results[0].reference, base.results[0].reference) == ("fixed", "base")
    assert abs(apart.results[0].first_loss - LN2) > 1e-3


def test_a_stage_may_have_a_reference_of_its_own(policy, tmp_path):
    settings = dataclasses.replace(SETTINGS, overrides=(Override(stage="moderate", reference="previous"),))
    staged = train_stages(datasets(*STAGES), tmp_path, policy=policy, training=settings)
    assert [result.reference for result in staged.results] == ["base", "previous", "base"]
    assert staged.results[1].first_loss == pytest.approx(LN2, abs=1e-6)
    assert staged.results[2].first_loss < LN2 - 0.05


def test_a_wrong_reference_is_found_at_the_first_step(policy, other, tmp_path, cache, monkeypatch):
    """The model that is read as the base is another one: the first loss cannot be ln 2."""
    from udasa import backends_hf

    monkeypatch.setattr(references, "_load", lambda *_: backends_hf.load_causal_lm(other)[0])
    with pytest.raises(UserError, match=r"first loss of stage 'all' is 0\.\d+; expected ln 2 .* chat template"):
        train_stages({"all": datasets("all")["all"]}, tmp_path, policy=policy, training=SETTINGS)
    assert not list(tmp_path.rglob("stage.json"))


def test_a_fixed_reference_with_another_vocabulary_is_an_error(policy, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(policy.model).save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(policy.model)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(tmp_path / "model")
    spec = ModelSpec(model=str(tmp_path / "model"))
    settings = dataclasses.replace(SETTINGS, reference="fixed", fixed_reference=spec)
    with pytest.raises(UserError, match="another vocabulary"):
        train_stages(datasets("all"), tmp_path / "o", policy=policy, training=settings)
