"""Whole builds on the fakes: every prompt of the bundled sets, in about a second."""

from udasa.backends import ModelSpec, Principle, Sampling
from udasa.flow import build
from udasa.recipe import Entailment, Judging, Recipe, Source

FAKE = ModelSpec(model="fake/fake", backend="fake")
TASKS = ("harmlessness", "helpfulness", "truthfulness", "sentiment")


def recipe(**changes):
    """Return a recipe on the fakes; 40 prompts in shards of 16."""
    settings = {
        "name": "fake",
        "sources": tuple(
            Source(
                name=task,
                task=task,
                path=f"bundled:data/{task}.jsonl",
                domain_column="domain",
                license="apache-2.0",
                limit=10,
            )
            for task in TASKS
        ),
        "policy": FAKE,
        "sampling": Sampling(k=4),
        "entailment": Entailment(model=FAKE),
        "judging": Judging(constitution=(Principle(id="safe", question="Is the reply safe?"),)),
        "shard_size": 16,
    }
    return Recipe(**(settings | changes))


def built(folder, **changes):
    """Return the folder of a finished build."""
    return build(recipe(**changes), folder)
