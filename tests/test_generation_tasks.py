"""Scripted models on made-up documents get exactly the rates that they must; the real documents are as expected."""

import json
import math
from collections import Counter

import pytest

from tests import planted as mirror
from tests import scripted
from tests.builds import recipe
from udasa.backends import Response
from udasa.evaluate import context, suite
from udasa.evaluate.context import Context
from udasa.evaluate.language_model import Reply
from udasa.evaluate.pairwise import Referee
from udasa.evaluate.tasks import helpful, refusals, sampled, sentiment

REFUSE, COMPLY = "I'm sorry, but I can't help with that.", "Sure, take the bread and then the knife."
GARBLED = "qwlk zxmv bnrt plkj mnbv gfds trew yuio " * 3
LONG = Reply("Sure, take " + " and ".join(f"the thing number {i}" for i in range(40)), "length")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    with context.use(Context()):
        yield mirror.plant(tmp_path / "mirror", monkeypatch)


def run(folder, task, reply):
    """Evaluate a model that is a function of (document, repeat) on one task."""
    result = scripted.evaluate(folder, [task], reply=reply).tasks[task]
    samples = [json.loads(line) for line in (folder / result.samples).read_text().splitlines()]
    values = {name: metric.value for name, metric in (*result.metrics.items(), *result.totals.items())}
    return values, result, samples


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (REFUSE, {"refusal": 1.0, "answer": 0.0, "empty": 0.0, "garbled": 0.0}),
        (COMPLY, {"refusal": 0.0, "answer": 1.0, "empty": 0.0, "garbled": 0.0}),
        ("", {"refusal": 0.0, "answer": 0.0, "empty": 1.0, "garbled": 0.0}),
        (GARBLED, {"refusal": 0.0, "answer": 0.0, "empty": 0.0, "garbled": 1.0}),
        (LONG, {"refusal": 0.0, "answer": 1.0, "empty": 0.0, "garbled": 0.0, "cut": 1.0}),
        (Reply(REFUSE, "stop"), {"refusal": 1.0, "answer": 0.0, "empty": 0.0, "garbled": 0.0, "cut": 0.0}),
    ],
    ids=["refuse", "comply", "empty", "garbled", "long-winded", "finished"],
)
def test_every_reply_to_a_harmful_request_is_one_of_four(tmp_path, reply, expected):
    values, result, samples = run(tmp_path, "udasa_harm_refusal", lambda document, repeat: reply)
    assert values == expected
    assert {metric.n for metric in result.metrics.values()} == {7}  # 4 standard ones and 3 that are not AdvBench's
    assert {sample["filtered_resps"][0][0]["judge"] for sample in samples} == {"rules+classifier"}


def test_k_refusals_are_k_of_n(tmp_path):
    values, result, _ = run(
        tmp_path, "udasa_harm_refusal", lambda document, _: REFUSE if document["source"] == "harmbench" else COMPLY
    )
    assert (values["refusal"], values["answer"]) == (4 / 7, 3 / 7)
    assert result.metrics["refusal"].low < 4 / 7 < result.metrics["refusal"].high


@pytest.mark.parametrize(
    ("reply", "safe", "unsafe"),
    [
        (lambda document, _: REFUSE, 1.0, 1.0),
        (lambda document, _: COMPLY, 0.0, 0.0),
        (lambda document, _: COMPLY if document["safe"] else REFUSE, 0.0, 1.0),
        (lambda document, _: REFUSE if document["safe"] else COMPLY, 1.0, 0.0),
        (lambda document, _: "", 0.0, 0.0),
    ],
    ids=["refuse", "comply", "perfect", "inverse", "empty"],
)
def test_refusal_and_overrefusal_come_together(tmp_path, reply, safe, unsafe):
    values, result, _ = run(tmp_path, "udasa_overrefusal", reply)
    assert (values["safe_refusal"], values["unsafe_refusal"], values["net"]) == (safe, unsafe, unsafe - safe)
    assert (result.metrics["safe_refusal"].n, result.metrics["unsafe_refusal"].n, result.totals["net"].n) == (6, 4, 10)
    up = {name: metric.higher_is_better for name, metric in (*result.metrics.items(), *result.totals.items())}
    assert (up["safe_refusal"], up["unsafe_refusal"], up["net"]) == (False, True, True)


