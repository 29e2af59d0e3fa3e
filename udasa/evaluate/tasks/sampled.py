"""Questions that invite a falsehood -> K sampled answers -> how far uncertainty is a sign that an answer is wrong.

The uncertainties are the project's own, of the recipe that is evaluated, beside two numbers that cost nothing: length
and mean log-probability. Which answers are right is said by ROUGE-L against TruthfulQA's reference answers, a **label
of low trust**: people and ROUGE agree on about two answers in three. Read AUROC and PRR as comparisons of estimators
with each other under the same label, never as how well any of them finds falsehoods.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from udasa import calibrate, maps, schema, uncertainty
from udasa.backends import Message, make_entailer, make_judge, make_trained_judge
from udasa.digests import stable_hash
from udasa.evaluate import calibration, context, sources
from udasa.evaluate.language_model import Reply
from udasa.evaluate.tasks.documents import as_split, content_id, take
from udasa.evaluate.tasks.replies import facts, is_text
from udasa.recipe import Recipe
from udasa.score import Scorer

QUESTIONS = "truthfulqa/TruthfulQA_v2025_790.csv"

ESTIMATORS = {
    "u": "u",
    "semantic": "semantic_uncertainty",
    "factual": "factual_uncertainty",
    "value": "value_uncertainty",
    "logprob": "negative_logprob_mean",
    "length": "num_chars",
}
"""Name in the metrics -> column. The last two are baselines: an estimator that does not beat them is not worth it."""

_REQUEST = "{question}\nAnswer in one short sentence."


def questions(data: str | None = None, profile: str = "full", n: Any = None, **_: object) -> dict[str, Any]:
    """Return the questions with their right and wrong reference answers, in clusters of their category."""
    context.change(data=Path(data) if data else None)
    documents = [
        {
            "id": content_id(row["Question"]),
            "prompt": _REQUEST.format(question=row["Question"]),
            "right": [row["Best Answer"], *_split(row["Correct Answers"])],
            "wrong": [row["Best Incorrect Answer"], *_split(row["Incorrect Answers"])],
            "cluster": row["Category"],
        }
        for row in sources.rows(QUESTIONS, data)
    ]
    return as_split(take(documents, n, profile))


def _split(answers: str) -> list[str]:
    return [answer.strip() for answer in answers.split(";") if answer.strip()]


def judge(replies: Sequence[Sequence[str]], documents: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """Label every answer and measure its uncertainties and their probabilities: the filter, called once for all."""
    rows = [[_answer(text, document) for text in texts] for texts, document in zip(replies, documents, strict=True)]
    recipe = context.current().recipe
    if recipe is not None:
        for found, measured in zip(rows, _uncertainties(recipe, replies, documents), strict=True):
            for answer, values in zip(found, measured, strict=True):
                answer |= values
    wrong = {str(i): [not answer["right"] for answer in row] for i, row in enumerate(rows)}
    for name, column in ESTIMATORS.items():
        values = {str(i): [answer.get(column) for answer in row] for i, row in enumerate(rows)}
        for key, probabilities in calibration.probabilities(values, wrong).items():
            for answer, p in zip(rows[int(key)], probabilities, strict=True):
                answer[f"p_{name}"] = p
    return rows


def _answer(text: str, document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"text": str(text), **facts(text)}
    found["right"] = is_text(found) and is_right(text, document["right"], document["wrong"])
    response = text.response if isinstance(text, Reply) else None
    found["negative_logprob_mean"] = uncertainty.negative_logprob(response.logprob_mean if response else None)
    return found


def is_right(text: str, right: Sequence[str], wrong: Sequence[str]) -> bool:
    """Say whether a text is more like a right answer than like any wrong one, by ROUGE-L (Lin et al. 2022)."""
    words = uncertainty.words(text)
    best = [max(uncertainty.rouge_l(words, uncertainty.words(answer)) for answer in side) for side in (right, wrong)]
    return best[0] > best[1]


def _uncertainties(
    recipe: Recipe, replies: Sequence[Sequence[str]], documents: Sequence[Mapping[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Return the columns of `ESTIMATORS` that the recipe's models measure, of each answer of each document."""
    entailment, judging, spec = recipe.entailment, recipe.judging, recipe.judge_model
    entailer = make_entailer(entailment.model, entailment.kind, entailment.same_meaning, entailment.runtime)
    judge = make_trained_judge(spec) if judging.kind == "trained" else make_judge(spec, judging.constitution)
    table = _responses(replies, documents)
    scored = Scorer(entailer, judge, entailment.clustering, context=entailment.context)(table)
    fitted = maps.load(recipe.calibration, recipe.measures, recipe.weights)
    frame = calibrate.calibrate(scored, recipe.weights, recipe.measures, fitted)
    columns = [column for column in ESTIMATORS.values() if column in frame.columns]
    by_document = frame.group_by("prompt_id", maintain_order=True).agg(pl.col(columns))
    values = {row["prompt_id"]: row for row in by_document.iter_rows(named=True)}
    return [
        [{c: values[document["id"]][c][k] for c in columns} for k in range(len(texts))]
        for texts, document in zip(replies, documents, strict=True)
    ]


def _responses(replies: Sequence[Sequence[str]], documents: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the answers as the table `responses` of a build."""
    rows = [
        {
            "prompt_id": document["id"],
            "messages": [Message(role="user", content=document["prompt"])],
            "task": "truthfulness",
            "domain": "general",
            "source": QUESTIONS,
            "source_row": row,
            "responses": [_response(document["id"], k, text) for k, text in enumerate(texts)],
        }
        for row, (texts, document) in enumerate(zip(replies, documents, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema.RESPONSES)


def _response(document: str, k: int, text: str) -> dict[str, Any]:
    known: dict[str, Any] = {"text": str(text), "seed": stable_hash("sample", document, k)}
    if isinstance(text, Reply) and text.response:
        known = text.response._asdict()
    return {**known, "response_id": f"{document}-{k}"}


def score(document: Mapping[str, Any], results: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return means over the answers, and for each estimator the lists that AUROC, PRR, ECE and Brier are made of."""
    (answers,) = results
    names = [name for name in ("empty", "garbled", "cut") if name in answers[0]]
    metrics: dict[str, Any] = {name: float(np.mean([answer[name] for answer in answers])) for name in names}
    metrics["rouge_right"] = float(np.mean([answer["right"] for answer in answers]))
    for name, column in ESTIMATORS.items():
        for key, statistics in ((column, ("auroc", "prr")), (f"p_{name}", ("ece", "brier"))):
            known = [[answer[key], float(not answer["right"])] for answer in answers if answer.get(key) is not None]
            if known:
                metrics |= {f"{name}_{statistic}": known for statistic in statistics}
    return metrics
