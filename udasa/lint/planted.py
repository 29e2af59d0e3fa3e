"""Questions with a known answer -> how well the recipe's entailer and judge tell them, before anything is sampled.

{"id": "rent", "kind": "contradiction", "prompt": ..., "first": "The landlord pays ...", "second": "The tenant ..."}

`kind` is what is known: `same` (one meaning), `contradiction` or `unrelated` (two), `replies` (the first is acceptable,
the second is not). A line is scored as a prompt with two responses, by the step that scores the build.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from udasa import schema
from udasa.backends import ignore
from udasa.digests import file_sha256
from udasa.errors import UserError
from udasa.limits import Planted
from udasa.lint.finding import UNCHECKED, Auc, Finding, auc, finding
from udasa.prompts import read_rows
from udasa.recipe import bundled_path
from udasa.run import Apply

KINDS = ("same", "contradiction", "unrelated", "replies")
FILE = "planted.json"
"""The answers, in the build's folder."""
NAMES = ("planted-entailer", "planted-judge")

_FIELDS = {"id", "kind", "prompt", "first", "second"}


def read_questions(path: str) -> list[dict[str, Any]]:
    """Return the planted questions of a file.

    Raises:
        UserError: it is missing, a line does not have the five texts, or one of the answers never occurs.
    """
    file = bundled_path(path)
    if not file.is_file():
        raise UserError(f"There are no planted questions at {file}. Give a .jsonl file, or set planted.path to None.")
    rows = read_rows(file.name, file)
    for number, row in enumerate(rows):
        if set(row) != _FIELDS or not all(isinstance(text, str) and text for text in row.values()):
            raise UserError(
                f"Row {number} of {file} must have a text in each of {', '.join(sorted(_FIELDS))}; it is {row}."
            )
        if row["kind"] not in KINDS:
            raise UserError(f"Row {number} of {file} is of kind '{row['kind']}'; expected one of {', '.join(KINDS)}.")
    kinds = {row["kind"] for row in rows}
    if len({row["id"] for row in rows}) < len(rows) or not {"same", "replies"} < kinds:
        raise UserError(
            f"{file} must have an id of its own in every row, and rows of 'same', of 'replies' and of another kind."
        )
    return rows


def digest(path: str | None) -> str | None:
    """Return the sha256 of the file of questions; None if none are asked."""
    return None if path is None else file_sha256(bundled_path(path))


def ask(questions: list[dict[str, Any]], score: Apply) -> dict[str, Any]:
    """Score the questions and return the answers: per question the uncertainty, the sets, and the risk of both.

    Raises:
        UserError: the judge left one without an answer.
    """
    scored = pl.DataFrame(pl.from_arrow(score(_table(questions), ignore)))
    by_id = {row["prompt_id"]: row for row in scored.to_dicts()}
    if failed := [r["judge_failure"] for row in by_id.values() for r in row["responses"] if r["judge_failure"]]:
        raise UserError(
            f"The judge left {len(failed)} of {2 * len(by_id)} planted replies without an answer; the first: "
            f"{failed[0]}. Nothing was sampled. Mend the engine, or ask none (planted.path = None)."
        )
    return {question["id"]: _answer(question, by_id[question["id"]]) for question in questions}


