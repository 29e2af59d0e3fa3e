"""Open questions -> answers -> who answered better, this model or a baseline, by a judge in both orders.

Without a judge the answers are written all the same: an evaluation's samples are the next one's baseline.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from udasa.errors import UserError
from udasa.evaluate import context, sources
from udasa.evaluate.results import load, read_samples
from udasa.evaluate.tasks.documents import as_split, content_id, take
from udasa.evaluate.tasks.replies import facts, is_text, states

QUESTIONS = ("mt_bench/question.jsonl", "mt_bench/vicuna_question.jsonl")
TASK = "udasa_helpful_judge"


def questions(data: str | None = None, profile: str = "full", n: Any = None, **_: object) -> dict[str, Any]:
    """Return the first turns of MT-Bench and the Vicuna questions, in clusters of source and category."""
    context.change(data=Path(data) if data else None)
    documents = [
        {
            "id": content_id(row["turns"][0]),
            "prompt": row["turns"][0],
            "cluster": f"{Path(name).stem}/{row['category']}",
        }
        for name in QUESTIONS
        for row in sources.rows(name, data)
    ]
    return as_split(take(documents, n, profile))


def baseline(folder: Path) -> dict[str, str]:
    """Return the answers that an evaluation gave to these questions, by document.

    Raises:
        UserError: the folder is no evaluation, or has none.
    """
    evaluation = load(folder)
    if TASK not in evaluation.tasks:
        raise UserError(f"{folder} has no answers to compare with: it was evaluated without the task {TASK}.")
    samples = map(json.loads, read_samples(folder, evaluation.tasks[TASK]).splitlines())
    return {sample["doc"]["id"]: sample["filtered_resps"][0][0]["text"] for sample in samples}


def judge(replies: Sequence[Sequence[str]], documents: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """Compare the answers with the baseline's: the filter, called once for all.

    An answer that is empty or garbled is not shown to the judge: it has lost, unless the other is no text either.
    """
    found: dict[str, dict[str, Any]] = {
        d["id"]: {"text": str(row[0]), **facts(row[0])} for row, d in zip(replies, documents, strict=True)
    }
    if referee := context.current().referee:
        others = {key: facts(referee.baseline[key]) for key in found if key in referee.baseline}
        both = {key for key in others if is_text(found[key]) and is_text(others[key])}
        prompts = {d["id"]: d["prompt"] for d in documents if d["id"] in both}
        verdicts = referee(prompts, {key: row["text"] for key, row in found.items()})
        for key, other in others.items():
            undecided = is_text(found[key]) == is_text(other)
            alone = {"win": 0.5 if undecided else float(is_text(found[key]))}
            found[key] |= {"judge": referee.name, "longer": found[key]["num_chars"] - other["num_chars"]}
            found[key] |= verdicts.get(key, alone)
    return [[found[document["id"]]] for document in documents]


def score(document: Mapping[str, Any], results: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return win, its pair for `udasa.evaluate.pairwise.lc_win`, the states, and how much longer the answer is."""
    ((found,),) = results
    metrics: dict[str, Any] = {"num_chars": found["num_chars"], **states(found)}
    metrics |= {name: found[name] for name in ("win", "agreed", "unread", "longer") if name in found}
    if "win" in found:
        metrics["lc_win"] = [found["win"], found["longer"]]
    return metrics
