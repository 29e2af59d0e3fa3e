"""The engine of tests: deterministic fakes of every model, which need nothing and answer at once."""

from collections.abc import Sequence

import numpy as np

from udasa.adapters import find_adapter
from udasa.backends import (
    MEMBERS,
    TRUTH,
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
    Sampling,
    ignore,
)
from udasa.digests import stable_hash


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


def make_sampler(spec: ModelSpec, sampling: Sampling) -> FakeSampler:
    """Return the fake sampler."""
    return FakeSampler(sampling)


def make_entailer(spec: ModelSpec, kind: Kind, same_meaning: float, runtime: Runtime = "torch") -> FakeEntailer:
    """Return the fake entailer."""
    return FakeEntailer()


def make_judge(spec: ModelSpec, principles: Sequence[Principle]) -> FakeJudge:
    """Return the fake judge."""
    return FakeJudge(principles)


def make_truth_judge(spec: ModelSpec, share: Judge | None) -> FakeJudge:
    """Return the fake judge of truth."""
    return FakeJudge((TRUTH,))


def make_trained_judge(spec: ModelSpec) -> FakeJudge:
    """Return the fake judge with the members of a trained one."""
    return FakeJudge([Principle(id=member, question="") for member in MEMBERS])


def identity(spec: ModelSpec) -> Identity:
    """Return the name of the fake, and the adapter that it is given and does not use."""
    fake, adapter = Identity(model=spec.model, revision=None, origin="fake", sha256=None), find_adapter(spec)
    return fake if adapter is None else {**fake, "adapter": adapter.identity}


def trained_identity(spec: ModelSpec) -> Identity:
    """Return the same."""
    return identity(spec)


def placement(spec: ModelSpec) -> str:
    """Return the same on every machine."""
    return "fake"
