"""Comparisons of sample logs: the map's figures from human labels, joins, refusals, stages, seeds, hostile texts."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.lm_eval_logs import log_run, sample
from udasa import resources
from udasa.errors import UserError
from udasa.evaluate import compare, logs, to_json
from udasa.evaluate.sides import open_sides

XSTEST = Path(__file__).resolve().parents[2] / "shared" / "data" / "xstest"


def docs(n, clusters=None):
    return [{"prompt": f"Question {i}?", "type": str(i % clusters) if clusters else f"own {i}"} for i in range(n)]


def answered(values, metric="acc", clusters=None, task="t"):
    """Return one task whose documents have these values."""
    pairs = zip(docs(len(values), clusters), values, strict=True)
    return {task: [sample(doc, {metric: value}, answer=f"answer worth {value}") for doc, value in pairs]}


def only(*sides, **options):
    (found,) = compare(*sides, **options).differences
    return found


# The figures of the map: two configurations of Llama 2 on XSTest's safe prompts, labelled by people


def labelled(name):
    """Return the human labels of one configuration as samples: 1 is a refusal, in whole or in part."""
    safe = {row["prompt"] for row in read_csv("xstest_prompts.csv") if row["label"] == "safe"}
    return [
        sample(
            {"prompt": row["prompt"], "type": row["type"]},
            {"refusal": float(row["final_label"] != "1_full_compliance")},
            answer=row["completion"],
        )
        for row in read_csv(f"xstest_v2_completions_{name}.csv")
        if row["prompt"] in safe
    ]


def read_csv(name):
    with (XSTEST / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not XSTEST.is_dir(), reason=f"the labels of XSTest are not at {XSTEST}")
def test_compare_reproduces_the_figures_of_the_human_labels(tmp_path):
    for name in ("llama2orig", "llama2new"):
        log_run(tmp_path / name, name, {"xstest_safe": labelled(name)}, lower_is_better=["refusal"])
    found = only(tmp_path / "llama2orig", tmp_path / "llama2new", cluster="type")
    assert (found.n, found.clusters) == (250, 10)
    assert [round(v, 3) for v in (found.before, found.after, found.delta)] == [0.596, 0.296, -0.3]
    assert [round(v, 4) for v in (found.unpaired_error, found.paired_error, found.error)] == [0.0425, 0.0317, 0.0485]
    assert (found.changes.fixed, found.changes.broken) == (80, 5)
    assert found.changes.kept_right == 96 and found.changes.kept_wrong == 69
    assert found.low < found.delta < found.high < 0
    assert found.high - found.low == pytest.approx(2 * 2.262157 * 0.048534, abs=1e-4)  # t with 9 degrees of freedom
    alone = only(tmp_path / "llama2orig", tmp_path / "llama2new")
    assert alone.clusters == 250 and alone.p == pytest.approx(found.changes.p) and alone.p < 1e-17 < found.p < 0.05


# Reading


def test_runs_of_stock_lm_eval_are_found_where_it_puts_them(tmp_path):
    file = log_run(tmp_path / "out", "org/base", answered([1.0, 0.0, 1.0]))
    run = logs.read(tmp_path / "out")
    assert file.parent.name == "org__base" and run == logs.read(file) == logs.read(file.parent)
    assert run.model == "org/base" and list(run.tasks) == ["t"]
    assert run.facts["batch size"] == "8" and run.facts["dtype"] == "float32" and len(run.facts["chat template"]) == 64
    assert run.tasks["t"].facts == {"version": "1.0", "number of shots": "0"}


def test_several_results_files_of_one_model_are_one_run_if_their_tasks_differ(tmp_path):
    log_run(tmp_path, "m", answered([1.0, 0.0], task="one"))
    log_run(tmp_path, "m", answered([1.0, 0.0], task="two"))
    assert set(logs.read(tmp_path).tasks) == {"one", "two"}
    log_run(tmp_path, "m", answered([1.0, 1.0], task="two"))
    with pytest.raises(UserError, match="more than one evaluation of two"):
        logs.read(tmp_path)


def test_a_folder_of_several_models_is_ambiguous(tmp_path):
    for name in ("a", "b"):
        log_run(tmp_path, name, answered([1.0, 0.0]))
    with pytest.raises(UserError, match="holds evaluations of several models"):
        logs.read(tmp_path)


def test_samples_that_were_not_logged_are_missed(tmp_path):
    file = log_run(tmp_path, "m", answered([1.0, 0.0]))
    (samples,) = tmp_path.rglob("samples_*.jsonl")
    kept = samples.read_text()
    samples.write_text(kept.splitlines(keepends=True)[0])
    with pytest.raises(UserError, match=r"holds 1 documents, and results_.* says 2"):
        logs.read(tmp_path)
    samples.unlink()
    with pytest.raises(UserError, match=r"has results of t but no samples\. Run lm_eval with --log_samples"):
        logs.read(tmp_path)
    file.write_text('{"results": {}}')
    with pytest.raises(UserError, match="is not a results file of lm-eval"):
        logs.read(tmp_path)


def test_a_nan_is_named_and_not_averaged_away(tmp_path):
    log_run(tmp_path / "a", "a", answered([1.0, 0.0, 1.0]))
    log_run(tmp_path / "b", "b", answered([1.0, math.nan, math.nan]))
    with pytest.raises(UserError, match=r"2 of 3 values of acc in t are NaN or infinite in .*b"):
        compare(tmp_path / "a", tmp_path / "b")


def test_only_metrics_that_are_a_mean_are_compared(tmp_path):
    both = [sample(doc, {"acc": 1.0, "ppl": 2.0, "pair": [1, 0]}) for doc in docs(3)]
    for name in ("a", "b"):
        file = log_run(tmp_path / name, name, {"t": both})
        found = json.loads(file.read_text())
        found["results"]["t"]["ppl,none"] = 7.4  # exp of a mean, not a mean
        file.write_text(json.dumps(found))
    assert only(tmp_path / "a", tmp_path / "b").metric == "acc"


def test_what_stock_lm_eval_leaves_is_read_and_compares_with_ours(tmp_path):
    """The same tiny model, run by lm-eval itself and by `udasa eval`: the same documents, prompts, setup and values."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from udasa.backends import ModelSpec
    from udasa.evaluate import evaluate

    model, task = str(tiny.policy()), "udasa_smoke_truthfulness"
    tracker = EvaluationTracker(output_path=str(tmp_path / "stock"))
    found = simple_evaluate(
        model="hf", model_args={"pretrained": model, "dtype": "float32"}, tasks=[task], batch_size=8,
        device="cpu", limit=6, log_samples=True, apply_chat_template=True, fewshot_as_multiturn=True, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(resources.shelf("eval") / "tasks"), include_defaults=False),
        evaluation_tracker=tracker,
    )  # fmt: skip
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    tracker.save_results_samples(task_name=task, samples=samples[task])
    evaluate(ModelSpec(model=model), tmp_path / "ours", tasks=[task], limit=6)
    both = compare(tmp_path / "ours", tmp_path / "stock")
    assert {d.metric for d in both.differences} == {"acc", "acc_bytes", "margin"}
    assert all(d.n == 6 and d.delta == pytest.approx(0, abs=1e-6) for d in both.differences)
    stock = logs.read(tmp_path / "stock").facts
    assert {k: v for k, v in logs.read(tmp_path / "ours").facts.items() if k in stock} == {
        k: stock[k] for k in ("chat template", "batch size", "dtype", "device")
    }


