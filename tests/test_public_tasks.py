"""The public suite on a made-up mirror: the checks of lm-eval, scripted models with exact results."""

import json
import math
from collections import Counter
from functools import partial

import pytest

from tests import mirror, planted, tiny
from tests import scripted as scripts
from udasa import resources
from udasa.backends import ModelSpec
from udasa.errors import MissingExtraError, UserError
from udasa.evaluate import evaluate, load, suite
from udasa.evaluate.results import sha256
from udasa.evaluate.tasks import bias, canary, ifeval, preferences, truth

LOGLIKELIHOOD = ("udasa_hh_margin", "udasa_bias", "udasa_hhh", "udasa_truth_binary", "udasa_truth_blind")
GENERATED = (
    "udasa_harm_refusal",
    "udasa_overrefusal",
    "udasa_sentiment",
    "udasa_truth_sampled",
    "udasa_helpful_judge",
)
TASKS = (*LOGLIKELIHOOD, "udasa_canary_arithmetic", "udasa_canary_text")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21


@pytest.fixture
def data(tmp_path, monkeypatch):
    return mirror.plant(planted.plant(tmp_path / "mirror", monkeypatch), monkeypatch)


def scripted(folder, data, loglikelihood, tasks=LOGLIKELIHOOD, reply="42", **options):
    """Evaluate a model that is a function of (document, index of the request) and write the results to `folder`."""
    said = (lambda document, _: reply(document)) if callable(reply) else (lambda *_: reply)
    return scripts.evaluate(folder, tasks, loglikelihood=loglikelihood, reply=said, data=data, **options)


def values(evaluation, metric):
    return {name: task.metrics[metric].value for name, task in evaluation.tasks.items() if metric in task.metrics}


def oracle(document, index):
    return -1.0 if index == document["gold"] else -200.0


def constant(document, index):
    return -50.0


def by_byte(sign, document, index):
    return sign * float(len((document["choices"] * 2)[index].encode()))


# lm-eval's own checks of a task


@pytest.mark.parametrize("name", (*TASKS, *GENERATED))
def test_a_task_passes_the_checks_of_lm_eval(data, name):
    """The checks of lm-eval's tests/test_tasks.py, which its CI runs on every new task."""
    task = suite._load_tasks([name], data)["tasks"][name]
    assert task.VERSION == 1.0 and task.OUTPUT_TYPE in ("multiple_choice", "generate_until", "loglikelihood_rolling")
    assert not task.has_training_docs() and not task.has_validation_docs() and task.has_test_docs()
    documents = list(task.test_docs())
    assert len({document["id"] for document in documents}) == len(documents)
    for document in documents:
        text, target = task.doc_to_text(document), task.doc_to_target(document)
        assert isinstance(text, str) and text == text.rstrip()
        assert isinstance(target, str | int)
        if task.OUTPUT_TYPE == "multiple_choice":
            choices = task.doc_to_choice(document)
            assert isinstance(choices, list) and all(isinstance(choice, str) and choice for choice in choices)
            assert 0 <= target < len(choices) == len(set(choices))
    task.build_all_requests(limit=3, rank=0, world_size=1)
    assert {request.request_type for request in task.instances} <= {"loglikelihood", task.OUTPUT_TYPE}
    for document in documents[:10]:
        made = task.construct_requests(document, task.doc_to_text(document), metadata=(name, 0, 1))
        expected = {"multiple_choice": len(document.get("choices", ())), "generate_until": 1}
        factor = 2 if name == "udasa_truth_binary" else 1
        assert len(made if isinstance(made, list) else [made]) == factor * expected.get(task.OUTPUT_TYPE, 1)
    assert set(task.aggregation()) == set(task.higher_is_better())


def test_every_task_of_the_group_is_described():
    readme = (resources.shelf("eval") / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in (*TASKS, *GENERATED, "udasa_ifeval"))


def test_the_group_has_a_group_a_dimension(data, monkeypatch):
    monkeypatch.setattr(ifeval, "_checks", lambda: None)
    from lm_eval.tasks import TaskManager

    shelf = str(resources.shelf("eval") / "tasks")
    manager = TaskManager(include_path=shelf, include_defaults=False, metadata={"data": str(data)})
    groups = manager.load(["udasa"])["group_map"]["udasa"]
    assert groups == [
        "udasa::harmlessness",
        "udasa::helpfulness",
        "udasa::truthfulness",
        "udasa::sentiment",
        "udasa_canary",
    ]


# Scripted models


def test_an_oracle_is_always_right(tmp_path, data):
    evaluation = scripted(tmp_path / "e", data, oracle)
    for metric in ("acc", "acc_bytes"):
        assert values(evaluation, metric) == dict.fromkeys(LOGLIKELIHOOD, 1.0)
    assert evaluation.tasks["udasa_bias"].metrics["bias"].value == 0.0


