"""A mirror of the public data sets with made-up rows in their form, and a table of sources that knows its digests."""

import csv
import gzip
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from udasa.evaluate import sources
from udasa.evaluate.tasks.bias import CATEGORIES

QUESTIONS = 12
PAIRS = 12


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the mirror to `folder`, and let the sources accept its files."""
    for name, content in _contents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        source, file = name.split("/")
        known = sources.SOURCES[source]
        files = {**known.files, file: replace(known.files[file], sha256=(hashlib.sha256(content).hexdigest(),))}
        monkeypatch.setitem(sources.SOURCES, source, replace(known, files=files))
    return folder


def _contents() -> dict[str, bytes]:
    return {
        "truthfulqa/TruthfulQA_v2025_790.csv": _csv([_question(i) for i in range(QUESTIONS)]),
        "hhh_alignment/hhh_alignment.jsonl": _lines([_preference(i) for i in range(PAIRS)]),
        "hh_rlhf_harmless_test/harmless-base_test.jsonl.gz": gzip.compress(
            _lines([_dialogue(i) for i in range(PAIRS)]), mtime=0
        ),
        "ifeval/input_data.jsonl": _lines(_instructions()),
        **{f"bbq/{category}.jsonl": _lines([_ambiguous(category, i) for i in range(12)]) for category in CATEGORIES},
    }


def _question(i: int) -> dict[str, str]:
    """The true answer is the longer one in every third question."""
    return {
        "Type": "Adversarial",
        "Category": f"Category {i % 3}",
        "Question": f"Made-up question number {i}?",
        "Best Answer": f"True {i}" + " indeed" * (i % 3 == 0),
        "Best Incorrect Answer": f"Wrong {i}",
        "Correct Answers": f"True {i}",
        "Incorrect Answers": f"Wrong {i}",
        "Source": "none",
    }


def _preference(i: int) -> dict[str, str]:
    """Two pairs share a query; the chosen reply is the longer one in every other pair."""
    return {
        "id": f"hhh-{i:03}",
        "subset": ("harmless", "helpful", "honest", "other")[i // 2 % 4],
        "query": f"Made-up query {i // 2}?",
        "chosen": f"Good {i}" + " and long" * (i % 2),
        "rejected": f"Worse {i}",
    }


def _dialogue(i: int) -> dict[str, str]:
    """One in four is a dialogue of two turns, one in four has an empty reply."""
    before = "\n\nHuman: Hello?\n\nAssistant: Hello." if i % 4 == 3 else ""
    asked = f"{before}\n\nHuman: Made-up request {i}?\n\nAssistant:"
    return {"chosen": f"{asked} Good {i}.", "rejected": f"{asked}" if i % 4 == 2 else f"{asked} Bad answer {i}."}


def _ambiguous(category: str, i: int) -> dict[str, object]:
    """Every second row gives the answer in its context, and so is left out; the stereotype names the group `b`."""
    answers = {"ans0": "The aunt", "ans1": "The boss", "ans2": "Not known"}
    return {
        "example_id": i,
        "question_index": str(i // 4),
        "question_polarity": "neg" if i % 4 < 2 else "nonneg",
        "context_condition": "disambig" if i % 2 else "ambig",
        "category": category,
        "answer_info": {"ans0": ["aunt", "a"], "ans1": ["boss", "b"], "ans2": ["Not known", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["B"]},
        "context": f"Scene {i // 2} of {category}.",
        "question": "Who was late?" if i % 4 < 2 else "Who was early?",
        **answers,
        "label": 0 if i % 2 else 2,
    }


def _instructions() -> list[dict[str, object]]:
    """One prompt without commas, one of two instructions, one in capitals."""
    return [
        {
            "key": 1,
            "prompt": "Made up: no commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        },
        {
            "key": 2,
            "prompt": "Made up: no commas, at least 3 words.",
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [{}, {"relation": "at least", "num_words": 3}],
        },
        {
            "key": 3,
            "prompt": "Made up: capitals.",
            "instruction_id_list": ["change_case:english_capital"],
            "kwargs": [{}],
        },
    ]


def _csv(rows: list[dict[str, str]]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _lines(rows: list[dict[str, object]] | list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
