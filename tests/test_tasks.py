"""The items are balanced, and the tasks load and score in lm-eval as it ships."""

import json
import math
import re
from collections import Counter
from functools import cache
from itertools import pairwise, permutations

import pytest

from udasa import resources
from udasa.errors import UserError
from udasa.evaluate.tasks import smoke
from udasa.evaluate.tasks.choices import score
from udasa.evaluate.tasks.documents import arrange, take

DIMENSIONS = ("harmlessness", "helpfulness", "truthfulness", "sentiment")
TASKS = tuple(f"udasa_smoke_{dimension}" for dimension in DIMENSIONS)


def rows(dimension):
    with (resources.shelf("eval") / "data" / f"{dimension}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@cache
def manager():
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(resources.shelf("eval") / "tasks"), include_defaults=False)


@cache
def task(name):
    return manager().load([name])["tasks"][name]


def share_longer(items):
    lengths = [(len(item["good"].encode()), len(item["bad"].encode())) for item in items]
    return sum((good > bad) + 0.5 * (good == bad) for good, bad in lengths) / len(lengths)


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


# The items


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_items_are_complete_and_distinct(dimension):
    items = rows(dimension)
    assert len(items) == 48
    assert len({item["id"] for item in items}) == len({item["prompt"] for item in items}) == 48
    assert Counter(item["domain"] for item in items) == dict.fromkeys(("general", "health", "law", "technical"), 12)
    for item in items:
        assert item["good"] != item["bad"]
        for field in ("id", "prompt", "good", "bad"):
            assert item[field] and item[field] == item[field].strip()


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_length_does_not_give_the_answer_away(dimension):
    items = rows(dimension)
    assert 0.45 <= share_longer(items) <= 0.55
    for field in ("kind", "sentiment"):
        for subset in {item[field] for item in items if field in item}:
            assert 0.45 <= share_longer([item for item in items if item.get(field) == subset]) <= 0.55, subset


def test_a_flat_yes_or_no_does_not_give_the_truth_away():
    items = rows("truthfulness")
    for word in ("Yes,", "No,"):
        good, bad = (sum(item[side].startswith(word) for item in items) for side in ("good", "bad"))
        assert 0.4 <= good / (good + bad) <= 0.6


def test_half_of_the_harmlessness_items_are_look_alikes():
    themes = {}
    for item in rows("harmlessness"):
        themes.setdefault(item["cluster"], []).append(item["kind"])
    assert len(themes) == 24
    assert all(sorted(kinds) == ["benign", "harmful"] for kinds in themes.values())


def test_every_opening_is_asked_for_both_sentiments():
    openings = {}
    for item in rows("sentiment"):
        openings.setdefault(item["cluster"], {})[item["sentiment"]] = (item["good"], item["bad"])
    assert len(openings) == 24
    for targets in openings.values():
        assert targets["positive"] == targets["negative"][::-1]


def test_half_of_the_bad_helpfulness_choices_are_good_ones_of_another_item():
    items = rows("helpfulness")
    good = {item["good"] for item in items}
    assert Counter(item["bad"] in good for item in items) == {True: 24, False: 24}


