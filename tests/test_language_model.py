"""A tiny model in lm-eval's wrapper: greedy replies are lm-eval's own, sampled ones hang on their seeds alone."""

import math
from functools import cache

import pytest

from tests import tiny
from tests.progress import recorder
from udasa.backends import ModelSpec
from udasa.backends_hf import load_causal_lm
from udasa.evaluate.language_model import Reply, wrap
from udasa.run import silent

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21
GREEDY = {"until": [], "max_gen_toks": 8, "do_sample": False}
SAMPLED = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}


@cache
def loaded():
    return load_causal_lm(ModelSpec(model=str(tiny.policy())))


def model(batch_size=4, progress=silent):
    return wrap(*loaded(), batch_size, 512, progress)


def request(text, options):
    from lm_eval.api.instance import Instance

    doc = {"id": text}
    return Instance("generate_until", doc, (text, dict(options)), 0, metadata=("t", 0, 1))


CONTEXTS = [
    f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in ("Hi", "Tell me a joke.", "Yes?")
]


def test_greedy_replies_are_those_of_lm_eval_and_say_how_they_ended():
    from lm_eval.models.huggingface import HFLM

    network, tokenizer = loaded()
    requests = [request(context, GREEDY) for context in CONTEXTS]
    theirs = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=2).generate_until(requests, disable_tqdm=True)
    seen = []
    ours = model(2, recorder(seen)).generate_until(requests)
    assert ours == theirs and all(isinstance(reply, Reply) for reply in ours)
    assert {reply.finish_reason for reply in ours} == {"length"}  # a random model does not end in 8 tokens
    assert seen[-1] == ("generate", 3, 3)


def test_a_reply_that_ends_itself_is_not_cut(monkeypatch):
    network, tokenizer = loaded()
    first = network.generate(**tokenizer(CONTEXTS[0], return_tensors="pt"), max_new_tokens=3, do_sample=False)[0, -2:]
    monkeypatch.setattr(
        network.generation_config, "eos_token_id", [*network.generation_config.eos_token_id, int(first[0])]
    )
    replies = model().generate_until([request(context, GREEDY) for context in CONTEXTS])
    assert replies[0].finish_reason == "stop"


def test_a_stop_text_ends_a_reply_too():
    plain = model().generate_until([request(CONTEXTS[0], GREEDY)])[0]
    middle = plain[2:4]
    reply = model().generate_until([request(CONTEXTS[0], {**GREEDY, "until": [middle]})])[0]
    assert reply == plain[: plain.index(middle)] and reply.finish_reason == "stop"


def test_sampled_replies_hang_on_their_document_and_repeat_alone():
    requests = [request(context, SAMPLED) for context in CONTEXTS for _ in range(3)]
    seen = []
    together = model(progress=recorder(seen)).generate_until(requests)
    assert seen[-1] == ("generate", 9, 9)
    assert len(set(together[:3])) == 3 and all(reply.response.logprob_sum < 0 for reply in together)
    alone = model().generate_until(requests[6:])
    assert alone == together[6:]
    mixed = model().generate_until([requests[0], request(CONTEXTS[1], GREEDY), *requests[1:3]])
    assert [mixed[0], *mixed[2:]] == together[:3]
    assert [reply.finish_reason for reply in together] == ["length"] * 9


def test_nats_are_of_the_model_without_its_adapter():
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    network, tokenizer = load_causal_lm(ModelSpec(model=str(tiny.policy())))
    texts = [("The cat", " is on the mat."), ("Yes", ".")]
    plain = wrap(network, tokenizer, 4, 512, silent).base_nats(texts)
    assert all(0 < nats < 3 * math.log(len(tokenizer)) for nats in plain)
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], r=2), network)
    torch.nn.init.normal_(next(p for n, p in network.named_parameters() if "lora_B" in n), std=2.0)
    lm = wrap(network.eval(), tokenizer, 4, 512, silent)
    assert lm.base_nats(texts) == pytest.approx(plain)
    pairs = lm.loglikelihood([_pair(*text) for text in texts])
    assert [value for value, _ in pairs] != pytest.approx(
        [-n * k for n, k in zip(plain, (6, 1), strict=True)], rel=1e-3
    )


def _pair(context, continuation):
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, (context, continuation), 0, metadata=("t", 0, 1))
