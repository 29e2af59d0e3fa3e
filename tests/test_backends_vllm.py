"""The seams of the vLLM engine, without vLLM: what is asked of it, and what its answers become."""

import dataclasses
import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests import tiny
from udasa.backends import (
    Exchange,
    ModelSpec,
    Principle,
    Sampling,
    make_entailer,
    make_judge,
    make_sampler,
    make_trained_judge,
    make_truth_judge,
)
from udasa.errors import MissingExtraError, UserError

SPEC = ModelSpec(model="org/name", revision="abc", backend="vllm", dtype="bfloat16")
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def engine(monkeypatch):
    """A module `vllm` that writes down how it is called and answers from `engine.answers`."""
    record = SimpleNamespace(options=None, chats=[], settings=None, lora=None, answers=None)

    class LLM:
        def __init__(self, **options):
            record.options = options

        def chat(self, conversations, settings, use_tqdm, lora_request):
            record.chats, record.settings, record.lora = conversations, settings, lora_request
            each = settings if isinstance(settings, list) else [settings] * len(conversations)
            return [record.answers(chat, s) for chat, s in zip(conversations, each, strict=True)]

    module = ModuleType("vllm")
    module.LLM = LLM
    module.SamplingParams = lambda **options: SimpleNamespace(**options)
    requests = ModuleType("vllm.lora.request")
    requests.LoRARequest = lambda name, number, path: SimpleNamespace(name=name, number=number, path=path)
    for name, part in (("vllm", module), ("vllm.lora", ModuleType("vllm.lora")), ("vllm.lora.request", requests)):
        monkeypatch.setitem(sys.modules, name, part)
    return record


def completion(text, tokens, reason="stop", stop_reason=None):
    """What vLLM says of one response; `tokens`: the text and the log-probability of each."""
    listed = [{i: SimpleNamespace(decoded_token=t, logprob=p)} for i, (t, p) in enumerate(tokens)]
    return SimpleNamespace(
        outputs=[
            SimpleNamespace(
                text=text,
                token_ids=list(range(len(tokens))),
                logprobs=listed,
                finish_reason=reason,
                stop_reason=stop_reason,
            )
        ]
    )


def test_every_response_is_a_request_with_its_own_seed(engine):
    engine.answers = lambda chat, s: completion(
        f" {chat[0]['content']} {s.seed} ", [("a", -1.0), ("b", -2.0)], "length" if s.seed == 9 else "stop"
    )
    bye = [{"role": "user", "content": "Bye"}]
    settings = Sampling(k=2, temperature=0.7, top_p=0.9, max_new_tokens=5)
    drawn = make_sampler(SPEC, settings).sample([HELLO, bye], [[7, 8], [9, 10]])
    assert [[r.text for r in row] for row in drawn] == [["Hello 7", "Hello 8"], ["Bye 9", "Bye 10"]]
    assert [[r.finish_reason for r in row] for row in drawn] == [["stop", "stop"], ["length", "stop"]]
    assert (drawn[0][0].logprob_sum, drawn[0][0].logprob_mean, drawn[0][0].num_tokens) == (-3.0, -1.5, 2)
    first = engine.settings[0]
    assert (first.temperature, first.top_p, first.max_tokens, first.logprobs) == (0.7, 0.9, 5, 0)


def test_the_engine_measures_the_model_itself_and_runs_no_remote_code(engine):
    make_sampler(SPEC, Sampling())
    assert engine.options["trust_remote_code"] is False
    assert engine.options["logprobs_mode"] == "raw_logprobs"
    assert engine.options["generation_config"] == "vllm"
    assert engine.options["enable_prefix_caching"] is True
    assert (engine.options["model"], engine.options["revision"], engine.options["dtype"]) == (
        "org/name",
        "abc",
        "bfloat16",
    )


def test_a_stop_text_is_cut_off_with_its_tokens(engine):
    tokens = [("One.", -1.0), (" Two", -2.0), (".\n", -4.0), ("\nQ", -8.0)]
    engine.answers = lambda chat, s: completion("One. Two.", tokens, stop_reason=s.stop[0])
    drawn = make_sampler(SPEC, Sampling(k=2, stop=("\n\n",))).sample([HELLO], [[7, 8]])
    assert [(r.text, r.num_tokens, r.logprob_sum, r.finish_reason) for r in drawn[0]] == [
        ("One. Two.", 3, -7.0, "stop")
    ] * 2
    engine.answers = lambda chat, s: completion("", tokens, stop_reason=s.stop[0])
    drawn = make_sampler(SPEC, Sampling(k=2, stop=("O",))).sample([HELLO], [[7, 8]])
    assert (drawn[0][0].text, drawn[0][0].num_tokens, drawn[0][0].logprob_mean) == ("", 0, None)


