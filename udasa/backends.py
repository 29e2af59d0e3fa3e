"""What a model must do for udasa: `Sampler`, `Entailer`, `Judge`; how one is named; and what is asked of it.

An engine is a module `udasa.backends_<name>`; `udasa.backends_fake` has deterministic fakes, for your own tests too.

sampler.sample([[{"role": "user", "content": "Hi"}]], seeds=[[7, 8]])
-> [[Response(text="Hello!", num_tokens=2, ...), Response(text="Hi there.", ...)]]
"""

import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from udasa.errors import UserError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Settings refuse unknown fields, NaN and infinity, and do not coerce types."""

Floats = NDArray[np.float64]
Kind = Literal["nli", "similarity", "prompted"]
"""What compares texts: an NLI cross-encoder, a sentence embedder, or a language model that is asked."""
Runtime = Literal["torch", "onnx-int8"]
"""What runs an entailer: torch, or ONNX Runtime on weights of 8 bits."""
Report = Callable[[int], None]
"""Called with the number of items just finished."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class Identity(TypedDict):
    """Which weights were really loaded: a Hub revision, or the sha256 of local or packaged files."""

    model: str
    revision: str | None
    origin: str
    sha256: str | None
    adapter: NotRequired["Identity"]
    """Which adapter is on it; absent without one."""


class Response(NamedTuple):
    """One sampled response; log-probabilities in nats, of the model at temperature 1."""

    text: str
    num_tokens: int
    logprob_sum: float | None
    logprob_mean: float | None
    finish_reason: Literal["stop", "length"]
    seed: int


def make_response(text: str, logprobs: Sequence[float], seed: int, *, cut: bool = False) -> Response:
    """Return the response whose tokens have these log-probabilities; `cut`: it reached the limit."""
    total = math.fsum(logprobs) if len(logprobs) else None
    mean = None if total is None else total / len(logprobs)
    return Response(text.strip(), len(logprobs), total, mean, "length" if cut else "stop", seed)


def stop_place(text: str, stop: Sequence[str]) -> int | None:
    """Return where the first of the stop texts begins; None: the text has none of them."""
    return min((place for one in stop if (place := text.find(one)) >= 0), default=None)


class Failure(NamedTuple):
    """Why there is no answer, after the engine's own retries."""

    reason: Literal["context-too-long", "engine-error"]
    detail: str


