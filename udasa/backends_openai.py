"""The engine of any OpenAI-compatible server (vLLM, SGLang, llama.cpp, TGI): sampler and judge over chat completions.

A request asks for K choices of one prompt, or for one token of a judge's answer. The official client sends them,
with its own retries (429, 5xx, lost connections; it heeds Retry-After) and time limits; at most `concurrency` are
under way at once. What is still refused after them is a `Failure` of that one row, with the reason.

Log-probabilities must be those of the model at temperature 1: vLLM and SGLang report them so by default.
"""

import asyncio
import json
import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from udasa.backends import (
    NLI_OPTIONS,
    NLI_QUESTION,
    OPTIONS,
    TRUTH,
    TRUTH_OPTIONS,
    Entailer,
    Exchange,
    Failure,
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
    stop_place,
)
from udasa.digests import stable_hash
from udasa.errors import UserError, require
from udasa.memory import Replies

_TOP = 20
"""Next-token candidates in which the judge's options are looked for: the most that servers allow."""

Choices = list[dict[str, Any]]
"""The `choices` of a chat completion."""
Read = Callable[[Choices], Any]
"""Choices -> what is wanted of them, as JSON has it; a ValueError says that they cannot be read."""


def make_sampler(spec: ModelSpec, sampling: Sampling) -> Sampler:
    """Return a sampler that asks the server."""
    return OpenAISampler(spec, sampling)


def make_judge(spec: ModelSpec, principles: Sequence[Principle]) -> Judge:
    """Return a judge that asks the server."""
    return OpenAIJudge(spec, principles, OPTIONS)


def make_truth_judge(spec: ModelSpec, share: Judge | None) -> Judge:
    """Return the judge that answers true or false; a server shares its weights by itself."""
    return OpenAIJudge(spec, (TRUTH,), TRUTH_OPTIONS)


def make_entailer(spec: ModelSpec, kind: Kind, same_meaning: float, runtime: Runtime = "torch") -> Entailer:
    """Return an entailer that asks the server's language model."""
    return OpenAIPromptedEntailer(spec)


def identity(spec: ModelSpec) -> Identity:
    """Return the name that the server knows the model by; a server does not say which weights it holds."""
    return Identity(model=spec.model, revision=spec.revision, origin="OpenAI-compatible server", sha256=None)


def placement(spec: ModelSpec) -> str:
    """Return the server's address: what runs there is not known."""
    assert spec.server is not None
    return spec.server.url


class _Client:
    """Puts requests to a server, each once if it remembers."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.replies: Replies | None = None

    def remember(self, path: Path) -> None:
        """See `Remembering.remember`."""
        self.replies = Replies(path)

    def ask(self, bodies: Sequence[Mapping[str, Any]], read: Read, report: Report) -> list[Any]:
        """Return what `read` makes of each answer, in order, or the `Failure`; what is remembered is not asked."""
        assert self.spec.server is not None  # ModelSpec sees to it
        about = {"url": self.spec.server.url, "model": self.spec.model}
        keys = [json.dumps({**about, **body}, sort_keys=True) for body in bodies]
        requests = dict(zip(keys, bodies, strict=True))
        found = self.replies.find(requests) if self.replies is not None else {}
        report(len(found))
        new = {request: body for request, body in requests.items() if request not in found}

        def keep(request: str, reply: Any) -> None:
            if self.replies is not None and not isinstance(reply, Failure):
                self.replies.add(request, reply)
            found[request] = reply
            report(1)

        asyncio.run(_ask_all(self.spec, new, read, keep))
        return [found[key] for key in keys]


class OpenAISampler(_Client):
    """Samples K responses a prompt in one request; its seed is a hash of the K seeds."""

    def __init__(self, spec: ModelSpec, sampling: Sampling) -> None:
        super().__init__(spec)
        self.sampling = sampling

    def sample(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]], report: Report = ignore
    ) -> list[list[Response] | Failure]:
        """See `Sampler.sample`."""
        bodies = [self._body(messages, row) for messages, row in zip(prompts, seeds, strict=True)]
        answers = self.ask(bodies, self._read, report)
        return [
            answer
            if isinstance(answer, Failure)
            else [Response._make([*one, seed]) for one, seed in zip(answer, row, strict=True)]
            for answer, row in zip(answers, seeds, strict=True)
        ]

    def _read(self, choices: Choices) -> list[tuple[Any, ...]]:
        """Return the responses without their seeds."""
        return [_response(choice, self.sampling.stop)[:-1] for choice in choices]

    def _body(self, messages: Sequence[Message], seeds: Sequence[int]) -> dict[str, Any]:
        return {
            "messages": [dict(message) for message in messages],
            "n": len(seeds),
            "seed": stable_hash("openai", *seeds) % 2**31,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_new_tokens,
            "logprobs": True,
            **({"stop": list(self.sampling.stop)} if self.sampling.stop else {}),
        }


class _Reader(_Client):
    """Asks for one token, and reads the options' probabilities."""

    def __init__(self, spec: ModelSpec, options: Sequence[str]) -> None:
        super().__init__(spec)
        self.options = options

    def shares(self, texts: Sequence[str], report: Report = ignore) -> list[list[float] | Failure]:
        """Return each option's share of the options' probability, or why a text has no answer."""
        bodies = [
            {
                "messages": [{"role": "user", "content": text}],
                "temperature": 0.0,
                "max_tokens": 1,
                "logprobs": True,
                "top_logprobs": _TOP,
            }
            for text in texts
        ]
        return self.ask(bodies, self._read, report)

    def _read(self, choices: Choices) -> list[float]:
        listed = (_logprobs(choices[0]) or [{}])[0].get("top_logprobs") or []
        probability = {candidate["token"]: float(np.exp(candidate["logprob"])) for candidate in listed}
        return read_answer(probability, self.options, unlisted=min(probability.values(), default=0.0))