def test_sampler_and_judges_run_with_the_adapter(engine):
    spec = dataclasses.replace(SPEC, adapter=str(tiny.adapter()))
    engine.answers = lambda chat, s: completion("yes", [("yes", -1.0)])
    make_sampler(spec, Sampling(k=2)).sample([HELLO], [[7, 8]])
    assert engine.lora.path == str(tiny.adapter())
    assert (engine.options["enable_lora"], engine.options["max_lora_rank"]) == (True, 8)  # the adapter's is 4
    judge = make_judge(spec, (Principle(id="a", question="Is it safe?"),))
    assert make_truth_judge(spec, judge).engine.adapter is judge.engine.adapter is not None
    make_sampler(SPEC, Sampling())
    assert "enable_lora" not in engine.options


def test_the_judge_reads_both_orders(engine):
    def answers(chat, settings):
        yes_first = "Yes or No" in chat[0]["content"]
        candidates = {1: ("Yes", 0.6 if yes_first else 0.3), 2: ("No", 0.2), 3: (" Yes", 0.1), 4: ("The", 0.1)}
        top = {i: SimpleNamespace(decoded_token=t, logprob=math.log(p)) for i, (t, p) in candidates.items()}
        return SimpleNamespace(outputs=[SimpleNamespace(logprobs=[top])])

    engine.answers = answers
    p = make_judge(SPEC, (Principle(id="a", question="Is it safe?"),)).judge(
        [Exchange(HELLO, "Hi"), Exchange(HELLO, "No")]
    )
    np.testing.assert_allclose(p, [[[0.75, 0.6]], [[0.75, 0.6]]], atol=1e-12)
    assert (engine.settings.max_tokens, engine.settings.temperature) == (1, 0.0)


def test_a_judge_without_the_options_is_refused(engine):
    top = {1: SimpleNamespace(decoded_token="The", logprob=-0.1)}
    engine.answers = lambda chat, settings: SimpleNamespace(outputs=[SimpleNamespace(logprobs=[top])])
    with pytest.raises(UserError, match="gives no probability to either Yes or No"):
        make_judge(SPEC, (Principle(id="a", question="Is it safe?"),)).judge([Exchange(HELLO, "Hi")])


def test_p_true_is_asked_of_the_judges_own_engine(engine):
    def answers(chat, settings):
        assert "Is what the reply states true?" in chat[0]["content"]
        true_first = "True or False" in chat[0]["content"]
        candidates = {1: ("True", 0.6 if true_first else 0.3), 2: ("False", 0.2), 3: ("Yes", 0.1)}
        top = {i: SimpleNamespace(decoded_token=t, logprob=math.log(p)) for i, (t, p) in candidates.items()}
        return SimpleNamespace(outputs=[SimpleNamespace(logprobs=[top])])

    engine.answers = answers
    judge = make_judge(SPEC, (Principle(id="a", question="Is it safe?"),))
    engine.options = None
    p = make_truth_judge(SPEC, judge).judge([Exchange(HELLO, "Hi")])
    np.testing.assert_allclose(p, [[[0.75, 0.6]]], atol=1e-9)
    assert engine.options is None  # no second engine was started
    make_truth_judge(SPEC, None)
    assert engine.options is not None


def test_a_policy_that_answers_neither_true_nor_false_is_refused(engine):
    top = {1: SimpleNamespace(decoded_token="Yes", logprob=-0.1)}
    engine.answers = lambda chat, settings: SimpleNamespace(outputs=[SimpleNamespace(logprobs=[top])])
    with pytest.raises(UserError, match="gives no probability to either True or False"):
        make_truth_judge(SPEC, None).judge([Exchange(HELLO, "Hi")])


def test_a_prompted_entailer_reads_three_answers(engine):
    def answers(chat, settings):
        assert "First text: Paris.\nSecond text: It is Paris.\n" in chat[0]["content"]
        candidates = {1: ("Yes", 0.4), 2: ("No", 0.1), 3: ("Maybe", 0.3), 4: ("The", 0.2)}
        top = {i: SimpleNamespace(decoded_token=t, logprob=math.log(p)) for i, (t, p) in candidates.items()}
        return SimpleNamespace(outputs=[SimpleNamespace(logprobs=[top])])

    engine.answers = answers
    entailer = make_entailer(SPEC, "prompted", 0.8)
    np.testing.assert_allclose(entailer.entail([("Paris.", "It is Paris.")]), [[0.5, 0.375, 0.125]], atol=1e-12)
    assert entailer.entail([]).shape == (0, 3)


def test_a_trained_judge_does_not_run_on_vllm():
    with pytest.raises(UserError, match="set its backend to 'hf'"):
        make_trained_judge(SPEC)


def test_an_entailer_does_not_run_on_vllm():
    with pytest.raises(UserError, match="set its backend to 'hf'"):
        make_entailer(SPEC, "nli", 0.8)


def test_without_vllm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'udasa\[vllm\]'"):
        make_sampler(SPEC, Sampling())
