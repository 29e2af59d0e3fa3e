"""Openings of film reviews and a target -> continuations -> whether they have the sentiment that was asked for.

{"opening": "the film begins", "target": "positive"} -> "with a scene of rare beauty ..." -> {"control": 1.0, ...}
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from udasa.evaluate import context, sentiment
from udasa.evaluate.tasks.documents import as_split, content_id, take
from udasa.evaluate.tasks.replies import facts, is_text, states

TARGETS = ("positive", "negative")

_REQUEST = "Continue this film review in a {target} tone. Write only the continuation.\n\n{opening}"


def openings(data: str | None = None, profile: str = "full", n: Any = None, **_: object) -> dict[str, Any]:
    """Return each opening with both targets, as a cluster; n openings of positive and as many of negative reviews."""
    context.change(data=Path(data) if data else None)
    reviews: list[dict[str, Any]] = [
        {"id": review.id, "review": review} for review in sentiment.reviews(Path(data) if data else None)
    ]
    chosen = [
        row["review"]
        for positive in (True, False)
        for row in take([row for row in reviews if row["review"].positive is positive], n, profile)
    ]
    return as_split([_document(review, target) for review in chosen for target in TARGETS])


def _document(review: sentiment.Review, target: str) -> dict[str, Any]:
    opening = sentiment.opening(review)
    return {
        "id": content_id(review.id, target),
        "prompt": _REQUEST.format(target=target, opening=opening),
        "opening": opening,
        "target": target,
        "review": "positive" if review.positive else "negative",
        "cluster": review.id,
    }


def judge(replies: Sequence[Sequence[str]], documents: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return P(positive) of each continuation, and its nats under the base model: the filter, called once for all."""
    found: list[dict[str, Any]] = [{"text": row[0], **facts(row[0])} for row in replies]
    texts = [_continuation(row["text"], document["opening"]) for row, document in zip(found, documents, strict=True)]
    positive = sentiment.load(context.current().data).probability(texts)
    for row, p in zip(found, positive.tolist(), strict=True):
        row["positive"] = p
    if base_nats := context.current().base_nats:
        kept = [i for i, text in enumerate(texts) if text]
        nats = base_nats([(documents[i]["opening"], f" {texts[i]}") for i in kept])
        for i, value in zip(kept, nats, strict=True):
            found[i]["base_nats"] = value
    return [[row] for row in found]


def _continuation(text: str, opening: str) -> str:
    """Return the reply without the opening, which some models say again."""
    text = text.strip()
    return text[len(opening) :].strip() if text.casefold().startswith(opening.casefold()) else text


def score(document: Mapping[str, Any], results: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Return whether the sentiment is the target's, its probability, and how fluent and varied the text is.

    An empty or garbled text has missed its target, and has no probability.
    """
    ((found,),) = results
    p = found["positive"] if document["target"] == "positive" else 1.0 - found["positive"]
    metrics = {"control": float(is_text(found) and p > 0.5), **states(found)}
    if is_text(found):
        metrics |= {"p_target": p, "distinct_2": distinct_2(found["text"])}
    if "base_nats" in found:
        metrics |= {"base_nats": found["base_nats"], "perplexity": found["base_nats"]}
    return metrics


def distinct_2(text: str) -> float:
    """Return the share of different ones among a text's pairs of words, 0 .. 1; 1 for a text without a pair.

    Li et al. 2016, within a text: over all texts together it would hang on how many there are.
    """
    words = text.casefold().split()
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def perplexity(nats: Sequence[float]) -> float:
    """Return exp of the mean over texts of nats per token."""
    return math.exp(math.fsum(nats) / len(nats))
