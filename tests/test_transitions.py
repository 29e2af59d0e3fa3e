"""Transitions: what a stage improved and forgot, and what is done about it."""

import dataclasses
import json
import logging

import pytest

from tests import tiny
from tests.train_data import SETTINGS, datasets
from udasa import probe, transitions
from udasa.backends import ModelSpec
from udasa.errors import UserError
from udasa.heldout import HeldOut
from udasa.train import train_stages
from udasa.transitions import Watch, to_markdown

STAGES = ("conservative", "moderate", "exploratory")
POLICY = ModelSpec(model="some/model", revision="0" * 40)


def held(num=30):
    pairs = [{"prompt_id": f"{stage}-{n}", "stage": stage} for stage in STAGES for n in range(num)]
    return HeldOut(pairs=pairs, max_length=8, max_new_tokens=8, canary={})


def said(shares, canary=1.0):
    """Values of a probe: of each stage's 30 pairs so many are right."""
    accuracy = {
        f"{stage}-{n}": float(n < right) for stage, right in zip(STAGES, shares, strict=True) for n in range(30)
    }
    return {
        "accuracy": accuracy,
        "margin": {name: value - 0.5 + 0.001 * n for n, (name, value) in enumerate(accuracy.items())},
        "kl": {},
        "length": {name: 5.0 for name in accuracy},
        "canary": {f"c{n}": canary + 0.001 * n for n in range(10)},
    }


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Return a function that walks over stages whose probes say what it is given, and its watch and verdicts."""

    def walk(*found, **options):
        answers = iter(found)
        monkeypatch.setattr(transitions, "probe", lambda *_, **__: next(answers))
        watch = Watch(tmp_path, policy=POLICY, held=held(), **options)
        verdicts = []
        for number in range(len(found) - 1):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "adapter_model.safetensors").write_text(str(number))
            verdicts.append(watch(STAGES[number], folder))
        return watch, verdicts

    return walk


def cell(watch, stage, metric):
    return next(t for t in watch.transitions() if (t.stage, t.metric) == (stage, metric))


def test_what_improved_and_what_was_forgotten(watch, caplog):
    walked, verdicts = watch(said((15, 15, 15)), said((28, 15, 15)), said((12, 28, 15)))
    assert verdicts == ["go on", "go on"], "a warning stops nothing"
    gained = cell(walked, "conservative", "accuracy conservative")
    assert (gained.before, gained.after, gained.found, gained.forgotten_since) == (
        0.5,
        pytest.approx(28 / 30),
        "better",
        None,
    )
    lost = cell(walked, "moderate", "accuracy conservative")
    assert lost.found == "worse" and lost.forgotten_since == "conservative" and lost.change.high < 0
    assert cell(walked, "moderate", "accuracy exploratory").found == "unclear"
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "Stage moderate forgot: accuracy conservative is 0.400 after it, a change of -0.533 (" in caplog.text
    assert "since conservative, over 30 items; the threshold is 0.05" in caplog.text


@pytest.mark.parametrize("doing", ["stop", "rollback"])
def test_forgetting_can_end_the_training(watch, doing):
    assert watch(said((15, 15, 15)), said((28, 15, 15)), said((12, 28, 15)), on_forgetting=doing)[1] == ["go on", doing]


def test_the_threshold_and_the_interval_must_both_be_passed(watch):
    """A loss of 16 in 30 is over no threshold of 0.6; one of 2 in 30 is over 0.05, and may be chance."""
    walked, verdicts = watch(
        said((15, 15, 15)), said((28, 15, 15)), said((12, 15, 15)), on_forgetting="stop", threshold=0.6
    )
    assert verdicts == ["go on", "go on"] and cell(walked, "moderate", "accuracy conservative").found == "worse"


def test_a_small_loss_that_may_be_chance_is_no_forgetting(watch):
    walked, verdicts = watch(said((15, 15, 15)), said((28, 15, 15)), said((26, 15, 15)), on_forgetting="stop")
    assert verdicts == ["go on", "go on"]
    lost = cell(walked, "moderate", "accuracy conservative")
    assert lost.after < lost.before - 0.05 and lost.found == "unclear"


def test_a_stage_that_was_not_trained_yet_cannot_be_forgotten(watch):
    assert watch(said((15, 28, 15)), said((28, 8, 15)), on_forgetting="stop")[1] == ["go on"]


def test_the_canary_counts_from_the_first_stage_on(watch):
    walked, verdicts = watch(said((15, 15, 15)), said((28, 15, 15), canary=1.1), on_forgetting="stop")
    assert verdicts == ["stop"] and cell(walked, "conservative", "canary").forgotten_since == "base"


def test_a_canary_that_is_lost_slowly_is_seen_against_the_best_earlier_one(watch, caplog):
    """Each stage loses 4.5 % of its bits, so no stage alone is beyond 5 %."""
    shares = (15, 15, 15)
    walked, verdicts = watch(
        said(shares), *(said(shares, canary=1.045**n) for n in (1, 2, 3)), on_forgetting="rollback"
    )
    assert verdicts == ["go on", "rollback", "rollback"]
    last = cell(walked, "exploratory", "canary")
    assert last.forgotten_since == "base" and last.before == pytest.approx(1.045**2 + 0.0045)
    assert last.change_since.value == pytest.approx(1.045**3 - 1) and last.change_since.n == 10
    assert last.change.value == pytest.approx(1.045**3 - 1.045**2)
    assert "forgotten since base: +0.141 (" in to_markdown([last])
    assert "canary is 1.146 after it, a change of +0.141" in caplog.text


def test_a_loss_since_the_stage_before_counts_where_the_best_earlier_one_is_too_uneven_to_tell(watch):
    uneven = {f"c{n}": 0.5 + n % 2 * 0.99 for n in range(10)}
    shares = (15, 15, 15)
    walked, _ = watch(said(shares) | {"canary": uneven}, said(shares), said(shares, canary=1.1))
    assert cell(walked, "moderate", "canary").forgotten_since == "conservative"


@pytest.mark.parametrize(
    ("shares", "metric", "since"),
    [
        pytest.param([(15, 15), (28, 15), (24, 15), (20, 15)], "accuracy conservative", "conservative", id="slowly"),
        pytest.param([(28, 15), (24, 15), (20, 15), (20, 15)], "accuracy conservative", None, id="what the base knew"),
        pytest.param([(15, 15), (15, 28), (15, 24), (15, 20)], "accuracy moderate", None, id="before it was taught"),
        pytest.param([(15, 15), (15, 28), (15, 24), (15, 20)], "accuracy", "conservative", id="all pairs"),
        pytest.param([(28, 28), (10, 28), (10, 28), (10, 28)], "accuracy", None, id="all that the base knew"),
    ],
)
def test_an_accuracy_is_seen_against_the_stages_from_the_one_that_taught_it(watch, shares, metric, since):
    """Four more of 30 pairs are lost a stage, which may be chance; eight are not."""
    walked, _ = watch(*(said((*both, 15)) for both in shares))
    last = cell(walked, "exploratory", metric)
    assert last.found == "unclear" and last.forgotten_since == since


def test_a_resumed_run_reads_what_was_measured_of_the_same_adapter(watch, tmp_path, monkeypatch):
    walked, _ = watch(said((15, 15, 15)), said((28, 15, 15)))
    monkeypatch.setattr(transitions, "probe", lambda *_, **__: pytest.fail("measured again"))
    again = Watch(tmp_path, policy=POLICY, held=held())
    again("conservative", tmp_path / "0")
    assert again.transitions() == walked.transitions()
    (tmp_path / "0" / "adapter_model.safetensors").write_text("another")
    monkeypatch.setattr(transitions, "probe", lambda *_, **__: said((30, 15, 15)))
    changed = Watch(tmp_path, policy=POLICY, held=held())
    changed("conservative", tmp_path / "0")
    assert cell(changed, "conservative", "accuracy conservative").after == 1.0


@pytest.mark.parametrize(
    ("policy", "items"),
    [
        pytest.param(POLICY, {"max_length": 9}, id="cut elsewhere"),
        pytest.param(POLICY, {"seed": 1}, id="sampled anew"),
        pytest.param(POLICY, {"pairs": [{**row, "chosen": "another"} for row in held().pairs]}, id="other pairs"),
        pytest.param(dataclasses.replace(POLICY, revision="1" * 40), {}, id="another base"),
        pytest.param(dataclasses.replace(POLICY, dtype="bfloat16"), {}, id="another dtype"),
    ],
)
def test_what_was_measured_of_something_else_is_not_read(watch, tmp_path, monkeypatch, policy, items):
    watch(said((15, 15, 15)), said((28, 15, 15)))
    answers = iter([said((10, 15, 15)), said((20, 15, 15))])
    monkeypatch.setattr(transitions, "probe", lambda *_, **__: next(answers))
    changed = Watch(tmp_path, policy=policy, held=dataclasses.replace(held(), **items))
    changed("conservative", tmp_path / "0")
    found = cell(changed, "conservative", "accuracy conservative")
    assert (found.before, found.after) == pytest.approx((10 / 30, 20 / 30))


def test_the_table_is_written_after_each_stage(watch, tmp_path):
    """So it is there when the first stage is taken back, which ends the training with an error."""
    walked, verdicts = watch(said((15, 15, 15)), said((28, 15, 15), canary=1.1), on_forgetting="rollback")
    assert verdicts == ["rollback"]
    rows = json.loads((tmp_path / "transitions.json").read_text())
    assert len(rows) == len(walked.transitions()) and rows[0]["change"]["n"] == 90
    assert [row["metric"] for row in rows if row["forgotten_since"] == "base"] == ["canary"]
    assert next(row for row in rows if row["forgotten_since"])["change_since"]["value"] == pytest.approx(0.1)
    text = (tmp_path / "transitions.md").read_text()
    assert "| conservative | accuracy conservative, share | 30 | 0.500 | 0.933 | +0.433 (" in text
    assert "| forgotten since base: +0.100 (" in text
    assert "kl" not in text, "a metric without items has no row"


def test_a_threshold_below_zero_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"0 or more, got -0\.1"):
        Watch(tmp_path, policy=POLICY, held=held(), threshold=-0.1)


def test_a_real_run_takes_back_the_stage_that_forgot(tmp_path, monkeypatch):
    """The second stage teaches the opposite of the first: its pairs are the first's, turned around."""
    pytest.importorskip("trl")
    first = datasets("conservative")["conservative"]
    more = datasets("conservative", num=36)["conservative"]
    turned = more.rename_columns({"chosen": "rejected", "rejected": "chosen"})
    pairs = [{**row, "stage": "conservative"} for row in first.select(range(8))]
    measured = HeldOut(pairs=pairs, max_length=96, max_new_tokens=4, canary={"a": "A cat.", "b": "A mat."})
    policy = ModelSpec(model=str(tiny.policy()))
    watch = Watch(tmp_path, policy=policy, held=measured, on_forgetting="rollback")
    monkeypatch.setattr(transitions, "METRICS", {**probe.METRICS, "canary": probe.METRICS["kl"]})  # random weights
    trained = train_stages(
        {"conservative": first, "opposite": turned.select_columns(first.column_names)},
        tmp_path,
        policy=policy,
        training=SETTINGS,
        after_stage=watch,
    )
    assert trained.verdict == "rollback" and [result.stage for result in trained.results] == ["conservative"]
    assert trained.adapter.name == "1-conservative"
    assert cell(watch, "opposite", "accuracy conservative").forgotten_since == "conservative"


def test_a_model_of_which_all_weights_were_trained_is_measured_against_the_base(tmp_path):
    pytest.importorskip("trl")
    pairs = datasets("conservative", "moderate", num=6)
    held = [{**row, "stage": stage} for stage, rows in pairs.items() for row in rows.select(range(3))]
    policy = ModelSpec(model=str(tiny.policy()))
    watch = Watch(tmp_path, policy=policy, held=HeldOut(pairs=held, max_length=96, max_new_tokens=4, canary={}))
    training = dataclasses.replace(SETTINGS, tuning="full", learning_rate=1e-3)
    trained = train_stages(pairs, tmp_path, policy=policy, training=training, after_stage=watch)
    assert [result.stage for result in trained.results] == ["conservative", "moderate"]
    first, second = (cell(watch, stage, "margin") for stage in pairs)
    assert first.before == 0.0 and first.after > 0.1, "the base is its own reference, and the model is not"
    assert second.before == first.after != second.after
    assert cell(watch, "conservative", "kl").after > 0.0
