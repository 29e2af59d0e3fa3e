"""schema -> what every column means, for the cards, the pages and croissant.json."""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from udasa import schema

_SHARE = "share, 0 to 1: of the build (rank), or P(failure) by fitted maps"

MEANINGS = {
    "prompt_id": ("hash of the normalised prompt", ""),
    "prompt": ("the conversation before the answer, as role and content", ""),
    "chosen": ("the answer with the lowest u under the risk ceiling", ""),
    "rejected": ("a less certain answer to the same prompt", ""),
    "chosen_id": ("id of the chosen answer in the configuration responses", ""),
    "rejected_id": ("id of the rejected answer in the configuration responses", ""),
    "u_chosen": ("the three uncertainties of the chosen answer as one number", _SHARE),
    "u_rejected": ("the three uncertainties of the rejected answer as one number", _SHARE),
    "gap": ("u of the rejected answer minus u of the chosen one", _SHARE),
    "gap_low": ("lower end of the gap's 95 % interval over the other answers; null if not asked for", _SHARE),
    "gap_high": ("upper end of that interval", _SHARE),
    "semantic_uncertainty": ("how far the answer's meaning is from the other answers'; 1 − semantic density", "0 to 1"),
    "factual_uncertainty": ("how little the other answers support its sentences; null without a claim", "0 to 1"),
    "value_uncertainty": ("entropy of the judge's mean verdict over the constitution", "nats"),
    "value_disagreement": ("the part of value uncertainty that comes from principles disagreeing", "nats"),
    "value_risk": ("1 − mean probability that the answer is acceptable", "probability, 0 to 1"),
    "value_position_bias": (
        "P(acceptable) with that option named first, minus the same with it named second",
        "−1 to 1",
    ),
    "stage": ("conservative, moderate or exploratory, by the gap", ""),
    "split": ("train or test, by the prompt's hash", ""),
    "task": ("what the prompt is for", ""),
    "domain": ("general, health, law or technical", ""),
    "source": ("name of the prompt's source", ""),
    "license": ("licence of the prompt, where it is known", ""),
    "semantic_entropy": ("entropy over the meanings of all answers to a prompt", "nats"),
    "messages": ("the conversation before the answers, as role and content", ""),
    "source_row": ("row of the prompt in its source, from 0", "count"),
    "source_revision": ("commit or sha256 of the source", ""),
    "responses": ("the answers, a struct each", ""),
    "response_id": ("id of the answer: the prompt's id and a number", ""),
    "text": ("the answer, or the sentence", ""),
    "num_tokens": ("tokens of the answer", "count"),
    "logprob_sum": ("log-probability of the answer under the policy at temperature 1", "nats"),
    "logprob_mean": ("the same, the mean over its tokens", "nats a token"),
    "finish_reason": ("stop, or length if the answer was cut at the token limit", ""),
    "seed": ("seed of the answer", ""),
    "unsupported": ("1 − mean support of the sentence by the other answers", "0 to 1"),
    "role": ("system, user or assistant", ""),
    "content": ("what was said", ""),
    "num_semantic_sets": ("number of meanings among the answers to a prompt", "count"),
    "discrete_semantic_entropy": ("the same entropy with every answer weighing the same", "nats"),
    "degree_matrix": ("mean distance between the answers to a prompt, by entailment", "0 to 1"),
    "eigenvalue_laplacian": ("number of meanings, not rounded: from the graph of entailment", "1 to K"),
    "kernel_language_entropy": ("von Neumann entropy of the answers' heat kernel", "nats"),
    "sar": ("surprisal of the answers, less where others resemble them", "nats"),
    "eigenscore": ("spread of the answers' sentence embeddings; null without an embedder", "log-determinant / K"),
    "cluster": ("the meaning of the answer: answers with one number share it", ""),
    "eccentricity": ("distance of the answer from the centre of the graph of entailment", "0 to 1"),
    "degree": ("mean distance of the answer from all answers, by entailment", "0 to 1"),
    "cluster_surprisal": ("−ln of the share of the answer's meaning", "nats"),
    "selfcheck_nli": ("mean probability that another answer contradicts its sentences; null without a claim", "0 to 1"),
    "cocoa": ("mean negative log-probability times the distance from the other answers", "nats"),
    "p_true": ("1 − the policy's own probability that the answer is true; null unless asked", "probability, 0 to 1"),
    "negative_logprob_mean": ("negative log-probability of the answer's tokens, mean", "nats a token"),
    "negative_logprob_sum": ("negative log-probability of the answer", "nats"),
    "lexical_dissimilarity": ("1 − mean ROUGE-L with the other answers", "0 to 1"),
    "factual_reason": ("why the answer has no factual uncertainty", ""),
    "judge_failure": ("why a judge gave no answer about this one; null where it did, or there is no text", ""),
    "claims": ("the claiming sentences, each with how little the other answers support it", "0 to 1"),
    "acceptable": ("the judge's probability that the answer is acceptable, by principle", "probability, 0 to 1"),
    "agreement": ("how far every answer to the prompt, in order, means what this one means", "0 to 1"),
    "support": ("how far every answer, in order, supports this one's sentences; null for itself", "0 to 1"),
}
"""Meaning and unit of a column; `chosen_x` and `rejected_x` mean x of that side."""


class Column(NamedTuple):
    """A line of a card's table of columns."""

    name: str
    """A field of a struct stands behind its column: `responses.text`."""
    kind: str
    meaning: str
    unit: str


def described(table: pa.Schema) -> Iterator[Column]:
    """Yield every column of a table, and every field of its structs but a message's."""
    for field in table:
        yield from _columns(field, "")


def describe(name: str) -> tuple[str, str]:
    """Return meaning and unit of a column; `chosen_x` and `rejected_x` mean x of that side.

    Raises:
        KeyError: the column is not described.
    """
    if name in MEANINGS:
        return MEANINGS[name]
    side, _, rest = name.partition("_")
    if side not in ("chosen", "rejected"):
        raise KeyError(name)
    meaning, unit = MEANINGS[rest]
    return f"{side} answer: {meaning}", unit


def _columns(field: pa.Field, prefix: str) -> Iterator[Column]:
    meaning, unit = describe(field.name)
    inner = field.type.value_type if pa.types.is_list(field.type) else field.type
    many = "list of " if pa.types.is_list(field.type) else ""
    if field.type == schema.MESSAGES:
        yield Column(prefix + field.name, "list of messages", meaning, unit)
    elif pa.types.is_struct(inner):
        yield Column(prefix + field.name, f"{many}structs", meaning, unit)
        for part in inner:
            yield from _columns(part, f"{prefix}{field.name}.")
    else:
        yield Column(prefix + field.name, many + str(inner).replace("double", "float64"), meaning, unit)
