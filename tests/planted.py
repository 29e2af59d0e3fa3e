"""A small made-up mirror of the evaluation's sources, and the real one beside the project where it is there."""

import csv
import dataclasses
import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from udasa.evaluate import sources

_ROOT = Path(__file__).resolve().parent.parent
REAL = next((p / "shared" / "data" for p in _ROOT.parents if (p / "shared" / "data" / "xstest").is_dir()), None)
needs_real = pytest.mark.skipif(REAL is None, reason="the evaluation data are not beside the project (../shared/data)")


def _table(rows):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _archive(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return content.getvalue()


def _completions(model):
    labels = ("1_full_compliance", "2_full_refusal", "3_partial_refusal")
    texts = (
        "Sure, take the {i} bread and the knife.",
        "Nope, that {i} is off limits here.",
        "Nope, off limits, but {i}.",
    )
    return [
        {
            "id": f"p{i}",
            "type": f"t{i % 3}",
            "completion": texts[i % 3].format(i=f"{model} {i}"),
            "final_label": labels[i % 3],
        }
        for i in range(12)
    ]


def _contents():
    behaviors = [
        {"Behavior": f"Harmful wish {i}", "FunctionalCategory": kind, "SemanticCategory": f"c{i % 2}"}
        for i, kind in enumerate(["standard"] * 4 + ["contextual", "copyright"])
    ]
    forbidden = [
        {"category": f"d{i % 2}", "source": "AdvBench" if i == 3 else "custom", "forbidden_prompt": f"Forbidden {i}"}
        for i in range(4)
    ]
    contrasts = [
        {"prompt": f"Prompt {i}", "type": f"t{i % 3}", "label": "safe" if i < 6 else "unsafe"} for i in range(10)
    ]
    questions = [
        {
            "Question": f"What is {i}?",
            "Category": f"k{i % 5}",
            "Best Answer": f"It is the number {i} of the list",
            "Best Incorrect Answer": f"Some say a fruit called {i}",
            "Correct Answers": f"It is the number {i} of the list; the number {i}",
            "Incorrect Answers": f"Some say a fruit called {i}; a fruit",
        }
        for i in range(10)
    ]
    turns = [{"question_id": i, "category": f"g{i % 2}", "turns": [f"Help me with {i}.", "More."]} for i in range(6)]
    good, bad = "a lovely warm film", "a dull cold film"
    reviews = {
        f"movie_reviews/{kind}/cv{i:03}_1.txt": f"the review {i} of a film that runs long , {text}"
        for kind, text in (("pos", good), ("neg", bad))
        for i in range(4)
    }
    polarity = {
        f"sentence_polarity/rt-polarity.{kind}": "".join(f"{text} number {i}\n" for i in range(20))
        for kind, text in (("pos", good), ("neg", bad))
    }
    return {
        "harmbench/harmbench_behaviors_text_all.csv": _table(behaviors),
        "strongreject/strongreject_dataset.csv": _table(forbidden),
        "xstest/xstest_prompts.csv": _table(contrasts),
        **{
            f"xstest/xstest_v2_completions_{model}.csv": _table(_completions(model))
            for model in ("gpt4", "llama2new", "llama2orig", "mistralguard", "mistralinstruct")
        },
        "truthfulqa/TruthfulQA_v2025_790.csv": _table(questions),
        "mt_bench/question.jsonl": _lines(turns[:3]),
        "mt_bench/vicuna_question.jsonl": _lines(turns[3:]),
        "sentiment_nltk/sentence_polarity.zip": _archive(polarity),
        "sentiment_nltk/movie_reviews.zip": _archive(reviews),
    }


def plant(folder, monkeypatch, without=()):
    """Write the made-up files to `folder`, name it in the environment, and let the sources accept their sha256."""
    files = {}
    for name, content in _contents().items():
        source, _, filename = name.partition("/")
        files.setdefault(source, {})[filename] = sources.File((hashlib.sha256(content).hexdigest(),), None)
        if name not in without:
            (folder / source).mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    for source, found in files.items():
        monkeypatch.setitem(
            sources.SOURCES, source, dataclasses.replace(sources.SOURCES[source], files=found, hub=None)
        )
    monkeypatch.setenv(sources.MIRROR, str(folder))
    monkeypatch.setenv("UDASA_CACHE", str(folder / "cache"))
    return folder
