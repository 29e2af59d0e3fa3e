"""Answers of two models to the same prompts, and a judge -> wins in both orders; with answers of equal length, too.

referee = appoint(spec, baseline={"q1": "Try the stairs."}, evaluated=identity, builders={"judge": identity})
referee({"q1": "How do I get fit?"}, {"q1": "Run."}) -> {"q1": {"win": 0.5, "agreed": 0.0, "unread": 0.0}}

The judge reads a question of its own, never a constitution, and may be neither the model under test nor one that built
its training pairs: such a judge scores how well its own taste was learned.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from udasa.backends import Failure, Identity, Message, ModelSpec, Sampler, Sampling, identity, make_sampler
from udasa.digests import stable_hash
from udasa.errors import UserError

Verdict = Literal["A", "B", "tie"]

_QUESTION = (
    "A user wrote a prompt and two assistants answered it. Decide which answer serves the user better: it should do "
    "what the prompt asks, be correct, and leave out what the user does not need. Neither the order of the answers nor "
    "their length counts.\n\n[Prompt]\n{prompt}\n\n[Answer A]\n{a}\n\n[Answer B]\n{b}\n\n"
    "Which answer is better? Reply with one word: A, B or tie."
)
_WORD = re.compile(r"\b(A|B|[Tt]ie|TIE)\b")
_SAMPLING = Sampling(temperature=0.01, max_new_tokens=16)
"""Close to greedy, on every engine."""


class Referee(NamedTuple):
    """A judge and the answers that it compares with."""

    name: str
    load: Callable[[], Sampler]
    """Called when the answers are there, so that the judge and the model under test need not be loaded at once."""
    baseline: Mapping[str, str]
    """The other answers, by document."""

    def __call__(self, prompts: Mapping[str, str], answers: Mapping[str, str]) -> dict[str, dict[str, float]]:
        """Return of each document win (1, 0, or 0.5 for a tie), agreed and unread.

        Each pair is asked in both orders. Orders that disagree are a tie. `unread`: the share of the two replies
        without a verdict; one is enough for the document to have no win.
        """
        keys = sorted(key for key in prompts if key in self.baseline)
        questions = [
            [Message(role="user", content=_QUESTION.format(prompt=prompts[key], a=a, b=b))]
            for key in keys
            for a, b in ((answers[key], self.baseline[key]), (self.baseline[key], answers[key]))
        ]
        seeds = [[stable_hash("referee", question[0]["content"])] for question in questions]
        replies = self.load().sample(questions, seeds)
        read = [None if isinstance(reply, Failure) else verdict(reply[0].text) for reply in replies]
        return {key: outcome(read[2 * i], read[2 * i + 1]) for i, key in enumerate(keys)}


def verdict(text: str) -> Verdict | None:
    """Return the verdict of a reply: its one different word among A, B and tie; None where it has none or several."""
    found = {word.lower() if word.lower() == "tie" else word for word in _WORD.findall(text)}
    return found.pop() if len(found) == 1 else None


def outcome(first: Verdict | None, second: Verdict | None) -> dict[str, float]:
    """Return what two verdicts mean; the answer under test is A in the first and B in the second."""
    unread = ((first is None) + (second is None)) / 2
    if unread:
        return {"unread": unread}
    own, other = {"A": 1.0, "B": 0.0, "tie": 0.5}[first or ""], {"A": 0.0, "B": 1.0, "tie": 0.5}[second or ""]
    return {"win": own if own == other else 0.5, "agreed": float(own == other), "unread": 0.0}


def appoint(
    spec: ModelSpec,
    baseline: Mapping[str, str],
    evaluated: Mapping[str, object],
    builders: Mapping[str, Mapping[str, object]],
) -> Referee:
    """Name a judge that has no part in what it judges.

    Args:
        spec: the judge; any engine of `udasa.backends`.
        baseline: answers to compare with, by document.
        evaluated: identity of the model under test.
        builders: identities of the models that built its training pairs, by role.

    Raises:
        UserError: the judge is one of these.
    """
    own = identity(spec)
    for role, other in {"model under test": evaluated, **builders}.items():
        if same_weights(own, other):
            raise UserError(
                f"{spec.model} cannot judge this evaluation: it is the {role}. A model that helped to make what it "
                "judges scores how well its own taste was learned. Name a judge of another family."
            )
    return Referee(spec.model, partial(make_sampler, spec, _SAMPLING), baseline)


def same_weights(one: Identity | Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Say whether two identities are of one model: the same digest, or the same name where a digest is missing."""
    digests = one.get("sha256"), other.get("sha256")
    return digests[0] == digests[1] if all(digests) else one.get("model") == other.get("model")


def lc_win(documents: Sequence[Sequence[float]]) -> float:
    """Return the win rate at equal length, 0 .. 1; of each document (win, characters more than the baseline's answer).

    A logistic regression of the win on tanh(length difference / its standard deviation), the rate being its value at
    a difference of 0 (as length-controlled AlpacaEval 2, Dubois et al. 2024, without its terms of models and prompts).
    A slight ridge (1) on the slope alone keeps it finite.
    """
    table = np.array([list(document) for document in documents], dtype=np.float64)
    win, difference = table[:, 0], table[:, 1]
    spread = difference.std()
    slope_of = np.tanh(difference / spread) if spread > 0 else np.zeros(len(win))
    features = np.stack([np.ones(len(win)), slope_of], axis=1)
    ridge = np.array([1e-6, 1.0])
    weights = np.zeros(2)
    for _ in range(50):  # Newton's steps; the loss is convex
        p = 1.0 / (1.0 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (p - win) + ridge * weights
        step = np.linalg.solve((features * (p * (1 - p))[:, None]).T @ features + np.diag(ridge), gradient)
        weights -= np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-10:
            break
    return float(1.0 / (1.0 + np.exp(-weights[0])))
