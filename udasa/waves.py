"""K texts a prompt -> semantic sets and semantic entropy, asking only what the clusters need.

semantic_entropies([["Paris.", "It is Paris.", "Lyon."], ["Yes.", "Yes.", "Yes."]], entailer)     # [0.637, 0.0]

Most estimators need every ordered pair of a prompt's texts; clusters alone do not. Each prompt's clustering is a
coroutine that says which pairs it must know next; the next questions of all prompts make one wave, which is asked in
long batches. The reverse of a pair is asked only where the forward direction entails.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from udasa import uncertainty
from udasa.backends import Entailer, Floats
from udasa.memory import Memory, Pair
from udasa.questions import Answers, Asker
from udasa.uncertainty import Ints

Rule = Literal["components", "first-representative"]
Clustering = Generator[list[Pair], Answers, dict[str, int]]
"""Yields the questions to ask next, is sent their answers, and returns the set of each text."""

PROMPTS = 1000
"""Prompts that are clustered at once: it bounds the questions in memory."""


class Clusters(NamedTuple):
    """The semantic sets of many prompts, and what they cost."""

    sets: list[Ints]
    """Per prompt: the set of each text, shape (K,), numbered by first appearance."""
    num_questions: int
    """Questions that were answered."""
    num_waves: int
    """Times that the entailer was turned to."""


def semantic_entropies(
    texts: Sequence[Sequence[str]],
    entailer: Entailer,
    log_likelihoods: Sequence[Floats | None] | None = None,
    *,
    rule: Rule = "components",
    memory: Memory | None = None,
) -> list[float]:
    """Return the semantic entropy of each prompt's K texts, in nats, for texts that you already have.

    `log_likelihoods`: mean token log-probability of each text, in nats, shape (K,) a prompt; None gives the discrete
    form. With a `memory`, what was ever asked is not asked again. See `uncertainty.semantic_entropy`.
    """
    found = semantic_sets(texts, entailer, rule=rule, memory=memory)
    likelihoods = log_likelihoods or [None] * len(texts)
    return [uncertainty.semantic_entropy(s, ll) for s, ll in zip(found.sets, likelihoods, strict=True)]


def semantic_sets(
    texts: Sequence[Sequence[str]], entailer: Entailer, *, rule: Rule = "components", memory: Memory | None = None
) -> Clusters:
    """Return the semantic sets of each prompt's texts; two texts share a meaning if each entails the other.

    `components`: the connected components of that relation, which do not hang on the order of the texts.
    `first-representative`: each text joins the first set whose first text it shares a meaning with, as if they were
    compared one after the other (Kuhn et al. 2023, Farquhar et al. 2024); this hangs on the order.
    """
    asker = Asker(entailer, memory, reuse="pair")
    cluster = {"components": components, "first-representative": first_representative}[rule]
    sets: list[Ints] = []
    num_questions = num_waves = 0
    for start in range(0, len(texts), PROMPTS):
        some = texts[start : start + PROMPTS]
        found = in_waves([cluster(list(dict.fromkeys(one))) for one in some], asker.ask)
        sets += [np.array([of[text] for text in one], dtype=np.int64) for of, one in zip(found.sets, some, strict=True)]
        num_questions += found.num_questions
        num_waves += found.num_waves
    return Clusters(sets, num_questions, num_waves)


class Waves(NamedTuple):
    """What `in_waves` found: the set of each distinct text of each prompt, and what that cost."""

    sets: list[dict[str, int]]
    num_questions: int
    num_waves: int


def in_waves(clusterings: Sequence[Clustering], ask: Callable[[list[Pair]], Answers]) -> Waves:
    """Run all clusterings at once, putting what each wants to know next into one wave."""
    sets: list[dict[str, int]] = [{} for _ in clusterings]
    running = dict(enumerate(clusterings))
    answers: Any = None  # what a coroutine is sent to begin with
    num_questions = num_waves = 0
    while running:
        wave: list[Pair] = []
        for i, clustering in list(running.items()):
            try:
                wave += clustering.send(answers)
            except StopIteration as finished:
                sets[i] = finished.value
                del running[i]
        if wave:
            answers = ask(wave)
            num_questions += len(answers.questions)
            num_waves += 1
    return Waves(sets, num_questions, num_waves)


def first_representative(texts: Sequence[str]) -> Clustering:
    """Compare with the first text of each set: all that is left against one representative at a time.

    The questions are those of taking one text after the other, since a text meets a representative just when it fits
    no earlier one, and the first text that is left over is the next representative.
    """
    sets: dict[str, int] = {}
    left = list(texts)
    number = 0
    while left:
        representative, *left = left
        sets |= dict.fromkeys([representative, *(yield from _same_as(representative, left))], number)
        left = [text for text in left if text not in sets]
        number += 1
    return sets


def components(texts: Sequence[str]) -> Clustering:
    """Grow one connected component at a time: texts that it already holds are not compared with each other."""
    sets: dict[str, int] = {}
    left = list(texts)
    number = 0
    while left:
        frontier, left = left[:1], left[1:]
        while frontier:
            text = frontier.pop()
            sets[text] = number
            joined = yield from _same_as(text, left)
            left = [other for other in left if other not in joined]
            frontier += joined
        number += 1
    return sets


def _same_as(text: str, others: Sequence[str]) -> Generator[list[Pair], Answers, list[str]]:
    """Find which others share the text's meaning: two questions, the second only where the first entails."""
    pairs = [(text, other) for other in others]
    for _ in ("forward", "backward"):
        if pairs:
            answers = yield pairs
            pairs = [(hypothesis, premise) for premise, hypothesis in pairs if _entails(answers, premise, hypothesis)]
    return [other for _, other in pairs]


def _entails(answers: Answers, premise: str, hypothesis: str) -> bool:
    entail, neutral, contra = answers([premise], [hypothesis])[:, 0, 0]
    return bool(entail >= max(neutral, contra))
