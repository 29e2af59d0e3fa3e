"""Texts -> entailment questions -> answers: each question once, in long batches, remembered on disk.

ask = Asker(entailer).ask([("Paris.", "It is Paris."), ("It is Paris.", "Paris."), ("Paris.", "It is Paris.")])
ask(["Paris."], ["It is Paris.", "Paris."])      # 2 questions asked; shape (3, 1, 2): entail, neutral, contra

The questions of a shard are sorted by length across its prompts and cut into blocks of fixed size. A block is what
goes to the entailer at once, what is kept on disk, and what a kill can lose. An answer's last bits depend on the
company in which it was computed, and a block depends only on the set of questions: so a shard gives the same bytes
whether its answers are new, all remembered, or partly so.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np

from udasa.backends import Embedder, Entailer, Floats, Report, identity, ignore, placement
from udasa.memory import Memory, Pair
from udasa.recipe import Entailment

BLOCK = 512
"""Questions that go to the entailer at once: it bounds the encodings in memory and what a kill can lose."""


class Answers:
    """Answered entailment questions; a text entails itself."""

    def __init__(self, questions: Mapping[Pair, int], probabilities: Floats, before: str = "") -> None:
        """`before`: what stood before every text when it was asked."""
        self.questions = questions
        self.probabilities = probabilities
        self.before = before

    def after(self, before: str) -> "Answers":
        """Return the same answers, for texts that were asked with `before` in front of each."""
        return Answers(self.questions, self.probabilities, before)

    def __call__(self, premises: Sequence[str], hypotheses: Sequence[str]) -> Floats:
        """Return P(entailment), P(neutral), P(contradiction), shape (3, premises, hypotheses)."""
        out = np.empty((3, len(premises), len(hypotheses)))
        for i, premise in enumerate(premises):
            for j, hypothesis in enumerate(hypotheses):
                if premise == hypothesis:
                    out[:, i, j] = (1.0, 0.0, 0.0)
                else:
                    question = (self.before + premise, self.before + hypothesis)
                    out[:, i, j] = self.probabilities[self.questions[question]]
        return out


class Asker:
    """Puts questions to an entailer in blocks, and remembers the answers."""

    def __init__(
        self, entailer: Entailer, memory: Memory | None = None, reuse: Literal["block", "pair"] = "block"
    ) -> None:
        """Keep the entailer and the memory.

        `reuse`: `block` takes a remembered answer only from the same block, so that the bits are those of asking
        anew; `pair` takes it from wherever it was asked, which can differ in the last bits and asks the least.
        """
        self.entailer = entailer
        self.memory = memory
        self.reuse = reuse

    def ask(self, questions: Iterable[Pair], report: Report = ignore) -> Answers:
        """Answer every distinct question; one between equal texts is not asked. Reports questions."""
        distinct = in_order(questions)
        probabilities = np.empty((len(distinct), 3))
        places = {question: place for place, question in enumerate(distinct)}
        found = self.memory.find(distinct) if self.memory is not None and self.reuse == "pair" else {}
        for question, answer in found.items():
            probabilities[places[question]] = answer
        report(len(found))
        for block in self._blocks([question for question in distinct if question not in found]):
            probabilities[[places[question] for question in block]] = self._answer(block, report)
        return Answers(places, probabilities)

    def _blocks(self, questions: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
        """Cut the questions; an embedder gets all at once, since it runs texts and not pairs."""
        size = len(questions) if isinstance(self.entailer, Embedder) else BLOCK
        for start in range(0, len(questions), size or 1):
            yield questions[start : start + size]

    def _answer(self, block: Sequence[Pair], report: Report) -> Floats:
        known = self.memory.block(block) if self.memory is not None and self.reuse == "block" else None
        if known is not None:
            report(len(block))
            return known
        answers = self.entailer.entail(block, report)
        if self.memory is not None:
            self.memory.add(block, answers)
        return answers


def compare(texts: Sequence[Sequence[str]], entailer: Entailer, memory: Memory | None = None) -> list[Floats]:
    """Return P(entailment), P(neutral), P(contradiction) between the K texts of each prompt, shape (3, K, K) each.

    For texts that you already have: what the formulas of `udasa.uncertainty` take. With a `memory`, what was ever
    asked is not asked again. For semantic entropy alone `udasa.waves.semantic_entropies` asks less. To let the
    entailer see a question, put it before each of its texts.
    """
    questions = {(premise, hypothesis) for some in texts for premise, hypothesis in product(set(some), repeat=2)}
    ask = Asker(entailer, memory, reuse="pair").ask(questions)
    return [ask(some, some) for some in texts]


def in_order(questions: Iterable[Pair]) -> list[Pair]:
    """Return the distinct questions between unequal texts, longest first: an order that hangs on their set alone."""
    distinct = {(premise, hypothesis) for premise, hypothesis in questions if premise != hypothesis}
    return sorted(distinct, key=lambda q: (-len(q[0]) - len(q[1]), q))


def before(messages: Sequence[Mapping[str, Any]], context: bool) -> str:
    """Return what the entailer reads before each text of a prompt: its turns without the system's, or nothing."""
    return "".join(f"{m['content']}\n" for m in messages if m["role"] != "system") if context else ""


def fingerprint(settings: Entailment) -> str:
    """Return all that an entailer's answers depend on beside the texts: weights, kind, precision, device, budget."""
    spec = settings.model
    weights = identity(spec)
    known = {
        "weights": [weights["model"], weights["revision"], weights["sha256"]],
        "kind": settings.kind,
        "same_meaning": settings.same_meaning if settings.kind == "similarity" else None,
        "placement": placement(spec),
        "runtime": settings.runtime,
        "batch_tokens": spec.batch_tokens,
    }
    if "adapter" in weights:
        known["adapter"] = weights["adapter"]["sha256"]
    return json.dumps(known, sort_keys=True)
