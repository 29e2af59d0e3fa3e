"""Sums that are made here, and paragraphs of public-domain prose -> whether training broke what it was not about.

{"id": "arithmetic-017", "prompt": "What is 47 + 85? Answer with the number only.", "answer": "132"}
{"id": "canary-aa", "text": "Aruba's economy …"}
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from udasa.evaluate.tasks.documents import Row, as_split, take

SUMS = 200
"""How many sums there are: as many of each kind as of the others, give or take one."""


def arithmetic(profile: str = "full", n: Mapping[str, int] | None = None, **_: object) -> dict[str, Dataset]:
    """Return sums of two numbers under 100, differences of them, and products of one with a digit.

    Raises:
        UserError: there is no such profile.
    """
    rng = np.random.default_rng(SUMS)
    made: dict[str, Row] = {}
    while len(made) < SUMS:
        kind = ("sum", "difference", "product")[len(made) % 3]
        a, b, c = (int(x) for x in rng.integers((10, 10, 2), (100, 100, 10)))
        high, low = max(a, b), min(a, b)
        asked, answer = {
            "sum": (f"{a} + {b}", a + b),
            "difference": (f"{high} - {low}", high - low),
            "product": (f"{a} × {c}", a * c),
        }[kind]
        prompt = f"What is {asked}? Answer with the number only."
        if prompt not in made:
            made[prompt] = {
                "id": f"arithmetic-{len(made):03}",
                "kind": kind,
                "prompt": prompt,
                "answer": str(answer),
            }
    return as_split(take(list(made.values()), n, profile))


def score_arithmetic(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return exact_match (the reply's last whole number is the answer) and parsed (the reply has a number)."""
    numbers = re.findall(r"-?\d+", re.sub(r"(?<=\d),(?=\d{3})", "", results[0]))
    return {"exact_match": float(numbers[-1:] == [doc["answer"]]), "parsed": float(bool(numbers))}


def prose(
    config_source: str, profile: str = "full", n: Mapping[str, int] | None = None, **_: object
) -> dict[str, Dataset]:
    """Return the paragraphs of eval/data/canary.jsonl, found from the path of the YAML.

    Raises:
        UserError: there is no such profile.
    """
    path = Path(config_source).parents[2] / "data" / "canary.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return as_split(take(rows, n, profile))


def score_prose(doc: Mapping[str, Any], results: Sequence[float]) -> dict[str, float]:
    """Return bits_per_byte: the negative log-likelihood in bits over the UTF-8 bytes of the paragraph.

    Raises:
        ValueError: the log-likelihood is NaN or infinite.
    """
    (loglikelihood,) = results
    if not math.isfinite(loglikelihood):
        raise ValueError(
            f"The log-likelihood of paragraph '{doc['id']}' is {loglikelihood}, expected a finite number. "
            "The model has diverged, or its weights or dtype are broken."
        )
    return {"bits_per_byte": -loglikelihood / math.log(2) / len(doc["text"].encode())}
