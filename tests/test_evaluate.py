"""Scripted models score exactly; comparisons are paired by hash, or refused."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import scripted as scripts
from udasa import resources, statistics
from udasa.errors import UserError
from udasa.evaluate import compare, load, results, suite, to_json

TASKS = ("udasa_smoke_harmlessness", "udasa_smoke_helpfulness", "udasa_smoke_truthfulness", "udasa_smoke_sentiment")


def scripted(folder, loglikelihood, tasks=("udasa_smoke",), limit=None):
    """Evaluate a model that is a function of (document, index of the choice) and write the results to `folder`."""
    return scripts.evaluate(folder, tasks, loglikelihood=loglikelihood, limit=limit)


def oracle(document, index):
    return -1.0 if index == document["gold"] else -100.0


def first(document, index):
    return -1.0 - 99.0 * index


def constant(document, index):
    return -50.0


def longer(document, index):
    return float(len(document["choices"][index].encode())) ** 2


def flipped(*ids):
    """The oracle, wrong on the items of these ids."""
    return lambda document, index: oracle(document, 1 - index if document["id"] in ids else index)


def edit(folder, change):
    """Change results.json in place."""
    path = folder / "results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def perfect(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perfect")
    scripted(folder, oracle)
    return folder


@pytest.fixture
def copy(perfect, tmp_path):
    return Path(shutil.copytree(perfect, tmp_path / "copy"))


# Closed forms


@pytest.mark.parametrize(("model", "acc", "acc_bytes"), [(oracle, 1.0, 1.0), (first, 0.5, 0.5)])
def test_scripted_models_score_exactly(tmp_path, model, acc, acc_bytes):
    evaluation = scripted(tmp_path, model)
    assert tuple(evaluation.tasks) == TASKS
    for task in evaluation.tasks.values():
        assert (task.metrics["acc"].value, task.metrics["acc"].n) == (acc, 48)
        assert (task.metrics["acc_bytes"].value, task.metrics["acc_bytes"].n) == (acc_bytes, 48)
    for subset in ("refusal", "compliance"):
        metric = evaluation.tasks["udasa_smoke_harmlessness"].metrics[subset]
        assert (metric.value, metric.n) == (acc_bytes, 24)


def test_a_constant_model_scores_chance_by_sum_and_length_by_byte(tmp_path):
    for task in scripted(tmp_path, constant).tasks.values():
        assert task.metrics["acc"].value == 0.5
        assert 0.45 <= task.metrics["acc_bytes"].value <= 0.55


def test_a_model_that_takes_the_longer_choice_scores_near_chance(tmp_path):
    evaluation = scripted(tmp_path, longer)
    for name, task in evaluation.tasks.items():
        with (resources.shelf("eval") / "data" / f"{name.removeprefix('udasa_smoke_')}.jsonl").open(
            encoding="utf-8"
        ) as lines:
            lengths = [(len(item["good"].encode()), len(item["bad"].encode())) for item in map(json.loads, lines)]
        expected = sum((good > bad) + 0.5 * (good == bad) for good, bad in lengths) / 48
        assert task.metrics["acc_bytes"].value == task.metrics["acc"].value == expected
        assert 0.45 <= expected <= 0.55


def test_k_wrong_items_cost_k_items(perfect, tmp_path):
    wrong = ("truthfulness-03", "truthfulness-10", "truthfulness-30", "harmlessness-kidney-harmful")
    scripted(tmp_path, flipped(*wrong))
    found = {(d.task, d.metric): d for d in compare(perfect, tmp_path).differences}
    truth = found["udasa_smoke_truthfulness", "acc_bytes"]
    assert (truth.n, truth.before, truth.after, truth.delta) == (48, 1.0, 45 / 48, -3 / 48)
    assert truth.low < truth.delta < truth.high < 0.03
    refusal = found["udasa_smoke_harmlessness", "refusal"]
    assert (refusal.n, refusal.before, refusal.after, refusal.delta) == (24, 1.0, 23 / 24, -1 / 24)
    compliance = found["udasa_smoke_harmlessness", "compliance"]
    assert (compliance.n, compliance.before, compliance.after, compliance.delta) == (24, 1.0, 1.0, 0.0)
    assert all(d.higher_is_better for d in found.values())


def test_a_nan_is_an_error_and_not_a_perfect_score(tmp_path):
    with pytest.raises(ValueError, match="expected finite numbers"):
        scripted(tmp_path, lambda document, index: math.nan)
    assert not (tmp_path / "results.json").exists()


def test_metrics_that_are_not_finite_are_refused():
    sample = {"doc_hash": "h", "filter": "none", "doc": {}, "prompt_hash": "p", "metrics": ["m"], "m": math.inf}
    with pytest.raises(UserError, match="values of m in t are NaN or infinite"):
        suite._task_result("t", json.dumps(sample) + "\n", {})


def test_our_values_are_those_of_lm_eval(tmp_path):
    with suite._quiet(tmp_path / "log"):
        loaded = suite._load_tasks(["udasa_smoke_sentiment", "udasa_smoke_truthfulness"])
    assert list(loaded["tasks"]) == ["udasa_smoke_sentiment", "udasa_smoke_truthfulness"]
    sample = {
        "doc_hash": "h",
        "filter": "none",
        "doc": {},
        "prompt_hash": "p",
        "metrics": ["m", "ppl"],
        "m": 1,
        "ppl": 2.0,
    }
    found = {
        "results": {"t": {"m,none": 1.0, "ppl,none": 7.4}},
        "higher_is_better": {"t": {"m": False}},
        "versions": {"t": 1},
    }
    result = suite._task_result("t", json.dumps(sample) + "\n", found)
    low = statistics.proportion_interval([1.0])[0]
    assert result.metrics == {"m": results.Metric(value=1.0, n=1, low=low, high=1.0, higher_is_better=False)}


# Comparisons


def test_a_comparison_with_itself_is_zero_everywhere(perfect):
    differences = compare(perfect, perfect).differences
    assert len(differences) == 3 * 4 + 2
    assert all(d.delta == 0.0 for d in differences)
    assert all((d.low, d.high) == (0.0, 0.0) for d in differences if d.metric == "margin")


def test_no_change_among_few_answers_is_not_certainly_no_change(perfect):
    """Nothing mended and nothing broken in n: z sqrt(2) / (n + 2) either way."""
    for d in compare(perfect, perfect).differences:
        if d.metric != "margin":
            half = 1.959963984540054 * math.sqrt(2) / (d.n + 2)
            assert (d.low, d.high) == pytest.approx((-half, half))


@pytest.mark.parametrize(
    ("deltas", "low", "high"),
    [
        # Bonett and Price by hand: n = 10 + 2, mended 4/12, broken 1/12, middle 3/12, variance (5/12 - 9/144) / 12.
        ([1.0] * 3 + [0.0] * 7, 0.25 - 1.959964 * math.sqrt((5 / 12 - 1 / 16) / 12), None),
        ([1.0] * 200, None, 1.0),
        ([-1.0] * 200, -1.0, None),
        ([0.5, -0.5], -0.5 * 0 - 1.959964 * math.sqrt(0.75 / 4), 1.959964 * math.sqrt(0.75 / 4)),
    ],
)
def test_paired_interval(deltas, low, high):
    found = statistics.paired_interval(deltas)
    assert low is None or found[0] == pytest.approx(low, abs=1e-6)
    assert high is None or found[1] == pytest.approx(high, abs=1e-6)
    mirrored = statistics.paired_interval([-d for d in deltas])
    assert mirrored == pytest.approx((-found[1], -found[0]))


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(0, 10, 0.0, 0.3209), (10, 10, 0.6791, 1.0), (5, 10, 0.2366, 0.7634)]
)
def test_proportion_interval(right, n, low, high):
    """Agresti and Coull: for 5 of 10 the centre is one half and the half-width z / (2 sqrt(n + z^2))."""
    found = statistics.proportion_interval([1.0] * right + [0.0] * (n - right))
    assert found == pytest.approx((low, high), abs=1e-4)


def test_samples_are_joined_by_hash(perfect, tmp_path):
    worse = tmp_path / "worse"
    scripted(worse, flipped("sentiment-05-positive", "helpfulness-07"))
    expected = compare(perfect, worse).differences
    assert sum(d.delta < 0 for d in expected) == 6
    shuffle(worse)
    assert compare(perfect, worse).differences == expected


def test_differences_within_a_cluster_count_as_one(perfect, tmp_path):
    numbers = range(1, 13)
    apart = flipped(*(f"sentiment-{i:02}-positive" for i in numbers))
    together = flipped(*(f"sentiment-{i:02}-{target}" for i in numbers[:6] for target in ("positive", "negative")))
    narrow, wide = (_acc(perfect, tmp_path / name, model) for name, model in (("a", apart), ("b", together)))
    assert narrow.delta == wide.delta == -12 / 48
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low), (narrow, wide)


def _acc(before, after, model):
    scripted(after, model)
    return next(d for d in compare(before, after).differences if (d.task, d.metric) == ("udasa_smoke_sentiment", "acc"))


def shuffle(folder):
    def rehash(content):
        for task in content["tasks"].values():
            path = folder / task["samples"]
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            order = np.random.default_rng(1).permutation(len(lines))
            path.write_text("".join(lines[i] for i in order), encoding="utf-8")
            task["sha256"] = results.sha256(path.read_bytes())

    edit(folder, rehash)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("chat_template", "1" * 64, "chat template"),
        ("dtype", "bfloat16", r"dtype: float32 \(.*\) and bfloat16"),
        ("device", "cuda", "device"),
        ("batch_size", 16, r"batch size: 8 \(.*\) and 16"),
    ],
)
def test_another_setup_is_refused(perfect, copy, field, value, named):
    edit(copy, lambda content: content["setup"].update({field: value}))
    with pytest.raises(UserError, match=named):
        compare(perfect, copy)


def test_another_task_version_is_refused(perfect, copy):
    edit(copy, lambda content: content["tasks"]["udasa_smoke_sentiment"].update(version="1.1"))
    with pytest.raises(UserError, match=r"version of udasa_smoke_sentiment: 1\.0 \(.*\) and 1\.1"):
        compare(perfect, copy)


def test_another_set_of_tasks_is_refused(perfect, copy):
    edit(copy, lambda content: content["tasks"].pop("udasa_smoke_sentiment"))
    with pytest.raises(UserError, match="set of tasks"):
        compare(perfect, copy)


def test_another_set_of_documents_is_refused(perfect, tmp_path):
    scripted(tmp_path, oracle, limit=4)
    with pytest.raises(UserError, match="data of udasa_smoke_harmlessness: 48 documents"):
        compare(perfect, tmp_path)


def test_other_prompts_are_refused(perfect, copy):
    path = copy / "samples_udasa_smoke_helpfulness.jsonl"
    text = path.read_text(encoding="utf-8").replace('"prompt_hash": "', '"prompt_hash": "x')
    path.write_text(text, encoding="utf-8")
    digest = results.sha256(text.encode())
    edit(copy, lambda content: content["tasks"]["udasa_smoke_helpfulness"].update(sha256=digest))
    with pytest.raises(UserError, match="prompts of udasa_smoke_helpfulness"):
        compare(perfect, copy)


def test_samples_that_were_changed_are_refused(perfect, copy):
    with (copy / "samples_udasa_smoke_sentiment.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"samples_udasa_smoke_sentiment\.jsonl is missing or is not the file"):
        compare(perfect, copy)


def test_a_folder_without_results_is_refused(perfect, tmp_path):
    with pytest.raises(UserError, match=r"holds no results\.json"):
        compare(perfect, tmp_path)


def test_results_of_another_form_are_refused(copy):
    edit(copy, lambda content: content.pop("versions"))
    with pytest.raises(UserError, match="is not a result of this version"):
        load(copy)


def test_results_and_differences_round_trip(perfect):
    evaluation = load(perfect)
    assert set(evaluation.tasks) == set(TASKS)
    assert set(evaluation.versions) == {"udasa", "lm_eval", "transformers", "torch"}
    rows = json.loads(to_json(compare(perfect, perfect)))["differences"]
    assert rows[0]["task"] == "udasa_smoke_harmlessness" and rows[0]["delta"] == 0.0 and rows[0]["n"] == 48


def test_a_line_separator_inside_a_sample_does_not_end_it():
    sample = {
        "doc_hash": "h",
        "filter": "none",
        "doc": {"q": "a\u2028b"},
        "prompt_hash": "p",
        "metrics": ["m"],
        "m": 1.0,
    }
    assert results.scores(json.dumps(sample, ensure_ascii=False) + "\n").values == {"m": {"h/1": 1.0}}


def test_identical_documents_and_named_filters_are_kept_apart():
    sample = {"doc_hash": "h", "doc": {"cluster": 3}, "prompt_hash": "p", "metrics": ["m", "f1"], "f1": [1, 0]}
    lines = [{**sample, "filter": name, "m": value} for name, value in (("none", 1.0), ("none", 0.0), ("strict", 1.0))]
    found = results.scores("".join(json.dumps(line) + "\n" for line in lines))
    assert found.values == {"m": {"h/1": 1.0, "h/2": 0.0}, "m,strict": {"h/1": 1.0}}
    assert found.clusters == {"h/1": "3", "h/2": "3"}
