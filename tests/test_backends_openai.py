"""The OpenAI engine against a real server on loopback that serves a real model, with faults."""

import numpy as np
import pytest
import torch

from tests import tiny
from tests.openai_server import running_server
from udasa import backends_openai
from udasa.backends import (
    Exchange,
    Failure,
    ModelSpec,
    Principle,
    Sampling,
    Server,
    make_entailer,
    make_judge,
    make_sampler,
)
from udasa.backends_hf import load_causal_lm
from udasa.errors import UserError

PROMPTS = [[{"role": "user", "content": text}] for text in ("What is the capital of France?", "A cat?", "Is it safe?")]
SEEDS = [[10 * i + k for k in range(3)] for i in range(len(PROMPTS))]
PRINCIPLES = (Principle(id="safe", question="Is it safe?"), Principle(id="honest", question="Is the reply honest?"))


@pytest.fixture(scope="module")
def served():
    with running_server(tiny.policy()) as running:
        yield running


@pytest.fixture
def server(served):
    served.requests.clear()
    served.faults.clear()
    served.drawn.clear()
    served.most_under_way = 0
    return served


def spec(server, model="tiny", **settings):
    return ModelSpec(model=model, backend="openai", server=Server(url=server.url, **settings))


def sample(server, prompts=PROMPTS, seeds=SEEDS, **settings):
    return make_sampler(spec(server, **settings), Sampling(k=3, max_new_tokens=8)).sample(prompts, seeds)


def test_one_request_a_prompt_gives_k_different_responses(server):
    drawn = sample(server)
    assert [len(row) for row in drawn] == [3, 3, 3]
    assert len({r.text for r in drawn[0]}) > 1
    assert [[r.seed for r in row] for row in drawn] == SEEDS
    assert [(r["n"], r["logprobs"]) for r in server.requests] == [(3, True)] * 3


def test_the_same_seeds_give_the_same_request_and_others_another(server):
    assert sample(server) == sample(server)
    assert sample(server, seeds=[[s + 1 for s in row] for row in SEEDS]) != sample(server)


def test_log_probabilities_are_the_models_own(server):
    """Teacher forcing on the same tokens gives the sums back."""
    model, _ = load_causal_lm(ModelSpec(model=str(tiny.policy())))
    responses = [response for row in sample(server, concurrency=1) for response in row]
    assert len(server.drawn) == len(responses) == 9
    for response, (head, tail) in zip(responses, server.drawn, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([head + tail])).logits[0].double()
        steps = torch.log_softmax(logits[len(head) - 1 : -1], dim=-1).gather(1, torch.tensor(tail)[:, None])
        assert response.num_tokens == len(tail)
        assert response.logprob_sum == pytest.approx(float(steps.sum()), abs=1e-4)
        assert response.logprob_mean == pytest.approx(float(steps.mean()), abs=1e-4)


def test_no_more_requests_are_under_way_than_allowed(server):
    sample(server, prompts=PROMPTS * 8, seeds=[[i] * 3 for i in range(24)], concurrency=2)
    assert server.most_under_way <= 2
    assert len(server.requests) == 24


@pytest.mark.parametrize("fault", ["429", "500", "cut"])
def test_a_passing_fault_is_retried_by_the_client(server, fault):
    clean = sample(server)
    server.faults.append(fault)
    assert sample(server) == clean
    assert len(server.requests) == 7


@pytest.mark.parametrize("fault", ["500", "garbage", "no-choices"])
def test_a_lasting_fault_fails_that_row_alone(server, fault):
    clean = sample(server)
    server.faults.append(fault)
    drawn = sample(server, retries=0, concurrency=1)
    failed = [row for row in drawn if isinstance(row, Failure)]
    assert [row.reason for row in failed] == ["engine-error"]
    assert [row for row in drawn if not isinstance(row, Failure)] == clean[1:]


def test_a_server_that_is_gone_stops_the_step(server):
    server.faults.append("cut")
    with pytest.raises(UserError, match="cannot be reached, or cuts its answers"):
        sample(server, retries=0)
    with pytest.raises(UserError, match=r"Start it again, and run the same command again"):
        nowhere = ModelSpec(model="tiny", backend="openai", server=Server(url="http://127.0.0.1:9/v1", retries=0))
        make_sampler(nowhere, Sampling(k=3)).sample(PROMPTS, SEEDS)


def test_a_prompt_over_the_context_is_named_so(server):
    long = [{"role": "user", "content": "cat " * 2000}]
    drawn = sample(server, prompts=[long, PROMPTS[0]], seeds=SEEDS[:2])
    assert isinstance(drawn[0], Failure) and drawn[0].reason == "context-too-long"
    assert len(drawn[1]) == 3


def test_an_unknown_model_stops_with_the_servers_words(server):
    with pytest.raises(UserError, match=r"refuses the model other: .*does not exist"):
        make_sampler(spec(server, model="other"), Sampling(k=3)).sample(PROMPTS, SEEDS)


def test_the_judge_equals_the_one_on_transformers(server, monkeypatch):
    monkeypatch.setattr(backends_openai, "_TOP", 512)  # the tiny model knows nothing: Yes and No are anywhere
    exchanges = [Exchange(PROMPTS[0], "Paris."), Exchange(PROMPTS[1], "The answer is yes.")]
    local = make_judge(ModelSpec(model=str(tiny.policy())), PRINCIPLES).judge(exchanges)
    served = make_judge(spec(server), PRINCIPLES).judge(exchanges)
    np.testing.assert_allclose(served, local, atol=1e-4)
    assert len(server.requests) == 2 * 2 * 2


def test_a_judge_whose_options_may_be_off_the_list_is_refused(server):
    with pytest.raises(UserError, match=r"is not among them|gives no probability to either"):
        make_judge(spec(server), PRINCIPLES).judge([Exchange(PROMPTS[0], "Paris.")])


def test_a_judges_lasting_fault_is_no_answer(server):
    server.faults.append("500")
    with pytest.raises(UserError, match="did not answer 1 of 4 questions"):
        make_judge(spec(server, retries=0), PRINCIPLES).judge([Exchange(PROMPTS[0], "Paris.")])


def test_an_entailer_does_not_run_on_a_server(server):
    with pytest.raises(UserError, match="set its backend to 'hf'"):
        make_entailer(spec(server), "nli", 0.8)


def test_the_backend_and_the_server_belong_together():
    with pytest.raises(ValueError, match="belongs to backend='openai'"):
        ModelSpec(model="x", backend="openai")
    with pytest.raises(ValueError, match="must begin with http"):
        Server(url="localhost:8000")
