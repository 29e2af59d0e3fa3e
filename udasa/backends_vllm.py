"""The vLLM engine, for a GPU: sampler and judge on `LLM.chat` with prefix caching.

Log-probabilities are those of the model at temperature 1 (`logprobs_mode="raw_logprobs"`), and the model's own
generation defaults are off (`generation_config="vllm"`), as in the transformers engine. The K requests of a prompt
share its prefill through the prefix cache.
"""

from bisect import bisect_left
from collections.abc import Sequence
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from udasa.adapters import find_adapter
from udasa.backends import (
    NLI_OPTIONS,
    NLI_QUESTION,
    OPTIONS,
    TRUTH,
    TRUTH_OPTIONS,
    Entailer,
    Exchange,
    Floats,
    Identity,
    Judge,
    Kind,
    Message,
    ModelSpec,
    Principle,
    Report,
    Response,
    Runtime,
    Sampler,
    Sampling,
    ignore,
    judge_context,
    judge_questions,
    make_response,
    nli_context,
    read_answer,
)
from udasa.errors import require

_TOP = 20
"""Next-token candidates in which the judge's options are looked for."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks of adapters for which every version of vLLM since 0.22 has room."""


class Engine(NamedTuple):
    """A started vLLM, and the adapter that its requests run with."""

    llm: Any
    adapter: Any

    def chat(self, conversations: Sequence[Sequence[Message]], settings: Any) -> Any:
        """Answer each conversation; `settings`: one for all, or one each."""
        return self.llm.chat(conversations, settings, use_tqdm=False, lora_request=self.adapter)


def make_sampler(spec: ModelSpec, sampling: Sampling) -> Sampler:
    """Start the engine and return its sampler."""
    return VLLMSampler(_start(spec), sampling)


def make_judge(spec: ModelSpec, principles: Sequence[Principle]) -> Judge:
    """Start the engine and return its judge."""
    return VLLMJudge(_start(spec), principles, OPTIONS)


def make_truth_judge(spec: ModelSpec, share: Judge | None) -> Judge:
    """Return the judge that answers true or false, on the engine of `share` if it has one."""
    return VLLMJudge(share.engine if isinstance(share, VLLMJudge) else _start(spec), (TRUTH,), TRUTH_OPTIONS)


def make_entailer(spec: ModelSpec, kind: Kind, same_meaning: float, runtime: Runtime = "torch") -> Entailer:
    """Start the engine and return its entailer, a language model that is asked."""
    return VLLMPromptedEntailer(_start(spec))


def identity(spec: ModelSpec) -> Identity:
    """Return the model's name and revision, and its adapter's."""
    origin = "local folder" if Path(spec.model).is_dir() else "Hub"
    model, adapter = Identity(model=spec.model, revision=spec.revision, origin=origin, sha256=None), find_adapter(spec)
    return model if adapter is None else {**model, "adapter": adapter.identity}


def placement(spec: ModelSpec) -> str:
    """Return the precision, and the version of vLLM, that `spec` runs on."""
    return f"vllm {version('vllm')} {spec.dtype}"


def _start(spec: ModelSpec) -> Engine:
    """Start vLLM with the model, and room for its adapter."""
    vllm, adapter = require("vllm", extra="vllm"), find_adapter(spec)
    lora = {} if adapter is None else {"enable_lora": True, "max_lora_rank": _room(adapter.rank)}
    llm = vllm.LLM(
        model=spec.model,
        revision=spec.revision,
        dtype=spec.dtype,
        trust_remote_code=False,
        enable_prefix_caching=True,
        generation_config="vllm",
        logprobs_mode="raw_logprobs",
        max_logprobs=_TOP,
        **lora,
    )
    if adapter is None:
        return Engine(llm, None)
    return Engine(llm, require("vllm.lora.request", extra="vllm").LoRARequest("adapter", 1, str(adapter.folder)))


def _room(rank: int) -> int:
    """Return the smallest rank that vLLM can hold and that is not below `rank`."""
    return next((size for size in _RANKS if size >= rank), rank)


class VLLMSampler:
    """Samples K responses a prompt, each with its own seed."""

    def __init__(self, engine: Engine, sampling: Sampling) -> None:
        self.engine = engine
        self.sampling = sampling

    def sample(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]], report: Report = ignore
    ) -> list[list[Response]]:
        """See `Sampler.sample`."""
        conversations = [list(messages) for messages, row in zip(prompts, seeds, strict=True) for _ in row]
        settings = [self._settings(seed) for row in seeds for seed in row]
        outputs = iter(self.engine.chat(conversations, settings))
        drawn = [[_response(next(outputs).outputs[0], seed) for seed in row] for row in seeds]
        report(len(prompts))
        return drawn

    def _settings(self, seed: int) -> Any:
        return require("vllm", extra="vllm").SamplingParams(
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_tokens=self.sampling.max_new_tokens,
            seed=seed,
            stop=list(self.sampling.stop),
            logprobs=0,
        )


def _response(completion: Any, seed: int) -> Response:
    """Return a completion as a response; vLLM lists the tokens of a stop text that it has cut off."""
    tokens = [listed[number] for number, listed in zip(completion.token_ids, completion.logprobs, strict=True)]
    if isinstance(completion.stop_reason, str):
        lengths = accumulate((len(token.decoded_token) for token in tokens), initial=0)
        tokens = tokens[: bisect_left(list(lengths), len(completion.text))]
    logprobs = [float(token.logprob) for token in tokens]
    return make_response(completion.text, logprobs, seed, cut=completion.finish_reason == "length")


def _shares(engine: Engine, texts: Sequence[str], options: Sequence[str]) -> Floats:
    """Ask each text for one token, and return each option's share of the options' probability, (texts, options).

    Raises:
        UserError: the options are not among the likeliest next tokens.
    """
    conversations = [[Message(role="user", content=text)] for text in texts]
    settings = require("vllm", extra="vllm").SamplingParams(temperature=0.0, max_tokens=1, logprobs=_TOP)
    shares = []
    for output in engine.chat(conversations, settings):
        listed = output.outputs[0].logprobs[0].values()
        probability = {candidate.decoded_token: float(np.exp(candidate.logprob)) for candidate in listed}
        shares.append(read_answer(probability, options, unlisted=min(probability.values(), default=0.0)))
    return np.array(shares, dtype=np.float64).reshape(len(texts), len(options))


class VLLMJudge:
    """Reads the options' probabilities from a one-token completion."""

    def __init__(self, engine: Engine, principles: Sequence[Principle], options: tuple[str, str]) -> None:
        self.engine = engine
        self.options = options
        self.questions = judge_questions(principles, options)

    def judge(self, exchanges: Sequence[Exchange], report: Report = ignore) -> Floats:
        """See `Judge.judge`.

        Raises:
            UserError: neither option is among the likeliest next tokens.
        """
        texts = [judge_context(exchange) + question for exchange in exchanges for question in self.questions]
        shares = _shares(self.engine, texts, self.options)
        report(len(exchanges))
        return shares[:, 0].reshape(len(exchanges), -1, 2)


class VLLMPromptedEntailer:
    """Asks whether one text follows from another."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def entail(self, pairs: Sequence[tuple[str, str]], report: Report = ignore) -> Floats:
        """See `Entailer.entail`.

        Raises:
            UserError: the answers are not among the likeliest next tokens.
        """
        shares = _shares(self.engine, [nli_context(*pair) + NLI_QUESTION for pair in pairs], NLI_OPTIONS)
        report(len(pairs))
        return shares