class Exchange(NamedTuple):
    """A prompt with one response, as a judge reads it."""

    messages: Sequence[Message]
    response: str


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Server:
    """An OpenAI-compatible server, and how it is asked."""

    url: str
    """Its address, up to and with `/v1`."""
    concurrency: int = 32
    """Requests under way at once."""
    timeout_seconds: float = 600.0
    """Longest wait for one answer."""
    retries: int = 5
    """How often a refused (429, 5xx) or lost request is sent again, with growing pauses."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; servers without keys need none."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got '{self.url}'.")
        if min(self.concurrency, self.timeout_seconds) <= 0 or self.retries < 0:
            raise ValueError("concurrency and timeout_seconds must be above 0, and retries 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ModelSpec:
    """Which weights, and which engine runs them."""

    model: str
    """Hub id (`org/name`) or a local folder."""
    revision: str | None = None
    """Full commit sha on the Hub; None for a local folder."""
    package: str | None = None
    """`module:path` inside an installed package that carries the same model; used when it is installed."""
    adapter: str | None = None
    """A PEFT adapter on the model: a folder or Hub id; for the backends `hf` and `vllm`."""
    adapter_revision: str | None = None
    """Full commit sha of an adapter on the Hub; None for a local folder."""
    backend: Literal["hf", "openai", "vllm", "fake"] = "hf"
    """The engine."""
    server: Server | None = None
    """Where the model is served; for the backend `openai`, and only for it."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: float32 on a CPU, bfloat16 on a GPU."""
    batch_tokens: int = 4096
    """Largest number of padded tokens in one forward pass; a cache may hold four times as many."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {self.batch_tokens}.")
        if (self.backend == "openai") != (self.server is not None):
            raise ValueError("server belongs to backend='openai', and only to it.")
        if self.adapter is None and self.adapter_revision is not None:
            raise ValueError("adapter_revision belongs to an adapter; give that too.")
        if self.adapter is not None and self.backend == "openai":
            raise ValueError(
                f"a server holds its adapters itself: load {self.adapter} there, give the name under which it is "
                "served as model, and leave adapter out."
            )


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Sampling:
    """How responses are drawn."""

    k: int = 8
    """Responses per prompt."""
    temperature: float = 1.0
    """Divides the logits before sampling; log-probabilities are kept at 1."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens with at least this probability."""
    max_new_tokens: int = 256
    """A response that reaches it has finish_reason `length`."""
    stop: tuple[str, ...] = ()
    """Texts that end a response; they are cut off, and the log-probabilities of their tokens with them."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.k < 2:
            raise ValueError(f"k must be at least 2 to measure disagreement, got {self.k}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0 to sample different responses, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        if "" in self.stop:
            raise ValueError("a stop text must not be empty: it would end every response at once.")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Principle:
    """One line of a constitution: a yes/no question about a reply, where yes is acceptable."""

    id: str
    question: str


class Sampler(Protocol):
    """Draws responses."""

    def sample(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]], report: Report = ...
    ) -> Sequence[list[Response] | Failure]:
        """Return, for each prompt, one response per seed, in the order of the seeds; or why there are none.

        A response depends on its prompt and seed, not on what else is in the batch (up to float order).
        """
        ...


class Entailer(Protocol):
    """Says whether one text entails another."""

    def entail(self, pairs: Sequence[tuple[str, str]], report: Report = ...) -> Floats:
        """Return P(entailment), P(neutral), P(contradiction) of (premise, hypothesis), shape (n, 3), rows sum to 1."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """An entailer that also has sentence embeddings: then EigenScore can be computed."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return an embedding of each text, shape (n, width)."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A model far away, that can keep what it is told in a file and then does not ask for it again."""

    def remember(self, path: Path) -> None:
        """Keep the answers in the file at `path` (see `udasa.memory.Replies`), and take from it those that it has."""
        ...


class Judge(Protocol):
    """Answers each principle of a constitution about a response."""

    def judge(self, exchanges: Sequence[Exchange], report: Report = ...) -> Iterable[Floats | Failure]:
        """Return P(yes) of each exchange, yes being acceptable, or why there is no answer about it.

        Shape (principles, 2): yes named first, then named second. An array (n, principles, 2) is such answers.
        """
        ...


def all_answered(judgements: Iterable[Floats | Failure]) -> Floats:
    """Return the judge's answers, shape (n, principles, 2).

    Raises:
        UserError: one is missing.
    """
    found = list(judgements)
    if failed := [one for one in found if isinstance(one, Failure)]:
        raise UserError(
            f"The judge did not answer about {len(failed)} of {len(found)} replies; the first: {failed[0].detail}. "
            "Mend the engine, or use a judge that answers."
        )
    return np.array(found, dtype=np.float64)


def ignore(_: int) -> None:
    """Report to nobody."""


def make_sampler(spec: ModelSpec, sampling: Sampling) -> Sampler:
    """Load the sampler that `spec` names."""
    sampler: Sampler = _engine(spec)["make_sampler"](spec, sampling)
    return sampler


def make_entailer(spec: ModelSpec, kind: Kind, same_meaning: float, runtime: Runtime = "torch") -> Entailer:
    """Load the entailer that `spec` names.

    Raises:
        UserError: an encoder is to run on an engine for language models.
    """
    if kind != "prompted":
        _encoders(spec)
    entailer: Entailer = _engine(spec)["make_entailer"](spec, kind, same_meaning, runtime)
    return entailer


def make_judge(spec: ModelSpec, principles: Sequence[Principle]) -> Judge:
    """Load the judge that `spec` names."""
    judge: Judge = _engine(spec)["make_judge"](spec, principles)
    return judge


def make_truth_judge(spec: ModelSpec, share: Judge | None) -> Judge:
    """Load the judge that answers `TRUTH`, shape (n, 1, 2); it uses the weights of `share` where these are the same."""
    judge: Judge = _engine(spec)["make_truth_judge"](spec, share)
    return judge


def make_trained_judge(spec: ModelSpec) -> Judge:
    """Load the judge that `udasa judge train` wrote: `MEMBERS` in the place of principles, both orders equal."""
    judge: Judge = _encoders(spec)["make_trained_judge"](spec)
    return judge


def trained_identity(spec: ModelSpec) -> Identity:
    """Say which trained judge `spec` means on this machine.

    Raises:
        UserError: it means none; said before anything runs, and without loading the encoder.
    """
    found: Identity = _encoders(spec)["trained_identity"](spec)
    return found


def identity(spec: ModelSpec) -> Identity:
    """Say which weights `spec` means on this machine."""
    found: Identity = _engine(spec)["identity"](spec)
    return found


def placement(spec: ModelSpec) -> str:
    """Say where and in which precision `spec` runs on this machine, and on which version of its engine."""
    found: str = _engine(spec)["placement"](spec)
    return found


def _engine(spec: ModelSpec) -> Mapping[str, Any]:
    return vars(importlib.import_module(f"udasa.backends_{spec.backend}"))


def _encoders(spec: ModelSpec) -> Mapping[str, Any]:
    """Return the engine of an encoder; the others run language models only."""
    if spec.backend not in ("hf", "fake"):
        raise UserError(
            f"The encoder {spec.model} cannot run on the backend '{spec.backend}'; set its backend to 'hf'."
        )
    return _engine(spec)


_UNLISTED = 0.01
"""The error of an answer that is allowed to come from an engine's short list of next tokens."""

