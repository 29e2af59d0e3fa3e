"""The OpenAI engine against a real server on loopback that serves a real model, with faults."""

import numpy as np
import pytest
import torch

from tests import builds, tiny
from tests.openai_server import running_server
from udasa import backends_openai, flow, run
from udasa.backends import (
    Exchange,
    Failure,
    ModelSpec,
    Principle,
    Sampling,
    Server,
    all_answered,
    make_entailer,
    make_judge,
    make_sampler,
)
from udasa.backends_hf import judge as hf
from udasa.backends_hf import load_causal_lm
from udasa.errors import UserError
from udasa.recipe import Judging

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


def test_a_stop_text_is_cut_off_with_its_log_probabilities(server):
    whole = [r for row in sample(server) for r in row]
    stop = whole[0].text[2:4]
    settings = Sampling(k=3, max_new_tokens=8, stop=(stop,))
    stopped = [r for row in make_sampler(spec(server), settings).sample(PROMPTS, SEEDS) for r in row]
    assert server.requests[-1]["stop"] == [stop]
    assert (stopped[0].text, stopped[0].finish_reason) == (whole[0].text[:2].strip(), "stop")
    for before, after in zip(whole, stopped, strict=True):
        if stop in before.text:
            assert after.num_tokens < before.num_tokens and after.logprob_sum > before.logprob_sum
        else:
            assert after == before


def remembering(server, path, **settings):
    sampler = make_sampler(spec(server, **settings), Sampling(k=3, max_new_tokens=8))
    sampler.remember(path)
    return sampler


@pytest.mark.parametrize("fault", ["500", "garbage", "no-choices"])
def test_what_was_answered_is_not_sent_again_and_what_failed_is(server, fault, tmp_path):
    clean = sample(server)
    server.faults += [None, fault]
    server.requests.clear()
    first = remembering(server, tmp_path / "answers.sqlite", retries=0, concurrency=1).sample(PROMPTS, SEEDS)
    assert [isinstance(row, Failure) for row in first] == [False, True, False] and len(server.requests) == 3
    again = remembering(server, tmp_path / "answers.sqlite").sample(PROMPTS, SEEDS)
    assert again == clean and len(server.requests) == 4
    assert remembering(server, tmp_path / "answers.sqlite").sample(PROMPTS, SEEDS) == clean
    assert len(server.requests) == 4
    other = [[seed + 1 for seed in row] for row in SEEDS]
    remembering(server, tmp_path / "answers.sqlite").sample(PROMPTS, other)
    assert len(server.requests) == 7


def test_the_answers_before_a_server_is_gone_are_kept(server, tmp_path):
    clean = sample(server)
    server.faults += [None, None, "cut"]
    server.requests.clear()
    with pytest.raises(UserError, match="cannot be reached"):
        remembering(server, tmp_path / "answers.sqlite", retries=0, concurrency=1).sample(PROMPTS, SEEDS)
    assert remembering(server, tmp_path / "answers.sqlite").sample(PROMPTS, SEEDS) == clean
    assert len(server.requests) == 4


def test_a_build_that_is_cut_off_sends_nothing_twice(server, tmp_path):
    fake = ModelSpec(model="fake/fake", backend="fake")
    settings = builds.recipe(
        policy=spec(server, retries=0, concurrency=1),
        sampling=Sampling(k=2, max_new_tokens=8),
        judging=Judging(model=fake, constitution=PRINCIPLES),
        shard_size=12,
    )
    server.faults += [None] * 17 + ["cut"]
    with pytest.raises(UserError, match="cannot be reached"):
        flow.build(settings, tmp_path / "build")
    assert len(server.requests) == 18 and len(run.shard_paths(tmp_path / "build", "responses")) == 1
    flow.build(settings, tmp_path / "build")
    assert len(server.requests) == 41  # 40 prompts, and the request that was cut
    undisturbed = flow.build(settings, tmp_path / "undisturbed")
    assert run.read(tmp_path / "build", "responses").equals(run.read(undisturbed, "responses"))


def test_a_judge_remembers_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(backends_openai, "_TOP", 512)
    exchanges = [Exchange(PROMPTS[0], "Paris."), Exchange(PROMPTS[1], "The answer is yes.")]
    found = []
    for _ in range(2):
        judge = make_judge(spec(server), PRINCIPLES)
        judge.remember(tmp_path / "answers.sqlite")
        found.append(judge.judge(exchanges))
    assert np.array_equal(*found) and len(server.requests) == 8


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


def test_a_judge_whose_options_may_be_off_the_list_gives_no_judgement(server):
    (found,) = make_judge(spec(server), PRINCIPLES).judge([Exchange(PROMPTS[0], "Paris.")])
    assert found.reason == "engine-error"
    assert "is not among them" in found.detail or "gives no probability to either Yes or No" in found.detail


def test_a_judges_lasting_fault_is_no_judgement_of_that_reply(server, monkeypatch):
    monkeypatch.setattr(backends_openai, "_TOP", 512)
    exchanges = [Exchange(PROMPTS[0], "Paris."), Exchange(PROMPTS[1], "The answer is yes.")]
    whole = make_judge(spec(server), PRINCIPLES).judge(exchanges)
    server.faults += [None, None, "500"]
    first, second = make_judge(spec(server, retries=0, concurrency=1), PRINCIPLES).judge(exchanges)
    assert isinstance(first, Failure) and first.detail.startswith("500: ")
    assert np.array_equal(second, whole[1])
    with pytest.raises(UserError, match="did not answer about 1 of 2 replies; the first: 500"):
        all_answered([first, second])


def test_a_prompted_entailer_equals_the_one_on_transformers(server, monkeypatch):
    monkeypatch.setattr(backends_openai, "_TOP", 512)
    pairs = [("Paris.", "It is Paris."), ("A cat.", "No cat."), ("", "")]
    for engine in (backends_openai, hf):  # "Maybe" is not one token of the tiny model
        monkeypatch.setattr(engine, "NLI_OPTIONS", ("Yes", "A", "No"))
    local = make_entailer(ModelSpec(model=str(tiny.policy())), "prompted", 0.8).entail(pairs)
    served = make_entailer(spec(server), "prompted", 0.8).entail(pairs)
    np.testing.assert_allclose(served, local, atol=1e-4)
    assert len(server.requests) == 3
    server.faults.append("500")
    with pytest.raises(UserError, match=r"did not answer 1 of 3 questions; the first: 500"):
        make_entailer(spec(server, retries=0), "prompted", 0.8).entail(pairs)


def test_an_encoder_does_not_run_on_a_server(server):
    with pytest.raises(UserError, match="set its backend to 'hf'"):
        make_entailer(spec(server), "nli", 0.8)


def test_the_backend_and_the_server_belong_together():
    with pytest.raises(ValueError, match="belongs to backend='openai'"):
        ModelSpec(model="x", backend="openai")
    with pytest.raises(ValueError, match="must begin with http"):
        Server(url="localhost:8000")
