"""The commands about the evaluation's judges print what they measured, and refuse what they cannot read."""

import json

import pytest

from tests import planted
from tests.test_generation_tasks import REFUSE, run
from udasa.evaluate import context
from udasa.evaluate.context import Context


@pytest.fixture
def udasa(udasa, monkeypatch, tmp_path):
    """Run the command line on the made-up mirror, 200 columns wide."""
    planted.plant(tmp_path / "mirror", monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    with context.use(Context()):
        yield udasa


def test_judges_are_held_against_the_mirrors_labels(udasa, tmp_path):
    code, shown, _ = udasa("judge", "refusal", "-o", tmp_path / "r.json")
    assert code == 0 and "60 replies of 5 models to 12 prompts" in shown
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["rules or classifier"]["kappa"]["value"] == 1.0
    assert facts["rules"]["rates"]["gpt4"] == [0.0, pytest.approx(2 / 3)]
    code, shown, _ = udasa("judge", "sentiment", "-o", tmp_path / "s.json")
    facts = json.loads((tmp_path / "s.json").read_text())
    assert code == 0 and facts["sentences, five folds"]["auc"]["value"] == 1.0
    assert facts["last 60 words"]["accuracy"]["n"] == 8


def test_labels_that_do_not_fit_are_refused(udasa, tmp_path):
    _, _, samples = run(tmp_path / "run", "udasa_overrefusal", lambda document, _: REFUSE)
    safe = [sample["doc"]["id"] for sample in samples if sample["doc"]["safe"]]
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n" + "".join(f"{key},0\n" for key in safe))
    code, _, error = udasa("judge", "correct", tmp_path / "run", labels)
    assert code == 2 and f"{len(safe)} items are labelled; at least 30 are needed" in error
    code, _, error = udasa("judge", "correct", tmp_path / "run", labels, "--metric", "net")
    assert code == 2 and "udasa_overrefusal/safe_refusal" in error
    labels.write_text("id,label\nx,yes\n")
    code, _, error = udasa("judge", "correct", tmp_path / "run", labels)
    assert code == 2 and "Row 1" in error and "other than 0 and 1" in error


def test_enough_labels_give_a_corrected_rate(udasa, tmp_path, monkeypatch):
    monkeypatch.setattr("udasa.evaluate.ppi.FEWEST", 5)
    _, _, samples = run(tmp_path / "run", "udasa_overrefusal", lambda document, _: REFUSE)
    safe = [sample["doc"]["id"] for sample in samples if sample["doc"]["safe"]]
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n" + "".join(f"{key},{i % 2}\n" for i, key in enumerate(safe)))
    code, shown, _ = udasa("judge", "correct", tmp_path / "run", labels)
    assert code == 0 and "udasa_overrefusal safe_refusal: 0.500" in shown
    assert "by 6 verdicts and 6 labels; judge alone 1.000, labels alone 0.500" in shown
