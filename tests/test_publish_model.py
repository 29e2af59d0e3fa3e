"""An adapter's comparison goes into its card; another adapter's does not."""

import json
import logging

import pytest
import yaml

from tests.lm_eval_logs import log_run, sample
from tests.test_cards import made_facts, made_transition
from udasa import cards
from udasa.adapters import adapter_digest
from udasa.arms import ARMS
from udasa.digests import files_sha256
from udasa.errors import UserError
from udasa.evaluate import results
from udasa.publish import attach, write_card

SETUP = {"chat_template": "0" * 64, "dtype": "float32", "device": "cpu", "batch_size": 8, "limit": None}


def trained(folder, weights=b"\0" * 64):
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "training.json").write_text(json.dumps(made_facts()))
    return folder


def evaluated(folder, adapter, right):
    """Write an evaluation of ours: 20 documents, of which the first are right."""
    rows = [sample({"prompt": f"Q{i}"}, {"acc": float(i < right)}) for i in range(20)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    metric = results.Metric(value=right / 20, n=20, low=0.0, high=1.0, higher_is_better=True)
    task = results.TaskResult(
        version="1.0", samples="samples_t.jsonl", sha256=results.sha256(text.encode()), metrics={"acc": metric}
    )
    setup = results.Setup(model={"model": "org/base"}, adapter=adapter, **SETUP)
    results.save(folder, results.Evaluation(setup=setup, tasks={"t": task}, versions={}), {"t": text})
    return folder


def test_the_card_holds_the_comparison_until_the_adapter_is_another(tmp_path, caplog):
    adapter = trained(tmp_path / "adapter")
    before = evaluated(tmp_path / "before", None, 5)
    after = evaluated(tmp_path / "after", adapter_digest(adapter), 14)
    (found,) = attach(adapter, before, after).differences
    write_card(adapter, "org/adapter")
    card = (adapter / "README.md").read_text(encoding="utf-8")
    cards.validate(card, "model")
    front = yaml.safe_load(card.split("---")[1])
    (metric,) = front["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == 0.7 and metric["args"]["n"] == 20
    assert metric["args"]["difference_low"] == found.low and metric["args"]["difference"] == pytest.approx(0.45)
    kept = json.loads((adapter / "comparison.json").read_text())
    assert kept["items"] == [] and kept["differences"][0]["changes"]["fixed"] == 9

    write_card(adapter, "org/adapter")  # as `udasa train` does when it finds everything done
    assert (adapter / "README.md").read_text(encoding="utf-8") == card
    (adapter / "adapter_model.safetensors").write_bytes(b"\1" * 64)
    with caplog.at_level(logging.WARNING, "udasa"):
        write_card(adapter, "org/adapter")
    assert "model-index" not in (adapter / "README.md").read_text(encoding="utf-8")
    assert "is of an adapter that is no longer here" in caplog.text


@pytest.mark.parametrize(
    ("adapter", "named"), [(None, "the model without an adapter"), ("f" * 64, "sha256 ffffffffffff")]
)
def test_an_evaluation_of_another_adapter_is_refused(tmp_path, adapter, named):
    folder = trained(tmp_path / "adapter")
    before, after = evaluated(tmp_path / "before", None, 5), evaluated(tmp_path / "after", adapter, 6)
    with pytest.raises(UserError, match=f"is an evaluation of .*{named}"):
        attach(folder, before, after)
    assert not (folder / "comparison.json").exists()


def test_what_lm_eval_logged_names_no_adapter_and_is_taken_at_its_word(tmp_path):
    folder = trained(tmp_path / "adapter")
    for name, value in (("before", 0.0), ("after", 1.0)):
        log_run(tmp_path / name, name, {"t": [sample({"prompt": f"Q{i}"}, {"acc": value}) for i in range(9)]})
    attach(folder, tmp_path / "before", tmp_path / "after")
    write_card(folder, "org/adapter")
    assert "| `t` | `acc` (higher is better) | 9 |" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_whole_benchmark_goes_to_its_leaderboard_and_an_old_file_goes_away(tmp_path):
    folder = trained(tmp_path / "adapter")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "old.yaml").write_text("[]")
    task = "gpqa_diamond_cot_zeroshot"
    for name, right in (("before", 60), ("after", 65)):
        rows = [
            sample({"prompt": f"Q{i}"}, {"exact_match": float(i < right)}, filter="flexible-extract")
            for i in range(198)
        ]
        log_run(tmp_path / name, name, {task: rows})
    attach(folder, tmp_path / "before", tmp_path / "after")
    write_card(folder, "org/adapter")
    assert [path.name for path in folder.glob(".eval_results/*")] == ["gpqa-diamond.yaml"]
    (entry,) = yaml.safe_load((folder / ".eval_results" / "gpqa-diamond.yaml").read_text())
    assert entry["value"] == round(100 * 65 / 198, 2) and "n = 198" in entry["notes"]


@pytest.mark.parametrize("arm", sorted(ARMS.keys() - {"staged"}))
def test_the_card_of_an_arm_says_what_the_arm_is(tmp_path, arm):
    folder = trained(tmp_path / "adapter")
    (folder / "training.json").write_text(json.dumps(made_facts(arm=arm)))
    write_card(folder, "org/adapter")
    card = (folder / "README.md").read_text(encoding="utf-8")
    meaning, source = cards.escape(ARMS[arm].meaning), cards.escape(ARMS[arm].source)
    assert f"It is the arm `{arm}` of the toolkit udasa: {meaning} ({source})." in card
    assert "pairs of which" not in card.split("It is the arm")[0]


def test_the_card_holds_the_transitions_until_the_weights_are_others(tmp_path, caplog):
    folder = trained(tmp_path / "adapter")
    weights = folder / "adapter_model.safetensors"
    (folder / "transitions").mkdir()
    for name, of in (("0-base", None), ("1-moderate", files_sha256([weights]))):
        (folder / "transitions" / f"{name}.json").write_text(json.dumps({"of": {"weights": of}, "values": {}}))
    (folder / "transitions.json").write_text(json.dumps([made_transition()]))
    write_card(folder, "org/adapter")
    assert "| `moderate` | `kl` (nats a response) | 31 |" in (folder / "README.md").read_text(encoding="utf-8")
    weights.write_bytes(b"\1" * 64)
    with caplog.at_level(logging.WARNING, "udasa"):
        write_card(folder, "org/adapter")
    assert "This was not measured" in (folder / "README.md").read_text(encoding="utf-8")
    assert "is of weights that are no longer here" in caplog.text


def test_a_folder_without_a_training_has_no_card(tmp_path):
    with pytest.raises(UserError, match="is not a finished training"):
        write_card(tmp_path, "org/adapter")
