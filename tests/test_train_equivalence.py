"""Training held against plain TRL scripts that know nothing of udasa: step by step, and weight by weight."""

import dataclasses
import math

import pytest

from tests.train_data import DEPRECATED, SETTINGS, datasets, logged, make_policy, spread, weights
from udasa.backends import ModelSpec
from udasa.recipe import Override
from udasa.train import models, train_stages

pytest.importorskip("trl")
pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings(DEPRECATED)
LN2 = math.log(2)


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory, policy):
    """Train two stages with each reference; the folder by reference."""
    found = {}
    for reference in ("base", "previous"):
        found[reference] = tmp_path_factory.mktemp(reference)
        settings = dataclasses.replace(SETTINGS, reference=reference)
        train_stages(datasets("first", "second"), found[reference], policy=policy, training=settings)
    return found


def plain(policy, pairs, folder, start=None, reference="base", lora=True, **options):
    """Train with TRL alone, the reference read at every step; returns its log, and saves into `folder`."""
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(policy.model)
    if start:
        model = PeftModel.from_pretrained(model, start, is_trainable=True)
    given = {
        "beta": 0.1,
        "learning_rate": 2e-3,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "max_length": 96,
        **options,
    }
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(folder),
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            seed=0,
            **given,
        ),
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(policy.model),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        if lora and not start
        else None,
    )
    if start and reference == "base":
        trainer.model.delete_adapter("ref")  # then TRL's reference is the model with its adapter off
    trainer.train()
    trainer.model.save_pretrained(folder, **({"selected_adapters": ["default"]} if lora else {}))
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def assert_same_steps(ours, theirs, within=2e-6):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "rewards/margins", "logps/chosen"):
            assert a[name] == pytest.approx(b[name], abs=within, rel=1e-4), (name, a["step"])


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_two_stages_are_two_plain_runs(two_stages, policy, tmp_path, reference):
    """Losses, gradients and rewards at every step, and the weights at the end of each stage."""
    output, pairs = two_stages[reference], datasets("first", "second")
    ours = logged(output)
    first = plain(policy, pairs["first"], tmp_path / "1")
    assert_same_steps([step for step in ours if step["stage"] == "first"], first)
    assert spread(weights(tmp_path / "1"), weights(output / "stages" / "1-first")) < 1e-5
    second = plain(policy, pairs["second"], tmp_path / "2", str(output / "stages" / "1-first"), reference)
    assert_same_steps([step for step in ours if step["stage"] == "second"], second)
    assert spread(weights(tmp_path / "2"), weights(output / "stages" / "2-second")) < 1e-5
    assert (second[0]["loss"] == pytest.approx(LN2, abs=1e-6)) == (reference == "previous")


@pytest.mark.parametrize(("loss", "first_loss"), [("robust", LN2), ("hinge", 1.0), ("ipo", 25.0), ("sft", None)])
def test_every_loss_is_trls(policy, tmp_path, loss, first_loss):
    smoothing = 0.1 if loss == "robust" else 0.0
    pairs = datasets("all", num=8)
    settings = dataclasses.replace(SETTINGS, loss=loss, label_smoothing=smoothing)
    staged = train_stages(pairs, tmp_path / "ours", policy=policy, training=settings)
    theirs = plain(policy, pairs["all"], tmp_path / "plain", loss_type=[loss], label_smoothing=smoothing)
    assert_same_steps(logged(tmp_path / "ours"), theirs, within=2e-5)
    if first_loss is not None:
        assert staged.results[0].first_loss == pytest.approx(first_loss, abs=1e-4)


def test_all_weights_without_an_adapter(policy, tmp_path):
    """Two stages of `full` are two plain runs, against the base model and against the stage's own start."""
    from safetensors.torch import load_file

    pairs = datasets("first", "second", num=8)
    settings = dataclasses.replace(
        SETTINGS, tuning="full", learning_rate=1e-4, overrides=(Override(stage="moderate", reference="previous"),)
    )
    renamed = {"conservative": pairs["first"], "moderate": pairs["second"]}
    staged = train_stages(renamed, tmp_path / "ours", policy=policy, training=settings)
    first = plain(policy, pairs["first"], tmp_path / "1", lora=False, learning_rate=1e-4)
    again = ModelSpec(model=str(tmp_path / "ours" / "stages" / "1-conservative"))
    second = plain(again, pairs["second"], tmp_path / "2", lora=False, learning_rate=1e-4)
    assert_same_steps(logged(tmp_path / "ours"), first + second)
    ours, theirs = load_file(staged.adapter / "model.safetensors"), load_file(tmp_path / "2" / "model.safetensors")
    assert spread(ours, theirs) < 1e-5
    assert [result.first_loss for result in staged.results] == pytest.approx([LN2] * 2, abs=1e-6)


def test_accumulated_batches_give_one_trajectory(policy, tmp_path):
    """A batch of 8 at once, and of 1 eight times: the same losses and weights."""
    pairs = datasets("all", num=24)
    for size in (8, 1):
        settings = dataclasses.replace(SETTINGS, batch_size=8, device_batch_size=size)
        train_stages(pairs, tmp_path / str(size), policy=policy, training=settings)
    split, whole = logged(tmp_path / "1"), logged(tmp_path / "8")
    assert [step["loss"] for step in split] == pytest.approx([step["loss"] for step in whole], abs=1e-5)
    folders = [tmp_path / size / "stages" / "1-all" for size in ("1", "8")]
    assert spread(*map(weights, folders)) < 1e-4


def test_the_merged_model_answers_as_base_and_adapter_do(two_stages, policy, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = two_stages["base"] / "stages" / "2-second"
    models.merge(adapter, policy, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(policy.model).eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = AutoTokenizer.from_pretrained(tmp_path)("Is it safe and helpful?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = base(ids).logits
        both = PeftModel.from_pretrained(base, adapter)(ids).logits
        assert (merged(ids).logits - both).abs().max() < 1e-5
        assert (both - before).abs().max() > 1e-3
    assert (tmp_path / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.bin"))
