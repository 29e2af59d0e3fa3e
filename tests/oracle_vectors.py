"""Vectors that public implementations gave, kept beside the project -> the arrays that our formulas take."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from udasa import uncertainty as u
from udasa.backends import Floats
from udasa.uncertainty import Ints, Rule

ROOT = Path(__file__).resolve().parents[1]
FOLDER = next((p / "shared" / "oracles" for p in ROOT.parents if (p / "shared" / "oracles").is_dir()), None)
TESTED: set[str] = set()
ABSENT = "the oracle vectors are not beside the project (../shared/oracles)"


def oracle(name: str) -> Any:
    """The content of a file; every file that a test asks for counts as tested."""
    TESTED.add(name)
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) if FOLDER else {"vectors": []}


CASES: dict[str, Any] = {one["name"]: one for one in oracle("cases")} if FOLDER else {}


def vectors(file: str) -> pytest.MarkDecorator:
    """Parametrise a test by the vectors of a file; skip it where the file is not there."""
    rows = oracle(file)["vectors"]
    ids = [str(one.get("case") or one.get("name") or i) for i, one in enumerate(rows)]
    absent = pytest.param(None, marks=pytest.mark.skip(reason=ABSENT))
    return pytest.mark.parametrize("v", [pytest.param(row, id=i) for row, i in zip(rows, ids, strict=True)] or [absent])


def array(values: Any) -> Floats:
    return np.array(values, dtype=np.float64)


def case(v: Any) -> Any:
    return CASES[v["case"]]


def entailment(v: Any, temperature: float = 1.0) -> tuple[Floats, Floats, Floats]:
    """P(entailment), P(neutral), P(contradiction) of a case; row = premise, column = hypothesis."""
    logits = array(case(v)["nli_logits"]) / temperature
    e = np.exp(logits - logits.max(axis=2, keepdims=True))
    contra, neutral, entail = (e / e.sum(axis=2, keepdims=True)).transpose(2, 0, 1)
    return entail, neutral, contra


def mean_logprobs(v: Any) -> Floats:
    return array(case(v)["seq_logprob_mean"])


def sum_logprobs(v: Any) -> Floats:
    return array(case(v)["seq_logprob_sum"])


def sets(v: Any, rule: Rule = "components", backwards: bool = False) -> list[int]:
    step = -1 if backwards else 1
    entail, neutral, contra = (matrix[::step, ::step] for matrix in entailment(v))
    return u.semantic_sets(entail, neutral, contra, rule).tolist()


def log_mass(ids: Ints, likelihood: Floats) -> Floats:
    """ln of the summed, not normalised, likelihoods of each response's set: what several peers use as p."""
    return np.logaddexp.reduce(likelihood) - u.cluster_surprisal(ids, likelihood)


def per_set(ids: Ints, values: Floats) -> Floats:
    return values[np.unique(ids, return_index=True)[1]]


def hard_weights(v: Any) -> Floats:
    """1 for entailment, 1/2 for neutral, 0 for contradiction, both directions added."""
    one_way = array([0.0, 0.5, 1.0])[np.array(case(v)["nli_labels"])]
    return one_way + one_way.T


def jaccard(texts: list[str]) -> Floats:
    words = [set(text.split()) for text in texts]
    return array([[len(a & b) / len(a | b) for b in words] for a in words])
