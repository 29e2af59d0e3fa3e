"""The engine of any OpenAI-compatible server (vLLM, SGLang, llama.cpp, TGI): sampler and judge over chat completions.

A request asks for K choices of one prompt, or for one token of a judge's answer. The official client sends them,
with its own retries (429, 5xx, lost connections; it heeds Retry-After) and time limits; at most `concurrency` are
under way at once. What is still refused after them is a `Failure` of that one row, with the reason.

Log-probabilities must be those of the model at temperature 1: vLLM and SGLang report them so by default.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np

from udasa.backends import (
    OPTIONS,
    TRUTH,
    TRUTH_OPTIONS,
    Exchange,
    Failure,
    Floats,
    Identity,
    Judge,
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
    read_answer,
    stable_hash,
)
from udasa.errors import UserError, require

_TOP = 20
"""Next-token candidates in which the judge's options are looked for: the most that servers allow."""

Choices = list[dict[str, Any]]
"""The `choices` of a chat completion."""


def make_sampler(spec: ModelSpec, sampling: Sampling) -> Sampler:
    """Return a sampler that asks the server."""
    return OpenAISampler(spec, sampling)


def make_judge(spec: ModelSpec, principles: Sequence[Principle]) -> Judge:
    """Return a judge that asks the server."""
    return OpenAIJudge(spec, principles, OPTIONS)


def make_truth_judge(spec: ModelSpec, share: Judge | None) -> Judge:
    """Return the judge that answers true or false; a server shares its weights by itself."""
    return OpenAIJudge(spec, (TRUTH,), TRUTH_OPTIONS)


def make_entailer(
    spec: ModelSpec, kind: Literal["nli", "similarity"], same_meaning: float, runtime: Runtime = "torch"
) -> NoReturn:
    """Refuse: encoders run on transformers."""
    raise UserError(f"The entailer {spec.model} cannot run on the backend 'openai'; set its backend to 'hf'.")


def identity(spec: ModelSpec) -> Identity:
    """Return the name that the server knows the model by; a server does not say which weights it holds."""
    return Identity(model=spec.model, revision=spec.revision, origin="OpenAI-compatible server", sha256=None)


class OpenAISampler:
    """Samples K responses a prompt in one request; its seed is a hash of the K seeds."""

    def __init__(self, spec: ModelSpec, sampling: Sampling) -> None:
        self.spec = spec
        self.sampling = sampling

    def sample(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]], report: Report = ignore
    ) -> list[list[Response] | Failure]:
        """See `Sampler.sample`."""
        bodies = [self._body(messages, row) for messages, row in zip(prompts, seeds, strict=True)]
        answers = asyncio.run(_ask_all(self.spec, bodies, report))
        return [_responses(answer, row) for answer, row in zip(answers, seeds, strict=True)]

    def _body(self, messages: Sequence[Message], seeds: Sequence[int]) -> dict[str, Any]:
        return {
            "messages": [dict(message) for message in messages],
            "n": len(seeds),
            "seed": stable_hash("openai", *seeds) % 2**31,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_new_tokens,
            "logprobs": True,
        }


class OpenAIJudge:
    """Reads the options' probabilities from one-token completions, in both orders."""

    def __init__(self, spec: ModelSpec, principles: Sequence[Principle], options: tuple[str, str]) -> None:
        self.spec = spec
        self.options = options
        self.questions = judge_questions(principles, options)

    def judge(self, exchanges: Sequence[Exchange], report: Report = ignore) -> Floats:
        """See `Judge.judge`.

        Raises:
            UserError: the server refused a question, or gives no probability to either option.
        """
        bodies = [
            {
                "messages": [{"role": "user", "content": judge_context(exchange) + question}],
                "temperature": 0.0,
                "max_tokens": 1,
                "logprobs": True,
                "top_logprobs": _TOP,
            }
            for exchange in exchanges
            for question in self.questions
        ]
        answers = asyncio.run(_ask_all(self.spec, bodies, ignore))
        if failed := [answer for answer in answers if isinstance(answer, Failure)]:
            raise UserError(
                f"The judge {self.spec.model} did not answer {len(failed)} of {len(answers)} questions; "
                f"the first: {failed[0].detail}"
            )
        yes = np.array([self._first(answer) for answer in answers])  # type: ignore[arg-type]
        report(len(exchanges))
        return yes.reshape(len(exchanges), -1, 2)

    def _first(self, choices: Choices) -> float:
        """Return the first option's share of a one-token answer."""
        listed = (_logprobs(choices[0]) or [{}])[0].get("top_logprobs") or []
        probability = {candidate["token"]: float(np.exp(candidate["logprob"])) for candidate in listed}
        return read_answer(probability, self.options, unlisted=min(probability.values(), default=0.0))


