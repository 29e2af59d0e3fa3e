"""Responses -> scored rows: asks the entailer and the judge, each question once, and applies the formulas.

All entailment questions of a shard are collected first, so that a question that two dimensions or two prompts share
is asked once, and the model sees long batches.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import sentencex

from udasa import schema, uncertainty
from udasa.backends import Entailer, Exchange, Floats, Judge, Report, ignore

REFUSAL = re.compile(
    r"^\W*(i['’]?m (very |really |so )?(sorry|afraid|unable|not able|not comfortable)"
    r"|i am (sorry|unable|not able)|sorry\b"
    r"|i (can['’]?t|cannot|can not|won['’]?t|will not|could not|couldn['’]?t) "
    r"|i(['’]d| would) rather not|i must decline|as an ai\b)",
    re.IGNORECASE,
)
"""How a refusing sentence begins; it claims nothing that could be true or false."""


def claims(text: str) -> list[str]:
    """Return the sentences of a response that claim something: refusals and sentences without a letter are left out."""
    sentences = (sentence.strip() for sentence in sentencex.segment("en", text))
    return [s for s in sentences if any(c.isalpha() for c in s) and not REFUSAL.match(s)]


class Scorer:
    """The `scored` step: holds the entailer and the judge."""

    def __init__(self, entailer: Entailer, judge: Judge) -> None:
        self.entailer = entailer
        self.judge = judge

    def __call__(self, table: pa.Table, report: Report = ignore) -> pa.Table:
        """Return the table with every response scored, as `schema.SCORED`; reports prompts."""
        rows = schema.conform(table, schema.RESPONSES).to_pylist()
        ask = self._entailment(rows)
        acceptable = self._judgements(rows, report)
        return schema.conform(
            pa.Table.from_pylist([_score(row, ask, acceptable) for row in rows], schema.SCORED), schema.SCORED
        )

    def _entailment(self, rows: Iterable[Mapping[str, Any]]) -> "Answers":
        """Ask every entailment question of the shard once."""
        questions: dict[tuple[str, str], int] = {}
        for row in rows:
            texts = list(dict.fromkeys(r["text"] for r in row["responses"]))
            for premise in texts:
                for other in texts:
                    for hypothesis in (other, *claims(other)):
                        if premise not in (hypothesis, other):
                            questions.setdefault((premise, hypothesis), len(questions))
        return Answers(questions, self.entailer.entail(list(questions)))

    def _judgements(self, rows: Sequence[Mapping[str, Any]], report: Report) -> dict[tuple[str, str], Floats]:
        """Judge every distinct response once; keyed by (prompt_id, text). An empty response is not judged."""
        exchanges = {
            (row["prompt_id"], r["text"]): Exchange(row["messages"], r["text"])
            for row in rows
            for r in row["responses"]
            if r["text"]
        }
        share = _share(report, len(rows), len(exchanges))
        return dict(zip(exchanges, self.judge.judge(list(exchanges.values()), share), strict=True))


class Answers:
    """Answered entailment questions; a text entails itself."""

    def __init__(self, questions: Mapping[tuple[str, str], int], probabilities: Floats) -> None:
        self.questions = questions
        self.probabilities = probabilities

    def __call__(self, premises: Sequence[str], hypotheses: Sequence[str]) -> Floats:
        """Return P(entailment), P(neutral), P(contradiction), shape (3, premises, hypotheses)."""
        out = np.empty((3, len(premises), len(hypotheses)))
        for i, premise in enumerate(premises):
            for j, hypothesis in enumerate(hypotheses):
                same = premise == hypothesis
                out[:, i, j] = (1.0, 0.0, 0.0) if same else self.probabilities[self.questions[premise, hypothesis]]
        return out


def _score(row: Mapping[str, Any], ask: Answers, acceptable: Mapping[tuple[str, str], Floats]) -> dict[str, Any]:
    texts = [r["text"] for r in row["responses"]]
    logprobs = [r["logprob_mean"] for r in row["responses"]]
    log_likelihood = None if None in logprobs else np.array(logprobs, dtype=np.float64)
    entail, neutral, contra = ask(texts, texts)
    sets = uncertainty.semantic_sets(entail, neutral, contra)
    semantic = uncertainty.semantic_uncertainty(uncertainty.semantic_kernel(neutral, contra), log_likelihood)
    responses = [
        {
            **response,
            "cluster": int(sets[i]),
            "semantic_uncertainty": float(semantic[i]),
            "factual_uncertainty": _factual(i, texts, ask),
            **_value(acceptable.get((row["prompt_id"], response["text"]))),
        }
        for i, response in enumerate(row["responses"])
    ]
    return {
        **row,
        "responses": responses,
        "semantic_entropy": uncertainty.semantic_entropy(sets, log_likelihood),
        "num_semantic_sets": int(sets.max()) + 1,
    }


def _factual(i: int, texts: Sequence[str], ask: Answers) -> float | None:
    """LUQ of response i: every other response with a text counts, also the same text (it supports every sentence)."""
    sentences = claims(texts[i])
    others = [text for j, text in enumerate(texts) if j != i and text]
    different = [text for text in others if text != texts[i]]
    supports = np.ones((len(sentences), len(others)))
    if sentences and different:
        entail, _, contra = ask(different, sentences)
        supports[:, : len(different)] = uncertainty.support(entail, contra).T
    return uncertainty.factual_uncertainty(supports)


def _value(acceptable: Floats | None) -> dict[str, float | None]:
    if acceptable is None:
        names = ("value_uncertainty", "value_disagreement", "value_risk", "value_position_bias")
        return dict.fromkeys(names)
    entropy = uncertainty.value_uncertainty(acceptable)
    return {
        "value_uncertainty": entropy.total,
        "value_disagreement": entropy.disagreement,
        "value_risk": uncertainty.value_risk(acceptable),
        "value_position_bias": uncertainty.value_position_bias(acceptable),
    }


def _share(report: Report, total: int, parts: int) -> Callable[[int], None]:
    """Turn a count of parts into a count of `total` items."""
    if not parts:
        report(total)
        return ignore
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        before, done = done, done + n
        report(done * total // parts - before * total // parts)

    return advance
