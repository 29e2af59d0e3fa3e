"""The bundled prompts: they enter whole, balanced, and as the file beside them says."""

import json
from collections import Counter
from typing import Any

from tests.tables import FAKE
from udasa import prompts, resources, schema
from udasa import recipe as recipes
from udasa.recipe import Judging, Recipe, Source

TASKS = schema.TASKS


def bundled(**changes: Any) -> Recipe:
    sources = tuple(
        Source(name=t, task=t, path=f"bundled:data/{t}.jsonl", domain_column="domain", license="apache-2.0", **changes)
        for t in TASKS
    )
    judging = Judging(constitution=recipes.constitution("bundled:data/constitution.jsonl"))
    return Recipe(name="bundled", sources=sources, policy=FAKE, judging=judging)


def test_the_bundled_sets_enter_whole() -> None:
    found = prompts.collect(bundled())
    rows = found.table.to_pylist()
    assert found.dropped.num_rows == 0
    assert Counter((row["source"], row["domain"]) for row in rows) == {
        (task, domain): 14 for task in TASKS for domain in schema.DOMAINS
    }
    assert len({row["prompt_id"] for row in rows}) == len(rows) == 224
    assert {(row["task"] == row["source"], row["license"]) for row in rows} == {(True, "apache-2.0")}
    assert all([m["role"] for m in row["messages"]] == ["user"] for row in rows)


def test_the_bundled_kinds_are_balanced_as_their_readme_says() -> None:
    folder = resources.shelf("builders") / "data"
    for task, column, values in (
        ("harmlessness", "kind", ("harmful", "benign")),
        ("sentiment", "sentiment", ("positive", "negative")),
    ):
        lines = [json.loads(line) for line in (folder / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert Counter(line[column] for line in lines) == dict.fromkeys(values, 28)
        for num in range(8, 57, 8):
            assert Counter((line[column], line["domain"]) for line in lines[:num]) == {
                (value, domain): num // 8 for value in values for domain in schema.DOMAINS
            }


def test_the_readme_beside_the_data_says_what_is_there() -> None:
    folder = resources.shelf("builders") / "data"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for path in sorted(folder.glob("*.jsonl")):
        num = len(path.read_text(encoding="utf-8").splitlines())
        assert f"| `{path.name}` | {num} |" in readme
    assert "Apache-2.0" in readme


def test_the_demo_takes_twelve_of_each() -> None:
    found = prompts.collect(recipes.load("demo"))
    assert Counter(found.table["source"].to_pylist()) == dict.fromkeys(TASKS, 12)
    assert found.dropped.num_rows == 0
