"""TruthfulQA's binary choices -> documents; log-likelihoods with and without the question -> accuracy and calibration.

{"Question": "…", "Best Answer": "…", "Best Incorrect Answer": "…", "Category": "Misconceptions", …}
-> {"id": "truth-3f…", "cluster": "Misconceptions", "prompt": "…", "choices": ["…", "…"], "gold": 1}
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from udasa.agreement import calibration_error
from udasa.evaluate.sources import rows
from udasa.evaluate.tasks import choices
from udasa.evaluate.tasks.documents import arrange, as_split, content_id, take

TRUTHFULQA = "truthfulqa/TruthfulQA_v2025_790.csv"


def binary(
    data: str | None = None,
    profile: str = "full",
    n: Mapping[str, int] | None = None,
    question: str | None = None,
    **_: object,
) -> dict[str, Dataset]:
    """Return the best answer against the best incorrect one; `question` stands in for every question (a blind control).

    Raises:
        UserError: the source is missing, or there is no such profile.
    """
    pairs = [
        {
            "id": f"truth-{content_id(row['Question'])}",
            "cluster": row["Category"],
            "prompt": question or row["Question"].strip(),
            "good": row["Best Answer"].strip(),
            "bad": [row["Best Incorrect Answer"].strip()],
        }
        for row in rows(TRUTHFULQA, data)
    ]
    return as_split(take(arrange(pairs), n, profile))


def score(doc: Mapping[str, Any], results: Sequence[choices.LogLikelihood]) -> dict[str, Any]:
    """Return `choices.score`, the same by mutual information, and how well the probabilities are calibrated.

    `results`: the log-likelihood of each choice after the prompt, then that of each on its own.

    acc_mutual_info takes the choice whose log-likelihood the prompt raises most (PMI; Holtzman et al. 2021, arXiv
    2104.08315). p_true is the good answer's share of the two probabilities, brier its (1 - p)^2. `ece` is a pair for
    `expected_calibration_error`: the greater share, and whether it is the good answer's.

    Raises:
        ValueError: a log-likelihood is NaN or infinite.
    """
    sums, gold, k = choices.finite(doc, results), doc["gold"], len(doc["choices"])
    gains = [after - alone for after, alone in zip(sums[:k], sums[k:], strict=True)]
    lead = sums[gold] - sums[1 - gold]
    p_true = 1 / (1 + math.exp(-lead)) if lead > -700 else 0.0
    found = choices.score(doc, results[:k])
    return {
        **found,
        "acc_mutual_info": choices.right(gains, gold),
        "p_true": p_true,
        "brier": (1 - p_true) ** 2,
        "ece": (max(p_true, 1 - p_true), found["acc"]),
    }


def expected_calibration_error(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the mean distance of confidence and share of right answers over bins of equal mass (Guo et al. 2017).

    Bins are cut along the sorted confidences and hold the same number of answers, give or take one.
    """
    return calibration_error(*np.array(sorted(pairs), dtype=np.float64).T)
