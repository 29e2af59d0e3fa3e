"""Recipes: the shelf, the digest, and what is said about a wrong one."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from tests.tables import CONSTITUTION, FAKE, recipe
from udasa import recipe as recipes
from udasa import resources
from udasa.backends import ModelSpec, Principle, Sampling
from udasa.errors import UserError
from udasa.recipe import Calibration, Entailment, Judging, Pairing, Recipe, Source, Staging, Training, Weights

SHELF = resources.names("builders", ".py")
BASE = recipe(Path("x.jsonl"))


def altered(**changes: Any) -> str:
    return json.dumps({**recipes.as_dict(BASE), **changes})


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        recipes.from_json(text)
    return str(caught.value)


# --- the shelf


def test_the_demo_is_on_the_shelf() -> None:
    assert "demo" in SHELF


@pytest.mark.parametrize("name", SHELF)
def test_every_recipe_loads_and_round_trips(name: str) -> None:
    found = recipes.load(name)
    assert recipes.from_json(recipes.to_json(found)) == found
    assert recipes.load(resources.shelf("builders") / f"{name}.py") == found
    assert recipes.differences(found, recipes.load(name)) == []
    assert recipes.digest(recipes.load(name)) == recipes.digest(found)


def test_digests_are_the_same_in_another_process() -> None:
    code = f"from udasa.recipe import digest, load; print([digest(load(n)) for n in {SHELF}])"
    env = {**os.environ, "PYTHONHASHSEED": "17"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == str([recipes.digest(recipes.load(name)) for name in SHELF])


@pytest.mark.parametrize("name", SHELF)
def test_every_recipe_can_be_repeated(name: str) -> None:
    found = recipes.load(name)
    models = [found.policy, found.judge_model, found.entailment.model]
    revisions = [model.revision for model in models] + [s.revision for s in found.sources if s.dataset]
    assert all(revision and len(revision) == 40 and int(revision, 16) >= 0 for revision in revisions)
    assert all(recipes.bundled_path(source.path).is_file() for source in found.sources if source.path)


def test_the_constitution_of_the_shelf() -> None:
    path = "bundled:data/constitution.jsonl"
    found = recipes.constitution(path)
    assert [principle.id for principle in found][:2] == ["avoids-harm", "honest"]
    assert len(found) == len({principle.id for principle in found}) == 6
    assert all(principle.question.endswith("?") for principle in found)
    assert recipes.constitution(path, first=3) == found[:3]


# --- JSON and digest


def test_the_digest_is_of_the_canonical_json() -> None:
    text = recipes.to_json(BASE)
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert recipes.digest(BASE) == hashlib.sha256(text.encode()).hexdigest()
    backwards = json.dumps(dict(reversed(json.loads(text).items())))
    assert recipes.digest(recipes.from_json(backwards)) == recipes.digest(BASE)


def test_a_default_written_out_is_the_same_recipe() -> None:
    assert recipes.from_json(altered(shard_size=256, staging={})) == BASE
    assert recipes.digest(recipe(Path("x.jsonl"), staging=Staging(thresholds=(0, 1)))) == recipes.digest(
        recipe(Path("x.jsonl"), staging=Staging(thresholds=(0.0, 1.0)))
    )


FULL = recipe(
    Path("x.jsonl"),
    system="Réponds.",
    judging=Judging(constitution=CONSTITUTION, model=ModelSpec(model="a/b", revision="0" * 40)),
    staging=Staging(thresholds=(0.1, 0.25)),
    training=Training(reference="fixed", fixed_reference=FAKE, stages=("exploratory",), lora_targets=("q", "v")),
)


def test_every_kind_of_value_round_trips() -> None:
    assert recipes.from_json(recipes.to_json(FULL)) == FULL
    assert "Réponds." in recipes.to_json(FULL)


def test_the_judge_is_the_policy_unless_it_is_named() -> None:
    assert BASE.judge_model == FAKE
    assert FULL.judge_model == ModelSpec(model="a/b", revision="0" * 40)


def test_differences_name_the_fields() -> None:
    other = dataclasses.replace(
        FULL,
        seed=3,
        system=None,
        sampling=Sampling(k=6),
        staging=Staging(),
        sources=(*FULL.sources, Source(name="more", task="sentiment", path="y.csv")),
    )
    found = recipes.differences(FULL, other)
    assert "seed: 0 -> 3" in found
    assert "sampling.k: 4 -> 6" in found
    assert "system: 'Réponds.' -> None" in found
    assert "staging.thresholds[1]: 0.25 -> None" in found
    assert "sources[1].path: None -> 'y.csv'" in found
    assert [line.partition(":")[0] for line in found if not line.startswith("sources[1].")] == [
        "sampling.k",
        "seed",
        "staging.thresholds[0]",
        "staging.thresholds[1]",
        "system",
    ]


# --- loading


def test_a_recipe_loads_from_a_python_file_and_from_json(tmp_path: Path) -> None:
    python, stored = tmp_path / "own.py", tmp_path / "own.json"
    python.write_text("from tests.tables import recipe\nfrom pathlib import Path\nRECIPE = recipe(Path('x.jsonl'))\n")
    stored.write_text(recipes.to_json(BASE))
    assert recipes.load(python) == recipes.load(str(stored)) == BASE


IMPORT = "from udasa.backends import Sampling\n"


def test_an_unknown_name_is_answered_with_the_shelf() -> None:
    with pytest.raises(UserError, match=f"'nope' is neither .* one of: {', '.join(SHELF)}"):
        recipes.load("nope")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.py", "RECIPE = 3\n", "must define RECIPE = Recipe(...); found int."),
        ("x.py", "", "must define RECIPE = Recipe(...); found NoneType."),
        ("x.txt", "RECIPE = 3\n", "is not a recipe: expected a .py file that defines RECIPE, or a .json file."),
        ("x.json", "{", "does not fit: 'Recipe': Invalid JSON"),
        ("x.json", "[]", "does not fit: 'Recipe': Input should be an object"),
        ("x.py", "from udasa.backends import Sampling\nSampling(kk=3)\n", "'kk' is not a field; did you mean k?"),
        (
            "x.py",
            "from udasa.backends import Sampling\nSampling(k='3')\n",
            "'k': Input should be a valid integer, got '3'",
        ),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        recipes.load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


# --- fields that do not fit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samplng": {}}, "'samplng' is not a field; did you mean sampling?"),
        ({"sampling": {"kk": 3}}, "'sampling.kk' is not a field; did you mean k?"),
        ({"training": {"learning_rat": 1.0}}, "'training.learning_rat' is not a field; did you mean learning_rate"),
        ({"shard_size": "8"}, "'shard_size': Input should be a valid integer, got '8'"),
        ({"seed": 1.0}, "'seed': Input should be a valid integer, got 1.0"),
        ({"pairing": {"rejected": "min"}}, "'mu_plus_2sigma', 'max', 'next' or 'random', got 'min'"),
        (
            {"sources": [{"name": "x", "task": "chess", "path": "p"}]},
            "'sources.0.task': Input should be 'harmlessness'",
        ),
        ({"sources": [{"name": "x", "path": "p"}]}, "'sources.0.task': Field required"),
        ({"policy": None}, "'policy': Input should be an object, got None"),
    ],
)
def test_a_wrong_field_is_named_with_what_fits(changes: dict[str, Any], message: str) -> None:
    assert message in refused(altered(**changes))


def test_all_problems_are_said_at_once() -> None:
    text = refused(altered(seed="a", sampling={"kk": 1}, near_duplicate=None))
    assert all(f"'{field}'" in text for field in ("seed", "sampling.kk", "near_duplicate"))
    assert refused("{}").count("Field required") == 4


def test_a_field_in_the_wrong_place_is_not_answered_with_itself() -> None:
    text = refused(altered(k=8))
    assert "'k' is not a field" in text
    assert "did you mean k?" not in text
    assert "sampling" in text


def test_an_unknown_field_is_answered_with_the_fields_that_stand_there() -> None:
    text = refused(altered(sampling={"zzzz": 1}))
    assert all(field in text for field in Sampling.__dataclass_fields__)
    assert "lora_rank" not in text


MODEL = {"model": "m"}
CHECKS: list[tuple[type, dict[str, Any], str]] = [
    (Sampling, {"k": 1}, "k must be at least 2 to measure disagreement, got 1."),
    (Sampling, {"temperature": 0.0}, "temperature must be above 0 to sample different responses, got 0.0."),
    (Sampling, {"top_p": 0.0}, "top_p must be in (0, 1], got 0.0."),
    (Sampling, {"top_p": 1.1}, "top_p must be in (0, 1], got 1.1."),
    (Sampling, {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0."),
    (ModelSpec, {"model": "m", "batch_tokens": 0}, "batch_tokens must be at least 1, got 0."),
    (Source, {"name": "s", "task": "sentiment"}, "source 's' must have either a path or a dataset, and not both."),
    (
        Source,
        {"name": "s", "task": "sentiment", "path": "p", "dataset": "o/d", "revision": "1"},
        "source 's' must have either a path or a dataset, and not both.",
    ),
    (
        Source,
        {"name": "s", "task": "sentiment", "dataset": "o/d"},
        "source 's' names the Hub data set o/d without a revision. "
        "Pin its commit sha, so that the build can be repeated.",
    ),
    (
        Source,
        {"name": "s", "task": "sentiment", "path": "p", "limit": 0},
        "limit of source 's' must be at least 1, got 0.",
    ),
    (Entailment, {"same_meaning": 1.0}, "same_meaning must be between 0 and 1, got 1.0."),
    (Judging, {"constitution": ()}, "the constitution is empty; it needs at least one principle."),
    (Judging, {"kind": "trained"}, "a trained judge is a folder"),
    (
        Judging,
        {"kind": "trained", "model": ModelSpec(model="judge"), "constitution": CONSTITUTION},
        "a trained judge reads no constitution",
    ),
    (Judging, {"constitution": CONSTITUTION[:1] * 2}, "the constitution has two principles with one id."),
    (Weights, {"semantic": -0.5}, "weights must be 0 or more, and one of them above 0."),
    (Weights, {"semantic": 0.0, "factual": 0.0, "value": 0.0}, "weights must be 0 or more, and one of them above 0."),
    (Pairing, {"risk_ceiling": 0.0}, "risk_ceiling must be in (0, 1], got 0.0."),
    (Pairing, {"epsilon": -1.0}, "epsilon must be 0 or more, got -1.0."),
    (Staging, {"thresholds": (0.2, 0.1)}, "thresholds must be two rising gaps of 0 or more, got (0.2, 0.1)."),
    (Pairing, {"gap_resamples": 99}, "gap_resamples must be 0, or at least 100, got 99."),
    (Calibration, {"maps": "m.json"}, "maps and sha256 belong to method='isotonic', and only to it."),
    (Calibration, {"method": "isotonic", "maps": "m.json"}, "method='isotonic' needs maps and their sha256"),
    (Staging, {"test_share": 1.0}, "test_share must be in [0, 1), got 1.0."),
    (Training, {"reference": "fixed"}, "fixed_reference belongs to reference='fixed', and only to it."),
    (Training, {"fixed_reference": FAKE}, "fixed_reference belongs to reference='fixed', and only to it."),
    (Training, {"stages": ()}, "stages must be one or more different stages, got ()."),
    (
        Training,
        {"batch_size": 6, "device_batch_size": 4},
        "device_batch_size must divide batch_size, got 4 and 6.",
    ),
    (Training, {"beta": 0.0}, "beta, learning_rate and epochs must be above 0."),
]


@pytest.mark.parametrize(("cls", "values", "message"), CHECKS, ids=lambda x: x.__name__ if isinstance(x, type) else "")
def test_a_value_out_of_bounds_is_refused(cls: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        cls(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {"k": 1}}, "'sampling': k must be at least 2 to measure disagreement, got 1."),
        ({"shard_size": 0}, "'Recipe': shard_size must be at least 1, got 0."),
        ({"near_duplicate": 0.0}, "'Recipe': near_duplicate must be in (0, 1], got 0.0."),
        (
            {"staging": {"abstain": True}},
            "'Recipe': staging.abstain needs the gaps' intervals: set pairing.gap_resamples, such as 1000.",
        ),
        (
            {"pairing": {"gap_resamples": 200}, "measures": {"semantic": "degree", "factual": "cocoa"}},
            "'Recipe': gap_resamples draws the responses behind semantic_uncertainty and factual_uncertainty anew, and "
            "the recipe measures by neither. Use one of them, or set pairing.gap_resamples to 0.",
        ),
        ({"sources": []}, "'Recipe': a recipe needs at least one source of prompts."),
        (
            {"sources": [{"name": "x", "task": "sentiment", "path": "p"}] * 2},
            "'Recipe': two sources have one name: ['x', 'x'].",
        ),
    ],
)
def test_a_check_is_said_in_its_own_words_and_nothing_else(changes: dict[str, Any], message: str) -> None:
    assert refused(altered(**changes)) == f"the recipe does not fit: {message}"


FLOATS = [
    (cls, name)
    for cls in (Sampling, Entailment, Weights, Pairing, Staging, Training, Recipe)
    for name, kind in get_type_hints(cls).items()
    if kind is float or float in get_args(kind)
]


@pytest.mark.parametrize(("cls", "name"), FLOATS, ids=lambda x: x if isinstance(x, str) else x.__name__)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_setting_is_nan_or_infinite(cls: type, name: str, bad: float) -> None:
    needed = {"name": "x", "sources": BASE.sources, "policy": FAKE, "judging": BASE.judging} if cls is Recipe else {}
    with pytest.raises(ValueError):
        cls(**needed, **{name: bad})


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.seed = 1  # type: ignore[misc]


# --- constitutions


def test_a_constitution_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "a", "question": "A?"}\n\n{"question": "B?", "id": "b"}\n')
    assert recipes.constitution(str(path)) == (Principle(id="a", question="A?"), Principle(id="b", question="B?"))


def test_a_line_separator_in_a_question_does_not_part_it(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "a", "question": "Is it\u2028kind?"}\n', encoding="utf-8")
    assert recipes.constitution(str(path))[0].question == "Is it\u2028kind?"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a"}', "'question': Field required"),
        ('{"id": "a", "question": 3}', "'question': Input should be a valid string, got 3"),
        ('{"id": "a", "question": "A?", "weight": 1}', "'weight' is not a field"),
        ("not json", "Invalid JSON"),
    ],
)
def test_a_line_that_is_no_principle_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError) as caught:
        recipes.constitution(str(path))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_missing_constitution_is_named() -> None:
    with pytest.raises(UserError, match=r"There is no constitution at nope\.jsonl"):
        recipes.constitution("nope.jsonl")