def test_a_constant_model_scores_chance(tmp_path, data):
    evaluation = scripted(tmp_path / "e", data, constant)
    assert values(evaluation, "acc") == pytest.approx({**dict.fromkeys(LOGLIKELIHOOD, 0.5), "udasa_bias": 1 / 3})
    truths = evaluation.tasks["udasa_truth_binary"].metrics
    expected = {"acc_mutual_info": 0.5, "p_true": 0.5, "brier": 0.25, "net": 0.0}
    assert {name: truths[name].value for name in expected} == expected
    assert evaluation.tasks["udasa_bias"].metrics["bias"].value == 0.0


def test_a_model_that_takes_the_first_choice_scores_chance(tmp_path, data):
    evaluation = scripted(tmp_path / "e", data, lambda document, index: -1.0 - 500.0 * index)
    found = values(evaluation, "acc")
    assert found.pop("udasa_bias") == pytest.approx(1 / 3)
    assert found == dict.fromkeys(found, 0.5) and values(evaluation, "acc_bytes").items() >= found.items()


def test_a_model_that_takes_the_longer_reply_scores_what_length_gives_away(tmp_path, data):
    evaluation = scripted(tmp_path / "e", data, partial(by_byte, 1.0), tasks=["udasa_hhh", "udasa_truth_binary"])
    hhh = evaluation.tasks["udasa_hhh"].metrics
    assert hhh["acc"].value == hhh["longer"].value == 0.5 and hhh["longer"].n == 12
    for subset, n in (("harmless", 4), ("helpful", 4), ("honest", 2), ("other", 2)):
        assert (hhh[f"longer_{subset}"].value, hhh[f"longer_{subset}"].n, hhh[subset].n) == (0.5, n, n)
    assert hhh["acc_bytes"].value == 0.5  # every byte is as likely as any other
    truths = evaluation.tasks["udasa_truth_binary"].metrics
    assert truths["acc"].value == 4 / 12 and truths["acc_mutual_info"].value == 0.5


@pytest.mark.parametrize("k", [1, 3])
def test_k_flipped_items_cost_k_items_and_are_the_net_over_the_control(tmp_path, data, k):
    ids = [row["id"] for row in truth.binary(str(data))["test"]][:k]

    def flipped(document, index):
        wrong = document["id"] in ids and document["prompt"].startswith("Made-up")
        return oracle(document, 1 - index if wrong else index)

    evaluation = scripted(tmp_path / "e", data, flipped, tasks=["udasa_truth_binary", "udasa_truth_blind"])
    truths = evaluation.tasks["udasa_truth_binary"].metrics
    assert truths["acc_bytes"].value == truths["acc"].value == 1 - k / 12
    assert truths["net"].value == pytest.approx(-k / 12) and truths["net"].n == 12
    assert truths["net"].low <= truths["net"].value <= truths["net"].high and truths["net"].higher_is_better
    assert evaluation.tasks["udasa_truth_blind"].metrics["acc_bytes"].value == 1.0
    assert truths["brier"].value == pytest.approx(k / 12) and not truths["brier"].higher_is_better


def test_a_model_that_follows_the_stereotype_has_a_bias_of_one(tmp_path, data):
    for sign in (1, -1):

        def leaning(document, index, sign=sign):
            return -1.0 if document["leaning"][index] == sign else -100.0

        metrics = scripted(tmp_path / "e", data, leaning, tasks=["udasa_bias"]).tasks["udasa_bias"].metrics
        assert (metrics["bias"].value, metrics["acc"].value, metrics["bias"].n) == (sign, 0.0, 36)
        assert all(metrics[f"bias_{category}"].value == sign for category in bias.CATEGORIES)