async def _ask_all(spec: ModelSpec, bodies: Sequence[Mapping[str, Any]], report: Report) -> list[Choices | Failure]:
    """Answer every request, in order."""
    openai = require("openai", extra="openai")
    assert spec.server is not None  # ModelSpec sees to it
    slots = asyncio.Semaphore(spec.server.concurrency)
    client = openai.AsyncOpenAI(
        base_url=spec.server.url,
        api_key=os.environ.get(spec.server.key_variable) or "none",
        timeout=spec.server.timeout_seconds,
        max_retries=spec.server.retries,
    )

    async def ask(body: Mapping[str, Any]) -> Choices | Failure:
        async with slots:
            answer = await _ask(openai, client, spec, body)
        report(1)
        return answer

    async with client:
        return list(await asyncio.gather(*(ask(body) for body in bodies)))


async def _ask(openai: Any, client: Any, spec: ModelSpec, body: Mapping[str, Any]) -> Choices | Failure:
    """Return the server's answer as JSON values, or why there is none.

    Raises:
        UserError: the server cannot be reached, or does not know the model or the key.
    """
    assert spec.server is not None
    try:
        raw = await client.chat.completions.with_raw_response.create(model=spec.model, **body)
        return _choices(json.loads(raw.text), body.get("n", 1))
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
        raise UserError(
            f"{spec.server.url} refuses the model {spec.model}: {_message(error)}. Check the model's name on the "
            f"server, and the key in {spec.server.key_variable}."
        ) from error
    except openai.APIStatusError as error:
        text = _message(error)
        too_long = error.status_code in (400, 413, 422) and "context" in text.lower()
        return Failure("context-too-long" if too_long else "engine-error", f"{error.status_code}: {text}")
    except openai.APITimeoutError:
        return Failure("engine-error", f"no answer within {spec.server.timeout_seconds:g} s")
    except openai.APIConnectionError as error:
        raise UserError(
            f"The server at {spec.server.url} cannot be reached, or cuts its answers: {error.__cause__ or error}. "
            "Start it again, and run the same command again to go on."
        ) from error
    except ValueError as error:
        return Failure("engine-error", f"the server's answer cannot be read: {error}")


def _message(error: Any) -> str:
    """Return what the server says of an error, in one short line."""
    return " ".join(str(error.message).split())[:300]


def _choices(answer: Any, count: int) -> Choices:
    """Return the choices of an answer.

    Raises:
        ValueError: it is not a chat completion with `count` texts.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != count:
        raise ValueError(f"expected {count} choices, got {len(choices) if isinstance(choices, list) else answer!r}")
    choices = sorted(choices, key=lambda choice: choice["index"])
    if not all(isinstance(choice["message"]["content"], str) for choice in choices):
        raise ValueError("a choice has no text")
    return choices


def _logprobs(choice: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the log-probabilities of a choice's tokens, if the server gives them."""
    return (choice.get("logprobs") or {}).get("content")


def _responses(choices: Choices | Failure, seeds: Sequence[int]) -> list[Response] | Failure:
    if isinstance(choices, Failure):
        return choices
    if any(_logprobs(choice) is None for choice in choices):
        return Failure("engine-error", "the server gives no log-probabilities; start it so that it does")
    return [_response(choice, seed) for choice, seed in zip(choices, seeds, strict=True)]


def _response(choice: Mapping[str, Any], seed: int) -> Response:
    tokens = [token["logprob"] for token in _logprobs(choice) or ()]
    total = float(sum(tokens))
    mean = total / len(tokens) if tokens else None
    reason: Literal["stop", "length"] = "length" if choice["finish_reason"] == "length" else "stop"
    return Response(choice["message"]["content"].strip(), len(tokens), total if tokens else None, mean, reason, seed)
