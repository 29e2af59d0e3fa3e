"""Settings of the run and of single stages: what they make the trainer do."""

import dataclasses
import math

import pytest

from tests.train_data import SETTINGS, datasets, logged, make_policy, spread, weights
from udasa.backends import ModelSpec
from udasa.digests import stable_hash
from udasa.errors import UserError
from udasa.recipe import Override, Training
from udasa.train import dpo, train_stages

pytest.importorskip("trl")
pytest.importorskip("peft")

STAGES = ("conservative", "moderate")
MODEL = ModelSpec(model="somewhere")


@pytest.fixture(scope="module")
def policy():
    return make_policy()


def test_a_stage_overrides_the_run():
    fixed = Override(stage="moderate", beta=0.3, epochs=2.0, reference="fixed")
    training = Training(learning_rate=1e-4, fixed_reference=MODEL, overrides=(fixed,))
    moderate, other = training.of("moderate"), training.of("conservative")
    assert (moderate.beta, moderate.epochs, moderate.learning_rate) == (0.3, 2.0, 1e-4)
    assert (moderate.reference, moderate.fixed_reference) == ("fixed", MODEL)
    assert other == Training(learning_rate=1e-4)
    assert training.of("random-1") == other
    assert moderate.of("moderate") == moderate
    steps = Training(max_steps=9, overrides=(Override(stage="moderate", epochs=2.0),))
    assert (steps.of("moderate").max_steps, steps.of("moderate").epochs) == (None, 2.0)
    assert steps.of("conservative").max_steps == 9


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"overrides": (Override(stage="moderate"), Override(stage="moderate"))}, "different stages"),
        ({"stages": ("conservative",), "overrides": (Override(stage="moderate"),)}, "different stages"),
        ({"overrides": (Override(stage="moderate", beta=0.0),)}, "beta"),
        ({"overrides": (Override(stage="moderate", reference="fixed"),)}, "fixed_reference belongs"),
        ({"fixed_reference": MODEL}, "fixed_reference belongs"),
        ({"max_steps": 0}, "max_steps"),
        ({"replay": 1.5}, "replay"),
        ({"label_smoothing": 0.5}, "label_smoothing must"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "belongs to the losses"),
        ({"label_smoothing": 0.1}, "belongs to the losses"),
        ({"save_steps": 0}, "save_steps"),
    ],
)
def test_a_wrong_setting_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Training(**settings)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("nothing",), r"\('nothing',\) is no module of the model. It has .*down_proj, .*, or use all-linear"),
        (("q_proj", "embed_tokens"), "names model.embed_tokens, whose weights the model uses at both its ends"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(policy, tmp_path, targets, said):
    with pytest.raises(UserError, match=said):
        train_stages(
            datasets("a", num=4), tmp_path, policy=policy, training=dataclasses.replace(SETTINGS, lora_targets=targets)
        )


def test_the_reference_is_gone_when_all_weights_are_trained(policy, tmp_path, monkeypatch):
    """TRL asks for a second model; at the first step only the one that is trained is in memory."""
    import weakref

    from udasa.train import dpo, models

    loaded, alive, load, watch = [], [], models.load_base, dpo.make_watch

    def load_and_remember(*args):
        found = load(*args)
        loaded.append(weakref.ref(found[0]))
        return found

    def watch_and_count(*args):
        alive.append(sum(model() is not None for model in loaded))
        return watch(*args)

    monkeypatch.setattr(models, "load_base", load_and_remember)
    monkeypatch.setattr(dpo, "make_watch", watch_and_count)
    settings = dataclasses.replace(SETTINGS, tuning="full", learning_rate=1e-4)
    train_stages(datasets("a", num=4), tmp_path, policy=policy, training=settings)
    assert (len(loaded), alive) == (2, [1])


def test_the_trainer_does_what_a_stage_says(policy, tmp_path):
    """Steps, learning rate, beta and loss of one stage, and the run's own of the other."""
    moderate = Override(stage="moderate", learning_rate=1e-3, max_steps=2, beta=0.3, loss="ipo")
    settings = dataclasses.replace(SETTINGS, epochs=2.0, reference="previous", overrides=(moderate,))
    staged = train_stages(datasets(*STAGES), tmp_path, policy=policy, training=settings)
    assert [result.steps for result in staged.results] == [6, 2]
    assert [result.first_loss for result in staged.results] == pytest.approx([math.log(2), 1 / (4 * 0.3**2)], abs=1e-4)
    first = [next(step for step in logged(tmp_path) if step["stage"] == stage) for stage in STAGES]
    assert [step["learning_rate"] for step in first] == [2e-3, 1e-3]


def test_replayed_pairs_are_those_with_the_smallest_hash(policy, tmp_path, monkeypatch):
    seen = {}
    whole = dpo.train_stage
    monkeypatch.setattr(
        "udasa.train.stages.train_stage", lambda stage, *a: seen.update({stage.name: stage}) or whole(stage, *a)
    )
    pairs = datasets("conservative", "moderate", "exploratory", num=8)
    settings = dataclasses.replace(SETTINGS, overrides=(Override(stage="exploratory", replay=0.25),))
    staged = train_stages(pairs, tmp_path, policy=policy, training=settings)
    assert [(result.pairs, result.replayed) for result in staged.results] == [(8, 0), (8, 0), (12, 4)]
    expected = {
        prompt_id
        for stage in ("conservative", "moderate")
        for prompt_id in sorted(pairs[stage]["prompt_id"], key=lambda i: stable_hash("replay", i))[:2]
    }
    assert set(seen["exploratory"].pairs["prompt_id"]) - set(pairs["exploratory"]["prompt_id"]) == expected


def test_smoothing_from_the_gap(policy, tmp_path):
    """The gap of every pair is 0.3, so (1 - 0.3) / 2 of the labels are taken to be wrong."""
    pairs = datasets("all")
    settings = dataclasses.replace(SETTINGS, loss="cdpo", label_smoothing="gap")
    from_gap, given = (
        train_stages(
            pairs, tmp_path / str(value), policy=policy, training=dataclasses.replace(settings, label_smoothing=value)
        )
        for value in ("gap", 0.35)
    )
    assert from_gap.results[0].label_smoothing == pytest.approx(0.35)
    assert spread(weights(from_gap.adapter), weights(given.adapter)) < 1e-6
    assert from_gap.results[0].first_loss == pytest.approx(math.log(2), abs=1e-6)
    without = datasets("all", columns=("prompt_id", "prompt", "chosen", "rejected"))
    with pytest.raises(UserError, match="needs the column gap"):
        train_stages(without, tmp_path / "none", policy=policy, training=settings)


def test_conservative_dpo_is_its_formula(policy, tmp_path):
    """A pair a step: the loss that is logged, from the margin that is logged."""
    e = 0.3
    settings = dataclasses.replace(SETTINGS, loss="cdpo", label_smoothing=e, batch_size=1, device_batch_size=1)
    train_stages(datasets("all", num=8), tmp_path, policy=policy, training=settings)
    steps = logged(tmp_path)
    z = [step["rewards/margins"] for step in steps]
    assert max(z) > 0.2
    expected = [(1 - e) * math.log1p(math.exp(-m)) + e * math.log1p(math.exp(m)) for m in z]
    assert [step["loss"] for step in steps] == pytest.approx(expected, abs=1e-5)


def test_smoothing_holds_the_margin(policy, tmp_path):
    """Conservative DPO is least where the margin is log((1 - e) / e); DPO drives it on."""
    margins = {}
    for loss, smoothing in (("sigmoid", 0.0), ("cdpo", 0.4)):
        settings = dataclasses.replace(SETTINGS, loss=loss, label_smoothing=smoothing, epochs=4.0, learning_rate=8e-3)
        staged = train_stages(datasets("all"), tmp_path / loss, policy=policy, training=settings)
        margins[loss] = staged.results[0].reward_margin
    assert margins["cdpo"] < 2 * math.log(0.6 / 0.4) < margins["sigmoid"]


def test_checkpointing_changes_no_weight(policy, tmp_path):
    runs = [
        train_stages(
            datasets("all"),
            tmp_path / value,
            policy=policy,
            training=dataclasses.replace(SETTINGS, checkpointing=value),
        ).adapter
        for value in ("auto", "on")
    ]
    assert spread(*map(weights, runs)) < 1e-6


def test_four_bits_without_bitsandbytes_say_what_to_install(policy, tmp_path):
    import importlib.util

    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    from udasa.errors import MissingExtraError

    settings = dataclasses.replace(SETTINGS, tuning="qlora")
    with pytest.raises(MissingExtraError, match=r"udasa\[qlora\]"):
        train_stages(datasets("all"), tmp_path, policy=policy, training=settings)


@pytest.mark.gpu
def test_an_adapter_on_four_bits(policy, tmp_path):
    settings = dataclasses.replace(SETTINGS, tuning="qlora")
    staged = train_stages(datasets(*STAGES), tmp_path, policy=policy, training=settings)
    assert staged.results[0].first_loss == pytest.approx(math.log(2), abs=1e-2)
    assert all(value.abs().max() > 0 for name, value in weights(staged.adapter).items() if "lora_B" in name)
