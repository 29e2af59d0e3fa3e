"""Uncertainties in the samples: the statistics of each run, with intervals, and their table on the page."""

import numpy as np
import pytest

from tests.lm_eval_logs import log_run, sample
from udasa.comparison_page import render_comparison
from udasa.evaluate import calibration, compare

DOCUMENTS = 40


def sampled(seed, signal):
    """Return documents of four answers each, of which the wrong ones are the more uncertain by `signal`."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(DOCUMENTS):
        wrong = rng.integers(0, 2, size=4)
        pairs = [[float(w * signal + rng.normal()), float(w)] for w in wrong]
        metrics = {
            "rouge_right": float(1 - wrong.mean()),
            "semantic_auroc": pairs,
            "length_auroc": [[1.0, w] for _, w in pairs],
        }
        rows.append(sample({"prompt": f"Q{i}", "cluster": str(i % 8)}, metrics))
    return rows


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, signal in (("before", 0.0), ("after", 3.0)):
        log_run(folder / name, name, {"truth": sampled(0, signal)})
    return compare(folder / "before", folder / "after")


def test_statistics_are_made_again_from_the_lists_and_have_an_interval(found):
    by = {(c.estimator, c.statistic, c.run): c for c in found.calibration}
    assert set(by) == {(e, "auroc", run) for e in ("semantic", "length") for run in ("before", "after")}
    lists = [row["semantic_auroc"] for row in sampled(0, 3.0)]
    after, before = by["semantic", "auroc", "after"], by["semantic", "auroc", "before"]
    assert after.value == pytest.approx(calibration.auroc(lists)) and (after.n, after.num_answers) == (DOCUMENTS, 160)
    assert before.low < 0.5 < before.high < after.low < after.value < after.high
    length = by["length", "auroc", "after"]
    assert (length.value, length.low, length.high) == (0.5, 0.5, 0.5)
    assert [d.metric for d in found.differences] == ["rouge_right"]


def test_the_page_shows_them_beside_the_baselines(found):
    page = render_comparison(found)
    assert "Does low uncertainty mean right?" in page and page.count("baseline</span>") == 2