# Joining


def test_documents_are_joined_by_hash_and_identical_ones_are_numbered(tmp_path):
    rng = np.random.default_rng(0)
    same = {"prompt": "Again?"}
    before = [sample(d, {"acc": 1.0}) for d in docs(40)] + [sample(same, {"acc": 1.0}) for _ in range(3)]
    after = [sample(d, {"acc": float(i % 4 != 0)}) for i, d in enumerate(docs(40))]
    after += [sample(same, {"acc": value}) for value in (1.0, 0.0, 1.0)]
    log_counts(tmp_path / "a", before)
    log_counts(tmp_path / "b", after)
    log_counts(tmp_path / "c", [after[i] for i in rng.permutation(len(after))])
    b, c = (only(tmp_path / "a", tmp_path / name) for name in "bc")
    assert (b.n, b.delta, b.changes.broken) == (43, pytest.approx(-11 / 43), 11)
    assert (c.n, c.delta, c.low, c.high, c.p) == (b.n, b.delta, b.low, b.high, b.p)


def log_counts(folder, samples):
    """Log samples among which a document comes more than once."""
    file = log_run(folder, folder.name, {"t": samples})
    found = json.loads(file.read_text())
    found["n-samples"]["t"]["effective"] = len(samples)
    file.write_text(json.dumps(found))


