"""Prompts -> responses."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from tests.tables import prompts
from udasa import schema
from udasa.backends import Message, Report, Response, Sampling, ignore
from udasa.backends_fake import FakeSampler
from udasa.sample import SampleStep


class Recorder:
    """Answers with the seed, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[int]]] = []

    def sample(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]], report: Report = ignore
    ) -> list[list[Response]]:
        self.asked += [(turns[-1]["content"], list(row)) for turns, row in zip(prompts, seeds, strict=True)]
        report(len(prompts))
        return [[Response(f"seed {seed}", 2, None, None, "length", seed) for seed in row] for row in seeds]


def seed_of(seed: int, prompt_id: str, k: int) -> int:
    digest = hashlib.sha256(f"{seed}\x1f{prompt_id}\x1f{k}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def test_a_seed_is_the_hash_of_recipe_seed_prompt_id_and_number() -> None:
    recorder = Recorder()
    table = SampleStep(recorder, k=3, seed=7)(prompts("b", "a"))
    assert recorder.asked == [(name, [seed_of(7, name, k) for k in range(3)]) for name in ("b", "a")]
    assert table.schema == schema.RESPONSES
    assert table.select(schema.PROMPTS.names).equals(prompts("b", "a"))
    assert table["responses"].to_pylist()[1] == [
        {
            "response_id": f"a-{k}",
            "text": f"seed {seed_of(7, 'a', k)}",
            "num_tokens": 2,
            "logprob_sum": None,
            "logprob_mean": None,
            "finish_reason": "length",
            "seed": seed_of(7, "a", k),
        }
        for k in range(3)
    ]


def draw(names: Sequence[str], k: int = 4, seed: int = 0) -> dict[str, Any]:
    table = SampleStep(FakeSampler(Sampling(k=k)), k=k, seed=seed)(prompts(*names))
    return dict(zip(table["prompt_id"].to_pylist(), table["responses"].to_pylist(), strict=True))


def test_responses_do_not_depend_on_the_batch_or_its_order() -> None:
    whole = draw("abc")
    assert draw("cba") == whole
    assert {**draw("b"), **draw("ca")} == whole


def test_more_responses_begin_with_the_same_ones() -> None:
    assert draw("a", k=5)["a"][:2] == draw("a", k=2)["a"]


def test_another_recipe_seed_or_prompt_gives_other_seeds() -> None:
    seeds = [r["seed"] for s in (0, 1) for rows in draw("ab", seed=s).values() for r in rows]
    assert len(set(seeds)) == 16


def test_an_empty_shard_stays_empty() -> None:
    assert SampleStep(FakeSampler(Sampling(k=2)), k=2, seed=0)(prompts()).equals(schema.RESPONSES.empty_table())


def test_progress_counts_prompts() -> None:
    seen: list[int] = []
    SampleStep(FakeSampler(Sampling(k=2)), k=2, seed=0)(prompts("a", "b", "c"), seen.append)
    assert sum(seen) == 3


@pytest.mark.parametrize(
    "cut",
    [lambda drawn: drawn[:-1], lambda drawn: [*drawn[:-1], drawn[-1][:-1]], lambda drawn: [*drawn[:-1], []]],
    ids=["a-prompt", "a-response", "all-responses"],
)
def test_a_sampler_that_leaves_something_out_is_an_error(cut: Any) -> None:
    class Short(Recorder):
        def sample(self, prompts: Any, seeds: Any, report: Report = ignore) -> list[list[Response]]:
            drawn: list[list[Response]] = cut(super().sample(prompts, seeds, report))
            return drawn

    with pytest.raises(ValueError):
        SampleStep(Short(), k=2, seed=0)(prompts("a", "b"))