class OpenAIJudge(_Reader):
    """Reads a constitution, in both option orders."""

    def __init__(self, spec: ModelSpec, principles: Sequence[Principle], options: tuple[str, str]) -> None:
        super().__init__(spec, options)
        self.questions = judge_questions(principles, options)

    def judge(self, exchanges: Sequence[Exchange], report: Report = ignore) -> list[Floats | Failure]:
        """See `Judge.judge`."""
        texts = [judge_context(exchange) + question for exchange in exchanges for question in self.questions]
        answers = iter(self.shares(texts))
        report(len(exchanges))
        return [self._judgement([next(answers) for _ in self.questions]) for _ in exchanges]

    @staticmethod
    def _judgement(answers: Sequence[list[float] | Failure]) -> Floats | Failure:
        """Return what the answers say of one exchange; one that is missing leaves it without a judgement."""
        for answer in answers:
            if isinstance(answer, Failure):
                return answer
        return np.array([answer[0] for answer in answers], dtype=np.float64).reshape(-1, 2)


class OpenAIPromptedEntailer(_Reader):
    """Asks whether one text follows from another."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, NLI_OPTIONS)

    def entail(self, pairs: Sequence[tuple[str, str]], report: Report = ignore) -> Floats:
        """See `Entailer.entail`.

        Raises:
            UserError: a question was not answered.
        """
        answers = self.shares([nli_context(*pair) + NLI_QUESTION for pair in pairs], report)
        if failed := [answer for answer in answers if isinstance(answer, Failure)]:
            raise UserError(
                f"The entailer {self.spec.model} did not answer {len(failed)} of {len(answers)} questions; the first: "
                f"{failed[0].detail}. Mend the server, and run the same command again: only these are asked again."
            )
        return np.array(answers, dtype=np.float64).reshape(len(pairs), 3)


async def _ask_all(
    spec: ModelSpec, requests: Mapping[str, Mapping[str, Any]], read: Read, keep: Callable[[str, Any], None]
) -> None:
    """Answer every request; `keep` gets each answer as it comes."""
    openai = require("openai", extra="openai")
    assert spec.server is not None
    slots = asyncio.Semaphore(spec.server.concurrency)
    client = openai.AsyncOpenAI(
        base_url=spec.server.url,
        api_key=os.environ.get(spec.server.key_variable) or "none",
        timeout=spec.server.timeout_seconds,
        max_retries=spec.server.retries,
    )

    async def ask(request: str, body: Mapping[str, Any]) -> None:
        async with slots:
            keep(request, await _ask(openai, client, spec, body, read))

    async with client:
        await asyncio.gather(*(ask(request, body) for request, body in requests.items()))


async def _ask(openai: Any, client: Any, spec: ModelSpec, body: Mapping[str, Any], read: Read) -> Any:
    """Return what `read` makes of the server's answer, or why there is none.

    Raises:
        UserError: the server cannot be reached, or does not know the model or the key.
    """
    assert spec.server is not None
    try:
        raw = await client.chat.completions.with_raw_response.create(model=spec.model, **body)
        return read(_choices(json.loads(raw.text), body.get("n", 1)))
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


def _response(choice: Mapping[str, Any], stop: Sequence[str]) -> Response:
    """Return a choice as a response; a server may list the tokens of a stop text that it has cut off.

    Raises:
        ValueError: it lists no token.
    """
    tokens = _logprobs(choice)
    if tokens is None:
        raise ValueError("the server gives no log-probabilities; start it so that it does")
    pieces = [bytes(token.get("bytes") or token["token"].encode()) for token in tokens]
    whole = b"".join(pieces)
    places = [place for one in stop if (place := whole.find(one.encode())) >= 0]
    kept = bisect_left(list(accumulate(map(len, pieces), initial=0)), min(places)) if places else len(tokens)
    text, cut = choice["message"]["content"], choice["finish_reason"] == "length"
    return make_response(text[: stop_place(text, stop)], [t["logprob"] for t in tokens[:kept]], 0, cut=cut)