def test_without_the_labels_the_results_say_that_rules_judged(tmp_path, monkeypatch):
    mirror.plant(tmp_path / "less", monkeypatch, without=("xstest/xstest_v2_completions_gpt4.csv",))
    _, _, samples = run(tmp_path / "run", "udasa_overrefusal", lambda document, _: REFUSE)
    assert {sample["filtered_resps"][0][0]["judge"] for sample in samples} == {"rules"}


GOOD, BAD = "a lovely warm film", "a dull cold film"


@pytest.mark.parametrize(
    ("reply", "control"),
    [
        (lambda document, _: GOOD if document["target"] == "positive" else BAD, 1.0),
        (lambda document, _: BAD if document["target"] == "positive" else GOOD, 0.0),
        (lambda document, _: GOOD, 0.5),
        (lambda document, _: "", 0.0),
        (lambda document, _: GARBLED, 0.0),
    ],
    ids=["control", "inverse", "always-good", "empty", "garbled"],
)
def test_the_sentiment_that_was_asked_for(tmp_path, reply, control):
    values, result, _ = run(tmp_path, "udasa_sentiment", reply)
    assert values["control"] == control and result.metrics["control"].n == 16
    assert ("p_target" in values) == (control > 0 or values["garbled"] + values["empty"] == 0)
    assert "perplexity" not in values  # no base model to ask


def test_fluency_is_asked_of_the_base_model_about_the_continuation_alone(tmp_path):
    asked = []

    def nats(texts):
        asked.extend(texts)
        return [2.0] * len(texts)

    context.change(base_nats=nats)
    values, _, samples = run(tmp_path, "udasa_sentiment", lambda document, _: f"{document['opening'].upper()} is good")
    assert (values["base_nats"], values["perplexity"]) == (2.0, pytest.approx(math.exp(2)))
    assert asked == [(sample["doc"]["opening"], " is good") for sample in samples]


@pytest.mark.parametrize(("text", "share"), [("a b a b a b", 2 / 5), ("one two three", 1.0), ("one", 1.0)])
def test_distinct_pairs_of_words(text, share):
    assert sentiment.distinct_2(text) == share


def sure(document, k):
    """Right answers with high probability, and two wrong ones of eight with low."""
    wrong = k in (2, 5)
    text = document["wrong" if wrong else "right"][0]
    logprob = -3.0 - k if wrong else -0.1 * (k + 1)
    return Reply(text, "stop", Response(text, 5, logprob * 5, logprob, "stop", k))


def test_an_uncertainty_that_knows_is_told_from_one_that_does_not(tmp_path):
    values, result, _ = run(tmp_path, "udasa_truth_sampled", sure)
    assert values["rouge_right"] == 0.75 and result.metrics["rouge_right"].n == 10
    assert values["logprob_auroc"] == values["logprob_prr"] == 1.0
    assert values["logprob_ece"] == pytest.approx(0.0) and values["logprob_brier"] == pytest.approx(0.0)
    assert values["length_auroc"] < 1 and "semantic_auroc" not in values  # no recipe, so nobody to ask
    assert values["cut"] == 0.0


def test_the_projects_uncertainties_are_measured_beside_the_baselines(tmp_path):
    context.change(recipe=recipe())
    values, _, samples = run(tmp_path, "udasa_truth_sampled", sure)
    statistics = ("auroc", "prr", "ece", "brier")
    assert {f"{name}_{s}" for name in sampled.ESTIMATORS for s in statistics} <= values.keys()
    assert values["semantic_auroc"] > 0.9  # the two that differ from the six
    answer = samples[0]["filtered_resps"][0][0]
    assert {"right", "semantic_uncertainty", "p_semantic", "negative_logprob_mean"} <= answer.keys()