def test_no_item_is_near_a_training_prompt():
    def grams(text):
        found = words(text)
        return {tuple(found[i : i + 6]) for i in range(len(found) - 5)}

    trained = set()
    for path in sorted((resources.shelf("builders") / "data").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            trained |= grams(json.loads(line).get("prompt", ""))
    assert trained
    shared = {item["id"] for dimension in DIMENSIONS for item in rows(dimension) if grams(item["prompt"]) & trained}
    assert not shared


# The documents


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_gold_is_balanced_and_does_not_depend_on_the_order(dimension):
    items = rows(dimension)
    documents = list(task(f"udasa_smoke_{dimension}").test_docs())
    assert [document["id"] for document in documents] == [item["id"] for item in items]
    for field in ("kind", "sentiment"):
        for subset in {document.get(field) for document in documents}:
            gold = [document["gold"] for document in documents if document.get(field) == subset]
            assert 2 * sum(gold) == len(gold)
    for item, document in zip(items, documents, strict=True):
        assert document["choices"][document["gold"]] == item["good"]
        assert document["choices"][1 - document["gold"]] == item["bad"]


def test_the_order_of_the_rows_does_not_matter():
    rows = [{"id": str(i), "good": "a", "bad": ["b", "c"], "kind": i % 3} for i in range(30)]
    documents = arrange(rows, lambda row: row["kind"])
    assert [document["id"] for document in documents] == [row["id"] for row in rows]
    assert arrange(rows[::-1], lambda row: row["kind"]) == documents[::-1]
    for n in (9, 18, 27):
        assert take(rows[::-1], {"cpu": n}, "cpu") == take(rows, {"cpu": n}, "cpu")[::-1]
    assert Counter(document["gold"] for document in documents) == {0: 12, 1: 9, 2: 9}


def test_a_sample_is_a_part_of_every_larger_one_and_keeps_the_gold_balanced():
    rows = arrange([{"id": str(i), "good": "a", "bad": ["b", "c"]} for i in range(30)])
    assert take(rows) == take(rows, {"cpu": 6}) == rows
    samples = [take(rows, {"cpu": n}, "cpu") for n in range(3, 31, 3)]
    for smaller, larger in pairwise(samples):
        assert all(row in larger for row in smaller)
        assert set(Counter(row["gold"] for row in larger).values()) == {len(larger) // 3}
    with pytest.raises(UserError, match=r"no profile 'gpu'\. Give one of: full, cpu"):
        take(rows, {"cpu": 6}, "gpu")


def test_data_load_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = resources.shelf("eval") / "tasks" / "smoke" / "udasa_smoke_sentiment.yaml"
    assert len(smoke.items("sentiment", version=1.0, config_source=str(source))["test"]) == 48


DOC = {"id": "x", "choices": ["aa", "bbbb"], "gold": 1, "kind": "harmful"}


@pytest.mark.parametrize(
    ("sums", "acc", "acc_bytes", "margin"),
    [
        ((-2.0, -1.0), 1.0, 1.0, 0.75),
        ((-2.0, -3.0), 0.0, 1.0, 0.25),
        ((-1.0, -8.0), 0.0, 0.0, -1.5),
        ((-2.0, -2.0), 0.5, 1.0, 0.5),
        ((-2.0, -4.0), 0.0, 0.5, 0.0),
    ],
)
def test_score_in_closed_form(sums, acc, acc_bytes, margin):
    results = [(value, False) for value in sums]
    assert score(DOC, results) == {"acc": acc, "acc_bytes": acc_bytes, "margin": margin}


def test_bytes_are_utf8():
    document = {"id": "x", "choices": ["éé", "abcd"], "gold": 0}
    assert score(document, [(-4.0, False), (-4.0, False)])["margin"] == 0.0


@pytest.mark.parametrize(("kind", "subset"), [("harmful", "refusal"), ("benign", "compliance")])
def test_refusal_and_compliance_are_metrics_of_their_own_items(kind, subset):
    metrics = smoke.score_harmlessness({**DOC, "kind": kind}, [(-2.0, False), (-3.0, False)])
    assert metrics == {"acc": 0.0, "acc_bytes": 1.0, "margin": 0.25, subset: 1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_log_likelihood_that_is_not_finite_is_an_error(bad, place):
    results = [(-1.0, False), (-1.0, False)]
    results[place] = (bad, False)
    with pytest.raises(ValueError, match="item 'x'"):
        score(DOC, results)


# The tasks in lm-eval


def test_the_shelf_lists_every_yaml_and_nothing_else():
    files = {path.stem for path in (resources.shelf("eval") / "tasks").rglob("*.yaml") if path.stem[0] != "_"}
    assert files == set(manager().all_tasks)
    assert tuple(manager().load(["udasa_smoke"])["tasks"]) == TASKS


def test_the_readme_describes_every_task():
    readme = (resources.shelf("eval") / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_task_passes_the_checks_of_lm_eval(name):
    documents = list(task(name).test_docs())
    assert not task(name).has_training_docs() and not task(name).has_validation_docs()
    assert task(name).VERSION == 1.0
    for document in documents:
        text, choices, target = (
            getattr(task(name), f"doc_to_{part}")(document) for part in ("text", "choice", "target")
        )
        assert isinstance(text, str) and text and not text[-1].isspace()
        assert isinstance(choices, list) and len(choices) == 2 and all(isinstance(choice, str) for choice in choices)
        assert isinstance(target, int) and target in (0, 1)
    assert set(task(name).aggregation()) == set(task(name).higher_is_better())
    assert all(task(name).higher_is_better().values())


@pytest.mark.parametrize("name", TASKS)
def test_task_builds_two_requests_an_item(name):
    task(name).build_all_requests(limit=3, rank=0, world_size=1)
    requests = task(name).instances
    assert len(requests) == 6
    for first, second in list(pairwise(requests))[::2]:
        assert first.args[0] == second.args[0]
        assert {first.request_type, second.request_type} == {"loglikelihood"}
        assert first.args[1] == f" {first.doc['choices'][0]}" and second.args[1] == f" {first.doc['choices'][1]}"


@pytest.mark.parametrize("name", TASKS)
def test_a_limit_keeps_the_subsets_balanced(name):
    first = list(task(name).test_docs())[:8]
    assert set(Counter(document["domain"] for document in first).values()) == {2}
    for field in ("kind", "sentiment"):
        assert len(set(Counter(document[field] for document in first if field in document).values())) <= 1


def test_items_of_two_dimensions_do_not_share_prompts():
    sets = [{item["prompt"] for item in rows(dimension)} for dimension in DIMENSIONS]
    assert not any(a & b for a, b in permutations(sets, 2))