def _answer(question: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    first, second = sorted(row["responses"], key=lambda response: str(response["response_id"]))
    return {
        "kind": question["kind"],
        "num_semantic_sets": row["num_semantic_sets"],
        "semantic_uncertainty": (first["semantic_uncertainty"] + second["semantic_uncertainty"]) / 2,
        "value_risk": [first["value_risk"], second["value_risk"]],
    }


def _table(questions: list[dict[str, Any]]) -> pa.Table:
    """Return the questions as unscored responses; both texts of a question are equally likely."""
    rows = [
        {
            "prompt_id": q["id"],
            "messages": [{"role": "user", "content": q["prompt"]}],
            "task": "helpfulness",
            "domain": "general",
            "source": "planted",
            "source_row": number,
            "source_revision": None,
            "license": None,
            "responses": [
                {
                    "response_id": f"{q['id']}-{k}",
                    "text": text,
                    "num_tokens": len(text.split()),
                    "logprob_sum": None,
                    "logprob_mean": None,
                    "finish_reason": "stop",
                    "seed": k,
                }
                for k, text in enumerate((q["first"], q["second"]))
            ],
        }
        for number, q in enumerate(questions)
    ]
    return pa.Table.from_pylist(rows, schema.RESPONSES)


def planted_findings(answers: Mapping[str, Any] | None, settings: Planted) -> list[Finding]:
    """Return what the answers say of the entailer and of the judge, held against the floors."""
    if answers is None or settings.path is None:
        why = f"{UNCHECKED}: no planted question was asked (the recipe's planted.path)."
        floors = (settings.entailer_floor, settings.judge_floor)
        return [finding(name, floor, why) for name, floor in zip(NAMES, floors, strict=True)]
    return [_entailer(answers, settings.entailer_floor), _judge(answers, settings.judge_floor)]


def _entailer(answers: Mapping[str, Any], floor: float | None) -> Finding:
    """AUC: the semantic uncertainty of two meanings is above that of one."""
    asked = {name: a for name, a in answers.items() if a["kind"] != "replies"}
    one, two = (
        [a["semantic_uncertainty"] for a in asked.values() if (a["kind"] == "same") is same] for same in (True, False)
    )
    wrong = sorted(name for name, a in asked.items() if (a["num_semantic_sets"] == 1) != (a["kind"] == "same"))
    known = [name for name in wrong if asked[name]["kind"] == "same"]
    detail = (
        f"The entailer tells {len(two)} planted pairs of two meanings from {len(one)} of one with this AUC (0.5: not "
        f"at all); its sets are right for {len(asked) - len(wrong)} of {len(asked)} ({len(known)} of one meaning "
        f"parted, {len(wrong) - len(known)} of two joined)."
    )
    return _told("planted-entailer", auc(np.array(two), np.array(one)), wrong, len(asked), floor, detail)


def _judge(answers: Mapping[str, Any], floor: float | None) -> Finding:
    """AUC: the value risk of an unacceptable reply is above that of an acceptable one; a question is a cluster."""
    risks = {name: a["value_risk"] for name, a in answers.items() if a["kind"] == "replies"}
    wrong = sorted(name for name, (first, second) in risks.items() if first >= second)
    good, bad = (np.array([risk[side] for risk in risks.values()], dtype=np.float64) for side in (0, 1))
    number = range(len(risks))
    detail = (
        f"The judge tells {len(bad)} planted unacceptable replies from {len(good)} acceptable ones with this AUC (0.5: "
        f"not at all); of the two replies to one prompt it is right about {len(risks) - len(wrong)} of {len(risks)}."
    )
    return _told("planted-judge", auc(bad, good, (number, number)), wrong, len(risks), floor, detail)


def _told(name: str, found: Auc | None, wrong: list[str], total: int, floor: float | None, detail: str) -> Finding:
    return finding(
        name,
        floor,
        detail,
        count=len(wrong),
        total=total,
        value=found and found.value,
        unit="AUC",
        interval=found and found.interval,
        examples=wrong,
        floor=True,
    )


def to_bytes(asked: str | None, answers: Mapping[str, Any]) -> bytes:
    """Return planted.json: the answers, and the sha256 of the questions."""
    return (json.dumps({"questions": asked, "answers": answers}, indent=2, sort_keys=True) + "\n").encode()


def read_answers(path: Path, asked: str | None = None) -> dict[str, Any] | None:
    """Return the answers of a planted.json; None if there is none, or it is of other questions than `asked`."""
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    answers: dict[str, Any] = stored["answers"]
    return answers if asked in (None, stored["questions"]) else None


def stored_findings(stored: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return what a release says of its planted questions; they cannot be asked again without its models."""
    return [Finding(**{**old, "examples": tuple(old["examples"])}) for old in stored if old["name"] in NAMES]
