"""What a model must do for udasa: `Sampler`, `Entailer`, `Judge`; how one is named; and deterministic fakes for tests.

sampler.sample([[{"role": "user", "content": "Hi"}]], seeds=[[7, 8]])
-> [[Response(text="Hello!", num_tokens=2, ...), Response(text="Hi there.", ...)]]
"""

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from udasa.errors import UserError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Settings refuse unknown fields, NaN and infinity, and do not coerce types."""

Floats = NDArray[np.float64]
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


class Failure(NamedTuple):
    """Why a prompt has no responses, after the engine's own retries."""

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
    """Largest number of padded tokens in one forward pass."""

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


class Judge(Protocol):
    """Answers each principle of a constitution about a response."""

    def judge(self, exchanges: Sequence[Exchange], report: Report = ...) -> Floats:
        """Return P(yes), yes being acceptable, shape (n, principles, 2): yes named first, then named second."""
        ...


def ignore(_: int) -> None:
    """Report to nobody."""


def make_sampler(spec: ModelSpec, sampling: Sampling) -> Sampler:
    """Load the sampler that `spec` names."""
    sampler: Sampler = _engine(spec)["make_sampler"](spec, sampling)
    return sampler


def make_entailer(
    spec: ModelSpec, kind: Literal["nli", "similarity"], same_meaning: float, runtime: Runtime = "torch"
) -> Entailer:
    """Load the entailer that `spec` names."""
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
    if spec.backend == "fake":
        return _FAKES
    return vars(importlib.import_module(f"udasa.backends_{spec.backend}"))


def _encoders(spec: ModelSpec) -> Mapping[str, Any]:
    """Return the engine of a trained judge; the others run language models only."""
    if spec.backend not in ("hf", "fake"):
        raise UserError(
            f"The trained judge {spec.model} cannot run on the backend '{spec.backend}'; set its backend to 'hf'."
        )
    return _engine(spec)


def stable_hash(*parts: object) -> int:
    """Return 63 bits of SHA-256 over the parts: the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class FakeSampler:
    """Responses made of a few words, chosen by the seed alone: for tests of everything but the model."""

    WORDS = ("yes", "no", "perhaps", "it depends", "I am sure", "nobody knows", "ask again")

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling

    def sample(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]], report: Report = ignore
    ) -> list[list[Response]]:
        """See `Sampler.sample`."""
        drawn = []
        for messages, row in zip(prompts, seeds, strict=True):
            drawn.append([self._one(messages[-1]["content"], seed) for seed in row])
            report(1)
        return drawn

    def _one(self, prompt: str, seed: int) -> Response:
        rng = np.random.default_rng(stable_hash(prompt, seed))
        num_tokens = int(rng.integers(1, 4))
        text = ", ".join(rng.choice(self.WORDS, size=num_tokens)).capitalize() + "."
        logprob = float(-num_tokens * rng.uniform(0.1, 2.0))
        return Response(text, num_tokens, logprob, logprob / num_tokens, "stop", seed)


class FakeEntailer:
    """Entailment by shared words: the share of the hypothesis's words that the premise has."""

    def entail(self, pairs: Sequence[tuple[str, str]], report: Report = ignore) -> Floats:
        """See `Entailer.entail`."""
        shares = [self._share(premise, hypothesis) for premise, hypothesis in pairs]
        report(len(pairs))
        return np.array([[s, (1 - s) / 2, (1 - s) / 2] for s in shares], dtype=np.float64).reshape(-1, 3)

    @staticmethod
    def _share(premise: str, hypothesis: str) -> float:
        words = set(hypothesis.lower().split())
        return len(words & set(premise.lower().split())) / len(words) if words else 1.0


class FakeJudge:
    """P(acceptable) from a hash of the response and the principle."""

    def __init__(self, principles: Sequence[Principle]) -> None:
        self.principles = principles

    def judge(self, exchanges: Sequence[Exchange], report: Report = ignore) -> Floats:
        """See `Judge.judge`."""
        p = [
            [[(stable_hash(e.response, z.id, order) % 999 + 1) / 1000 for order in (0, 1)] for z in self.principles]
            for e in exchanges
        ]
        report(len(exchanges))
        return np.array(p, dtype=np.float64).reshape(len(exchanges), len(self.principles), 2)


def _fake_entailer(spec: ModelSpec, kind: str, same_meaning: float, runtime: Runtime) -> FakeEntailer:
    return FakeEntailer()


def _fake_judge(spec: ModelSpec, principles: Sequence[Principle]) -> FakeJudge:
    return FakeJudge(principles)


def _fake_truth_judge(spec: ModelSpec, share: Judge | None) -> FakeJudge:
    return FakeJudge((TRUTH,))


def _fake_trained_judge(spec: ModelSpec) -> FakeJudge:
    return FakeJudge([Principle(id=member, question="") for member in MEMBERS])


def _fake_sampler(spec: ModelSpec, sampling: Sampling) -> FakeSampler:
    return FakeSampler(sampling)


def _fake_identity(spec: ModelSpec) -> Identity:
    return Identity(model=spec.model, revision=None, origin="fake", sha256=None)


def _fake_placement(spec: ModelSpec) -> str:
    return "fake"


_FAKES: Mapping[str, Any] = {
    "make_sampler": _fake_sampler,
    "make_entailer": _fake_entailer,
    "make_judge": _fake_judge,
    "make_truth_judge": _fake_truth_judge,
    "make_trained_judge": _fake_trained_judge,
    "trained_identity": _fake_identity,
    "identity": _fake_identity,
    "placement": _fake_placement,
}


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


def read_answer(probability: Mapping[str, float], options: tuple[str, str] = OPTIONS, unlisted: float = 0.0) -> float:
    """Return the first option's share of the two options' probability, from the next token's probabilities.

    Args:
        probability: of each token that the engine lists, by its text.
        options: the two answers.
        unlisted: the most that a token can have which the engine does not list.

    Raises:
        UserError: neither has any probability, or the one that is not listed could change the answer by over 0.01.
    """
    first, second = (probability.get(option, 0.0) for option in options)
    if first + second <= 0:
        raise UserError(
            f"The judge gives no probability to either {' or '.join(options)}. "
            f"Use a judge model that can answer a question with {' or '.join(options)}."
        )
    if min(first, second) == 0 and unlisted / (first + second + unlisted) > _UNLISTED:
        missing = options[0] if first == 0 else options[1]
        raise UserError(
            f"The engine lists only the likeliest next tokens, and '{missing}' is not among them, though it may have a "
            f"probability of up to {unlisted:.2g} beside {first + second:.2g}. Use a judge that answers with "
            f"{' or '.join(options)}, or the backend 'hf', which reads every token."
        )
    return first / (first + second)