def test_runs_without_a_shared_document_are_refused_even_anyway(tmp_path):
    log_run(tmp_path / "a", "a", answered([1.0, 0.0]))
    other = {"t": [sample({"prompt": f"Other {i}"}, {"acc": 1.0}) for i in range(2)]}
    log_run(tmp_path / "b", "b", other)
    with pytest.raises(UserError, match="data of t: 2 documents"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="share no document of t"):
        compare(tmp_path / "a", tmp_path / "b", anyway=True)


# Refusing


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"chat_template": None}, r"chat template: [0-9a-f]{12} \(a\) and none \(b\)"),
        ({"batch_size": 16}, r"batch size: 8 \(a\) and 16 \(b\)"),
        ({"batch_size": "auto"}, r"batch size: 8 \(a\) and auto \(\) \(b\)"),
        ({"dtype": "torch.bfloat16"}, r"dtype: float32 \(a\) and bfloat16 \(b\)"),
        ({"version": 2.0}, r"version of t: 1\.0 \(a\) and 2\.0 \(b\)"),
    ],
)
def test_every_difference_of_the_setup_is_named_with_both_values(tmp_path, changed, named):
    log_run(tmp_path / "a", "a", answered([1.0, 0.0, 1.0]))
    log_run(tmp_path / "b", "b", answered([1.0, 1.0, 1.0]), **changed)
    with pytest.raises(UserError, match=named):
        compare(tmp_path / "a", tmp_path / "b")
    found = compare(tmp_path / "a", tmp_path / "b", anyway=True)
    assert len(found.caveats) == 1 and re.search(named, found.caveats[0])
    assert json.loads(to_json(found))["caveats"] == list(found.caveats)


def test_all_differences_are_named_at_once(tmp_path):
    log_run(tmp_path / "a", "a", answered([1.0, 0.0, 1.0]) | answered([1.0], task="more"))
    longer = answered([1.0, 1.0, 1.0, 0.0])
    for one in longer["t"][:2]:
        one["prompt_hash"] = "x"
    log_run(tmp_path / "b", "b", longer, batch_size=1, dtype="torch.float16")
    with pytest.raises(UserError) as refused:
        compare(tmp_path / "a", tmp_path / "b")
    for line in ("set of tasks: more, t (a) and t (b)", "batch size: 8 (a) and 1 (b)", "dtype: float32", "--anyway"):
        assert line in str(refused.value)
    assert re.search(r"data of t: 3 documents, sha256 \w{12} \(a\) and 4 documents, sha256 \w{12}", str(refused.value))
    assert "prompts of t: those of a and 2 of 3 asked in other words (b)" in str(refused.value)
    assert only(tmp_path / "a", tmp_path / "b", anyway=True).n == 3


def test_what_was_not_recorded_is_said_and_not_taken_for_equal(tmp_path):
    log_run(tmp_path / "a", "a", answered([1.0, 0.0]))
    log_run(tmp_path / "b", "b", answered([1.0, 1.0]), dtype="")
    assert "The dtype of b was not recorded, so it was not compared." in compare(tmp_path / "a", tmp_path / "b").notes


def test_tasks_can_be_chosen(tmp_path):
    log_run(tmp_path / "a", "a", answered([1.0, 0.0]) | answered([1.0], task="more"))
    log_run(tmp_path / "b", "b", answered([1.0, 1.0]))
    assert only(tmp_path / "a", tmp_path / "b", tasks=["t"]).task == "t"
    with pytest.raises(UserError, match=r"more is not in every evaluation\. These are: t"):
        compare(tmp_path / "a", tmp_path / "b", tasks=["more"])
    with pytest.raises(UserError, match="There is nothing to compare with"):
        compare(tmp_path / "a")