@pytest.mark.parametrize("name", [*LOGLIKELIHOOD, "udasa_canary_text"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_log_likelihood_that_is_not_finite_is_an_error(tmp_path, data, name, bad):
    with pytest.raises(ValueError, match=r"expected (a )?finite number"):
        scripted(tmp_path / "e", data, lambda document, index: bad, tasks=[name])
    assert not (tmp_path / "e" / "results.json").exists()


def test_the_profile_is_a_sample_and_another_one_is_refused(tmp_path, data):
    from udasa.evaluate.tasks.documents import take

    rows = list(truth.binary(str(data))["test"])
    small = list(truth.binary(str(data), "cpu", {"cpu": 4})["test"])
    assert small == take(rows, {"cpu": 4}, "cpu") and Counter(row["gold"] for row in small) == {0: 2, 1: 2}
    with pytest.raises(UserError, match="no profile 'laptop'"):
        scripted(tmp_path / "e", data, oracle, profile="laptop")


# The documents of each task


def test_truth_is_in_clusters_and_the_control_hides_the_question(data):
    open_, blind = (list(truth.binary(str(data), question=q)["test"]) for q in (None, "Neutral?"))
    assert Counter(row["cluster"] for row in open_) == dict.fromkeys(("Category 0", "Category 1", "Category 2"), 4)
    assert {row["prompt"] for row in blind} == {"Neutral?"}
    assert [{**row, "prompt": ""} for row in open_] == [{**row, "prompt": ""} for row in blind]
    assert all(row["choices"][row["gold"]].startswith("True") for row in open_)


def test_calibration_error_in_closed_form():
    assert truth.expected_calibration_error([(0.8, 1.0)] * 8 + [(0.8, 0.0)] * 2) == pytest.approx(0.2 * 0.8 + 0.8 * 0.2)
    perfect = [(1.0, 1.0)] * 30
    assert truth.expected_calibration_error(perfect) == 0.0
    assert truth.expected_calibration_error([(1.0, 0.0)] * 30) == 1.0
    half = [(0.5, 0.5)] * 7
    assert truth.expected_calibration_error(half) == 0.0


def test_a_probability_far_from_the_middle_does_not_overflow():
    document = {"id": "x", "choices": ["a", "b"], "gold": 0}
    far = [(-5000.0, False), (-1.0, False), (-1.0, False), (-1.0, False)]
    assert truth.score(document, far)["p_true"] == 0.0 and truth.score(document, far)["brier"] == 1.0
    assert truth.score({**document, "gold": 1}, far)["p_true"] == 1.0


def test_pairs_that_share_a_request_are_one_cluster(data):
    rows = list(preferences.hhh(str(data))["test"])
    assert set(Counter(row["cluster"] for row in rows).values()) == {2}
    dialogues = list(preferences.hh_harmless(str(data))["test"])
    assert [row["prompt"] for row in dialogues] == [f"Made-up request {i}?" for i in range(12) if i % 4 < 2]
    assert all(row["choices"][row["gold"]].startswith("Good") for row in dialogues)


def test_the_stereotype_turns_with_the_question(data):
    rows = list(bias.ambiguous(str(data))["test"])
    assert len(rows) == 36 and {row["choices"][row["gold"]] for row in rows} == {"Not known"}
    for row in rows:
        stereotype = "The boss" if "late" in row["prompt"] else "The aunt"
        assert row["leaning"][row["choices"].index(stereotype)] == 1 and sum(row["leaning"]) == 0
        assert row["prompt"].endswith("Answer with one of these.")
        assert all(f"- {choice}\n" in row["prompt"] for choice in row["choices"])


# The canary


def test_sums_are_right_and_always_the_same():
    rows = list(canary.arithmetic()["test"])
    assert len(rows) == len({row["prompt"] for row in rows}) == canary.SUMS
    for row in rows:
        asked = row["prompt"].removeprefix("What is ").partition("?")[0].replace("×", "*")
        assert eval(asked) == int(row["answer"]) >= 0
    assert rows == list(canary.arithmetic()["test"])


@pytest.mark.parametrize(
    ("reply", "exact", "parsed"),
    [("132", 1.0, 1.0), ("47 + 85 = 132.", 1.0, 1.0), ("132 is 47 + 85", 0.0, 1.0), ("-132", 0.0, 1.0),
     ("No idea.", 0.0, 0.0), ("", 0.0, 0.0)],
)  # fmt: skip
def test_the_last_whole_number_is_the_answer(reply, exact, parsed):
    assert canary.score_arithmetic({"answer": "132"}, [reply]) == {"exact_match": exact, "parsed": parsed}
    assert canary.score_arithmetic({"answer": "1320"}, ["It is 1,320"])["exact_match"] == 1.0


def test_bits_per_byte_in_closed_form(tmp_path, data):
    def uniform(document, index):
        return -8 * math.log(2) * len(document["text"].encode())

    evaluation = scripted(
        tmp_path / "e", data, uniform, tasks=["udasa_canary"], reply=lambda document: document["answer"]
    )
    assert evaluation.tasks["udasa_canary_text"].metrics["bits_per_byte"].value == pytest.approx(8.0)
    assert not evaluation.tasks["udasa_canary_text"].metrics["bits_per_byte"].higher_is_better
    assert evaluation.tasks["udasa_canary_arithmetic"].metrics["exact_match"].value == 1.0


def test_the_prose_is_about_50_kilobytes():
    lines = (resources.shelf("eval") / "data" / "canary.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert 45_000 < sum(len(text.encode()) for text in texts) < 55_000
    assert len(set(texts)) == len(texts) and all(text == text.strip() for text in texts)


# IFEval


def test_a_task_of_a_group_that_lacks_a_dependency_is_skipped_and_named_alone_is_an_error(
    tmp_path, data, monkeypatch, caplog
):
    def missing():
        raise MissingExtraError("langdetect is not installed.")

    monkeypatch.setattr(ifeval, "_checks", missing)
    evaluation = scripted(tmp_path / "e", data, lambda document, index: -float(index) - 1, tasks=["udasa"])
    assert evaluation.skipped == {"udasa_ifeval": "langdetect is not installed."} == load(tmp_path / "e").skipped
    assert set(TASKS) <= set(evaluation.tasks) and "udasa_ifeval" not in evaluation.tasks
    assert "udasa_ifeval is skipped: langdetect is not installed." in caplog.text
    with pytest.raises(MissingExtraError, match="langdetect"):
        suite._load_tasks(["udasa_ifeval"], data)


def test_what_the_checks_need_is_named(monkeypatch):
    ifeval._checks.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "langdetect", None)
    monkeypatch.setitem(__import__("sys").modules, "immutabledict", __import__("json"))
    with pytest.raises(MissingExtraError, match=r"langdetect is not installed.*pip install 'udasa\[ifeval\]'"):
        ifeval.prompts()


@pytest.fixture
def checks(monkeypatch):
    """lm-eval's checks, without nltk's data set, which none of the made-up prompts needs."""
    pytest.importorskip("langdetect", reason="the extra ifeval is not installed")
    import nltk

    ifeval._checks.cache_clear()
    monkeypatch.setattr(nltk.data, "find", lambda name: name)
    yield
    ifeval._checks.cache_clear()


def test_instructions_are_checked_by_lm_eval(tmp_path, data, checks):
    replies = {"ifeval-1": "Fine.", "ifeval-2": "Two words", "ifeval-3": "not in capitals"}
    evaluation = scripted(
        tmp_path / "e", data, oracle, tasks=["udasa_ifeval"], reply=lambda document: replies[document["id"]]
    )
    metrics = evaluation.tasks["udasa_ifeval"].metrics
    assert (metrics["prompt_level_strict_acc"].value, metrics["prompt_level_strict_acc"].n) == (pytest.approx(1 / 3), 3)
    document = next(row for row in ifeval.prompts(str(data))["test"] if row["id"] == "ifeval-2")
    assert ifeval.score(document, ["Two words"])["inst_level_strict_acc"] == [True, False]
    assert (metrics["empty"].value, metrics["garbled"].value, "cut" in metrics) == (0.0, 0.0, False)
    assert ifeval.score(document, [""])["empty"] == 1.0
    assert ifeval.by_instruction([[True, False], [True], [False]]) == 0.5
    assert ifeval.score(document, [""])["prompt_level_loose_acc"] == 0.0


def test_nltk_data_that_is_missing_is_named(monkeypatch):
    pytest.importorskip("langdetect", reason="the extra ifeval is not installed")
    import nltk

    def nothing(name):
        raise LookupError(name)

    ifeval._checks.cache_clear()
    monkeypatch.setattr(nltk.data, "find", nothing)
    with pytest.raises(MissingExtraError, match="downloader punkt_tab"):
        ifeval.prompts()


# The tiny model, end to end


def test_the_tiny_model_runs_what_a_group_holds(tmp_path, data, capfd):
    model = ModelSpec(model=str(tiny.policy()))
    capfd.readouterr()
    tasks = ["udasa_canary", "udasa_truth_binary"]
    evaluation = evaluate(model, tmp_path / "e", tasks=tasks, data=data, profile="cpu", limit=2)
    shown, warned = capfd.readouterr()
    assert shown == "" and "%" not in warned  # a paragraph is longer than the tiny model's context, and is warned of
    assert tuple(evaluation.tasks) == ("udasa_canary_arithmetic", "udasa_canary_text", "udasa_truth_binary")
    assert evaluation.setup.profile == "cpu" and evaluation == load(tmp_path / "e")
    file = data / "truthfulqa" / "TruthfulQA_v2025_790.csv"
    assert evaluation.sources == {"truthfulqa/TruthfulQA_v2025_790.csv": sha256(file.read_bytes())}
    assert evaluation.tasks["udasa_canary_text"].metrics["bits_per_byte"].value > 1.0


def test_log_likelihoods_that_are_all_the_same_are_refused():
    def samples(*values):
        return {"t": [{"resps": [[(value, False)] for value in values]}, {"resps": [["a text"]]}, {"resps": [[-3.0]]}]}

    with pytest.raises(UserError, match=r"All 2 log-likelihoods are -7\.0: the model gives every text the same"):
        suite._refuse_constant(samples(-7.0, -7.0))
    for fine in (samples(-7.0, -7.1), samples(-7.0), {"t": []}):
        suite._refuse_constant(fine)
