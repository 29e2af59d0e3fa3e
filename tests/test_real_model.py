"""The embedded default on its real models; `make slow` runs it."""

import dataclasses
import logging
import shutil

import pytest

from udasa import flow
from udasa.backends import Sampling, identity, make_sampler
from udasa.backends_hf.weights import find_weights
from udasa.recipe import load

pytestmark = pytest.mark.slow


def test_the_packaged_policy_is_converted_once_and_answers(tmp_path, monkeypatch, caplog):
    policy = load("demo").policy
    monkeypatch.setenv("UDASA_CACHE", str(tmp_path))
    find_weights.cache_clear()
    with caplog.at_level(logging.INFO, logger="udasa"):
        sampler = make_sampler(policy, Sampling(k=2, temperature=0.01, max_new_tokens=12))
        find_weights.cache_clear()
        make_sampler(policy, Sampling())
    assert [r.message.startswith("Converting SmolLM2-135M-Instruct") for r in caplog.records] == [True]
    assert identity(policy)["sha256"].startswith("b179c9523d0e6a0f")
    assert not list(tmp_path.glob(".converting-*"))
    drawn = sampler.sample([[{"role": "user", "content": "What is the capital of France?"}]], [[1, 2]])[0]
    assert all("Paris" in response.text for response in drawn), drawn
    find_weights.cache_clear()


def test_the_same_stored_responses_give_the_same_bytes(tmp_path):
    settings = load("demo")
    sources = tuple(dataclasses.replace(source, limit=2) for source in settings.sources)
    settings = dataclasses.replace(settings, sources=sources)
    first = flow.build(settings, tmp_path / "first")
    second = tmp_path / "second"
    shutil.copytree(first, second, ignore=shutil.ignore_patterns("scored", "pairs", "ledger", "build.json"))
    flow.build(settings, second)
    made = sorted(path.relative_to(first) for path in first.rglob("*.parquet"))
    assert len(made) == 6
    for path in made:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path
