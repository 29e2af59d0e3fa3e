"""Pairs of replies that people ordered -> documents; log-likelihoods -> whether a model agrees with them.

{"query": "…", "chosen": "…", "rejected": "…", "subset": "helpful"}
-> {"id": "hhh-3f…", "cluster": "a1…", "subset": "helpful", "prompt": "…", "choices": ["…", "…"], "gold": 1}
"""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from udasa.evaluate.sources import HHH, rows
from udasa.evaluate.tasks import choices
from udasa.evaluate.tasks.documents import Row, arrange, as_split, content_id, take

HH_HARMLESS = "hh_rlhf_harmless_test/harmless-base_test.jsonl.gz"
_USER, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def hhh(
    data: str | None = None, profile: str = "full", n: Mapping[str, int] | None = None, **_: object
) -> dict[str, Dataset]:
    """Return the HHH pairs, in clusters of their query: 221 pairs share 102 queries.

    Raises:
        UserError: the source is missing, or there is no such profile.
    """
    pairs = [
        {**_pair("hhh", row["query"], row["chosen"], row["rejected"]), "subset": row["subset"]}
        for row in rows(HHH, data)
    ]
    return as_split(take(arrange(pairs, lambda row: row["subset"]), n, profile))


def score_hhh(doc: Mapping[str, Any], results: Sequence[choices.LogLikelihood]) -> dict[str, float]:
    """Return `choices.score`, acc_bytes once more under the name of the pair's subset, and `longer`.

    `longer` is what a reader who takes the longer reply (UTF-8 bytes) would score: a baseline that no model changes.

    Raises:
        ValueError: a log-likelihood is NaN or infinite.
    """
    found = choices.score(doc, results)
    longer = choices.right([len(choice.encode()) for choice in doc["choices"]], doc["gold"])
    return {**found, doc["subset"]: found["acc_bytes"], "longer": longer, f"longer_{doc['subset']}": longer}


def hh_harmless(
    data: str | None = None, profile: str = "full", n: Mapping[str, int] | None = None, **_: object
) -> dict[str, Dataset]:
    """Return the pairs of HH-RLHF's harmless test that are one request and two replies to it.

    A dialogue of several turns is left out: lm-eval gives a task one user turn. Clusters are those of one request.

    Raises:
        UserError: the source is missing, or there is no such profile.
    """
    pairs = {}
    for row in rows(HH_HARMLESS, data):
        (asked, chosen), (also, rejected) = (_turns(row[side]) for side in ("chosen", "rejected"))
        if asked is not None and asked == also and chosen and rejected and chosen != rejected:
            pair = _pair("hh", asked, chosen, rejected)
            pairs[pair["id"]] = pair
    return as_split(take(arrange(list(pairs.values())), n, profile))


def _pair(prefix: str, prompt: str, good: str, bad: str) -> Row:
    return {
        "id": f"{prefix}-{content_id(prompt, good, bad)}",
        "cluster": content_id(prompt),
        "prompt": prompt.strip(),
        "good": good.strip(),
        "bad": [bad.strip()],
    }


def _turns(dialogue: str) -> tuple[str | None, str]:
    """Return the request and the reply of a dialogue of one turn; None for the request of a longer one."""
    before, _, reply = dialogue.rpartition(_ASSISTANT)
    first, _, request = before.rpartition(_USER)
    return (None if first or _ASSISTANT in request else request.strip()), reply.strip()