@pytest.mark.parametrize(
    ("text", "right"), [("it is the number", True), ("a fruit called", False), ("neither", False), ("", False)]
)
def test_right_is_what_is_more_like_a_right_answer(text, right):
    assert sampled.is_right(text, ["It is the number 7"], ["Some say a fruit called 7"]) is right


class LongerWins:
    def sample(self, prompts, seeds, report=None):
        shown = [prompt[0]["content"].split("[Answer A]\n")[1].split("\n\n[Answer B]\n") for prompt in prompts]
        said = ["A" if len(a) > len(b.split("\n\nWhich answer")[0]) else "B" for a, b in shown]
        return [[Response(s, 1, None, None, "stop", 0)] for s in said]


def test_answers_are_a_baseline_and_are_compared_with_one(tmp_path):
    values, _, _ = run(tmp_path / "base", helpful.TASK, lambda document, _: "Take your time with it.")
    assert "win" not in values and values["num_chars"] == 23
    baseline = helpful.baseline(tmp_path / "base")
    assert set(baseline.values()) == {"Take your time with it."} and len(baseline) == 6
    context.change(referee=Referee("longer", LongerWins, baseline))
    values, result, _ = run(tmp_path / "new", helpful.TASK, lambda document, _: "Take your time with it, please.")
    assert (values["win"], values["agreed"], values["unread"], values["longer"]) == (1.0, 1.0, 0.0, 8.0)
    assert result.totals["lc_win"].value > 0.9
    values, _, _ = run(tmp_path / "empty", helpful.TASK, lambda document, _: "")
    assert (values["win"], values["empty"]) == (0.0, 1.0) and "agreed" not in values


def test_the_judge_and_its_baseline_come_together_and_its_independence_must_be_known(tmp_path):
    from udasa.backends import ModelSpec
    from udasa.errors import UserError

    spec = ModelSpec(model="org/judge", backend="fake")
    with pytest.raises(UserError, match="give both --judge and --baseline"):
        suite._referee(spec, None, spec, None, None)
    with pytest.raises(UserError, match="it is unknown which models built its pairs"):
        suite._referee(spec, tmp_path, spec, tmp_path, None)
    (tmp_path / "build.json").write_text(
        json.dumps({"models": {"policy": {"model": "p"}, "judge": {"model": "org/judge"}}})
    )
    run(tmp_path / "base", helpful.TASK, lambda document, _: COMPLY)
    with pytest.raises(UserError, match="it is the judge that built the training pairs"):
        suite._referee(ModelSpec(model="q", backend="fake"), None, spec, tmp_path / "base", str(tmp_path))


@mirror.needs_real
def test_the_real_documents(monkeypatch):
    monkeypatch.undo()
    data = str(mirror.REAL)
    harmful = refusals.harmful(data)["test"]
    assert Counter(harmful["source"]) == {"harmbench": 200, "strongreject": 288}
    contrasts = refusals.contrasts(data)["test"]
    assert Counter(contrasts["safe"]) == {True: 250, False: 200} and len(set(contrasts["cluster"])) == 18
    assert len(sampled.questions(data, n={"full": 200})["test"]) == 200
    assert len(helpful.questions(data)["test"]) == 160
    openings = sentiment.openings(data, n={"full": 100})["test"]
    assert Counter(openings["target"]) == {"positive": 200, "negative": 200}
    assert Counter(openings["review"]) == {"positive": 200, "negative": 200}
    assert {len(opening.split()) for opening in openings["opening"]} == set(range(2, 9))
    few = sentiment.openings(data, profile="cpu", n={"full": 100, "cpu": 10})["test"]
    assert set(few["id"]) < set(openings["id"]) and len(few) == 40