OPTIONS = ("Yes", "No")
"""What a judge answers with; yes is acceptable. Words, since small models hardly tell the letters of a list apart."""
TRUTH = Principle(id="true", question="Is what the reply states true?")
TRUTH_OPTIONS = ("True", "False")
"""P(True) asks the policy itself about its own response (Kadavath et al. 2022; the words in place of their letters)."""
MEMBERS = tuple(f"member-{i}" for i in range(10))
"""The ids of a trained judge's members, in the order of its answers."""


def judge_context(exchange: Exchange) -> str:
    """Return what a judge reads before the question: the prompt without system turns, and the reply."""
    prompt = "\n".join(m["content"] for m in exchange.messages if m["role"] != "system")
    return f"Read this exchange.\n\nPrompt: {prompt}\nReply: {exchange.response}\n\n"


def judge_questions(principles: Sequence[Principle], options: tuple[str, str] = OPTIONS) -> list[str]:
    """Return two questions a principle: the first option named first, then named second."""
    return [
        f"Question: {principle.question} Answer with {first} or {second}."
        for principle in principles
        for first, second in (options, options[::-1])
    ]


NLI_OPTIONS = ("Yes", "Maybe", "No")
"""What a language model answers with as an entailer: entailment, neutral, contradiction."""
NLI_QUESTION = (
    "Question: If the first text is true, is the second one true as well? "
    "Answer with Yes (it follows), Maybe (it is left open) or No (it cannot be)."
)


def nli_context(premise: str, hypothesis: str) -> str:
    """Return what a language model reads before `NLI_QUESTION`."""
    return f"Read these two texts.\n\nFirst text: {premise}\nSecond text: {hypothesis}\n\n"


def read_answer(probability: Mapping[str, float], options: Sequence[str], unlisted: float = 0.0) -> list[float]:
    """Return each option's share of the options' probability, from the next token's probabilities.

    Args:
        probability: of each token that the engine lists, by its text.
        options: the answers.
        unlisted: the most that a token can have which the engine does not list.

    Raises:
        UserError: none has any probability, or those that are not listed could change the answer by over 0.01.
    """
    found = [probability.get(option, 0.0) for option in options]
    total, missing = math.fsum(found), [o for o, p in zip(options, found, strict=True) if p == 0]
    named = " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))
    if total <= 0:
        raise UserError(
            f"The model gives no probability to either {named}. Use a model that can answer a question with {named}."
        )
    if missing and len(missing) * unlisted / (total + len(missing) * unlisted) > _UNLISTED:
        raise UserError(
            f"The engine lists only the likeliest next tokens, and '{missing[0]}' is not among them, though it may "
            f"have a probability of up to {unlisted:.2g} beside {total:.2g}. Use a model that answers with {named}, "
            "or the backend 'hf', which reads every token."
        )
    return [p / total for p in found]