# Values that are missing, margins, equivalence


def test_missing_answers_are_counted_and_bounded(tmp_path):
    """10 documents; before, the judge could not read two of them, and after one other."""
    rows = [(1.0, 1.0)] * 5 + [(0.0, 1.0), (1.0, 0.0), (None, 1.0), (None, 0.0), (1.0, None)]
    for name, side in (("a", 0), ("b", 1)):
        kept = [
            sample(doc, {"seen": 1.0} if row[side] is None else {"seen": 1.0, "win": row[side]})
            for doc, row in zip(docs(10), rows, strict=True)
        ]
        log_run(tmp_path / name, name, {"t": kept})
    found = {d.metric: d for d in compare(tmp_path / "a", tmp_path / "b").differences}
    win = found["win"]
    assert (win.n, win.missing, win.delta) == (7, (2, 1), 0.0)
    assert win.bounds == pytest.approx(((0 - 1 - 1 + 0) / 10, (0 + 0 + 1 + 0) / 10))
    assert found["seen"].missing == (0, 0) and found["seen"].bounds is None
    assert any(
        "win of t (a -> b) is missing for 2 before and 1 after" in n
        for n in compare(tmp_path / "a", tmp_path / "b").notes
    )


def test_a_margin_is_told_by_quarters_of_where_it_began(tmp_path):
    initial = np.linspace(-1, 1, 20)
    log_run(tmp_path / "a", "a", answered(initial.tolist(), "margin"))
    log_run(tmp_path / "b", "b", answered((initial + np.repeat([0.4, 0.2, 0.0, -0.2], 5)).tolist(), "margin"))
    found = only(tmp_path / "a", tmp_path / "b")
    assert found.delta == pytest.approx(0.1) and found.changes is None
    assert [round(q.delta, 6) for q in found.quartiles] == [0.4, 0.2, 0.0, -0.2]
    assert [q.n for q in found.quartiles] == [5] * 4 and found.quartiles[0].initial_low == -1


def test_a_canary_is_the_same_within_its_margin_or_not_shown_to_be(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    log_run(tmp_path / "a", "a", answered(values.tolist(), "bits"))
    log_run(tmp_path / "b", "b", answered((values + rng.normal(0, 0.1, 400)).tolist(), "bits"))
    same, wider, none = (
        only(tmp_path / "a", tmp_path / "b", margins=m).equivalence for m in ({"t": 0.02}, {"t,bits": 0.001}, None)
    )
    assert same.equivalent and same.margin == 0.02 and not wider.equivalent and none is None
    with pytest.raises(UserError, match=r"margin is of q, which was not evaluated. Give one of: t, t,bits"):
        compare(tmp_path / "a", tmp_path / "b", margins={"q": 0.1})
    with pytest.raises(UserError, match="must be above 0, got 0"):
        compare(tmp_path / "a", tmp_path / "b", margins={"t": 0.0})


# Stages and seeds


def test_stages_are_compared_with_the_base_and_the_one_before_and_forgetting_is_told(tmp_path):
    shares = {"base": 4, "one": 9, "two": 6}
    for name, right in shares.items():
        log_run(tmp_path / name, name, answered([float(i < right) for i in range(10)]))
    found = compare(*(tmp_path / name for name in shares))
    assert [(d.before_run, d.after_run, round(d.delta, 9)) for d in found.differences] == [
        ("base", "one", 0.5), ("base", "two", 0.2), ("one", "two", -0.3)
    ]  # fmt: skip
    (lost,) = found.forgetting
    assert (lost.best_run, lost.best, lost.now) == ("one", 0.9, 0.6) and lost.forgotten == pytest.approx(0.3)
    assert lost.low < 0.3 < lost.high
    p = sorted(d.p for d in found.differences)
    assert min(d.p_holm for d in found.differences) == pytest.approx(min(1.0, 3 * p[0]))
    assert compare(tmp_path / "base", tmp_path / "one").forgetting == ()


def test_what_did_not_change_at_all_does_not_cost_the_others(tmp_path):
    """A metric that is no property of the model (is the good reply the longer one?) is never different."""
    for name, right in (("a", 2), ("b", 10)):
        rows = [
            sample(d, {"acc": float(i < right)} | {f"fixed_{j}": 1.0 for j in range(9)}) for i, d in enumerate(docs(20))
        ]
        log_run(tmp_path / name, name, {"t": rows})
    found = {d.metric: d for d in compare(tmp_path / "a", tmp_path / "b").differences}
    assert found["acc"].p == found["acc"].p_holm == found["acc"].p_bh == pytest.approx(2 / 2**8)
    assert found["fixed_3"].p_holm == 1.0


def test_our_canaries_have_margins_of_their_own(tmp_path):
    for name in "ab":
        log_run(tmp_path / name, name, answered([1.0] * 200, "exact_match", task="udasa_canary_arithmetic"))
    assert only(tmp_path / "a", tmp_path / "b").equivalence.equivalent
    own = only(tmp_path / "a", tmp_path / "b", margins={"udasa_canary_arithmetic,exact_match": 0.001}).equivalence
    assert own.margin == 0.001 and not own.equivalent


def test_forgetting_of_what_should_be_low_is_its_rise(tmp_path):
    for name, wrong in (("base", 3), ("one", 1), ("two", 6)):
        log_run(tmp_path / name, name, answered([float(i < wrong) for i in range(10)]), lower_is_better=["acc"])
    found = compare(*(tmp_path / name for name in ("base", "one", "two")))
    (lost,) = found.forgetting
    assert (lost.best_run, lost.best, lost.now) == ("one", 0.1, 0.6) and lost.forgotten == pytest.approx(0.5)
    assert lost.low < 0.5 < lost.high
    first = found.differences[0]
    assert first.delta == pytest.approx(-0.2) and (first.changes.fixed, first.changes.kept_right) == (2, 7)


def test_seeds_are_a_random_effect_that_widens_the_interval(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.normal(size=100)
    log_run(tmp_path / "base", "base", answered(base.tolist(), "score"))
    for seed, shift in enumerate((0.0, 0.2, 0.7)):
        log_run(tmp_path / f"s{seed}", f"s{seed}", answered((base + shift).tolist(), "score"))
    joined = ",".join(str(tmp_path / f"s{seed}") for seed in range(3))
    found, alone = only(tmp_path / "base", joined), only(tmp_path / "base", tmp_path / "s1")
    assert found.seeds == (1, 3) and found.after_run == "s0, s1, s2" and found.delta == pytest.approx(0.3)
    assert found.error == pytest.approx(np.std([0.0, 0.2, 0.7], ddof=1) / 3**0.5) and found.df == pytest.approx(2)
    assert found.low < 0 < found.high and alone.low == pytest.approx(0.2) and found.changes is None
    notes = compare(tmp_path / "base", tmp_path / "s1").notes
    assert any("not for training again with another seed" in note for note in notes)


def test_sides_are_named_by_what_tells_them_apart(tmp_path):
    for name in ("x/eval", "y/eval"):
        log_run(tmp_path / name, "m", answered([1.0, 0.0]))
    assert [side.name for side in open_sides([tmp_path / "x" / "eval", tmp_path / "y" / "eval"])] == [
        "x/eval",
        "y/eval",
    ]
    shutil.copytree(tmp_path / "x", tmp_path / "with,comma")
    assert open_sides([tmp_path / "with,comma", tmp_path / "y"])[0].name == "with,comma"


# Items


def test_the_documents_that_changed_are_told_with_both_answers(tmp_path):
    log_run(tmp_path / "a", "a", answered([1.0, 0.0, 1.0, 0.5]))
    log_run(tmp_path / "b", "b", answered([0.0, 1.0, 1.0, 0.5]))
    found = compare(tmp_path / "a", tmp_path / "b").items
    assert [(i.title, i.changes, i.before, i.after) for i in found] == [
        ("Question 0?", {"acc": "broken"}, "answer worth 1.0", "answer worth 0.0"),
        ("Question 1?", {"acc": "fixed"}, "answer worth 0.0", "answer worth 1.0"),
    ]
