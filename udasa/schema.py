"""The Arrow schema of every table, and `conform`, which holds a table to it.

One row is one prompt from `prompts` to `scored`; its K responses are a list of structs. A `pairs` row is one
preference pair. Higher uncertainty means more uncertain, in every column.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))

TASKS = ("harmlessness", "helpfulness", "truthfulness", "sentiment")
DOMAINS = ("general", "health", "law", "technical")
STAGES = ("conservative", "moderate", "exploratory")
SPLITS = ("train", "test")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


PROMPTS = pa.schema(
    [
        _required("prompt_id", pa.string()),
        _required("messages", MESSAGES),
        _required("task", pa.string()),
        _required("domain", pa.string()),
        _required("source", pa.string()),
        _required("source_row", pa.int64()),
        pa.field("source_revision", pa.string()),
        pa.field("license", pa.string()),
    ]
)

_RESPONSE = [
    pa.field("response_id", pa.string()),
    pa.field("text", pa.string()),
    pa.field("num_tokens", pa.int32()),
    pa.field("logprob_sum", pa.float64()),
    pa.field("logprob_mean", pa.float64()),
    pa.field("finish_reason", pa.string()),
    pa.field("seed", pa.int64()),
]

SCORES = (
    "semantic_uncertainty",
    "factual_uncertainty",
    "value_uncertainty",
    "value_disagreement",
    "value_risk",
    "value_position_bias",
)
"""The response-level score columns, in the order of the tables."""

ESTIMATES = (
    "eccentricity",
    "degree",
    "cluster_surprisal",
    "selfcheck_nli",
    "cocoa",
    "p_true",
    "negative_logprob_mean",
    "negative_logprob_sum",
    "lexical_dissimilarity",
)
"""Other response-level estimators: columns of `scored` that the pairs do not carry."""

EVIDENCE = ("agreement", "support")
"""What every response of the row, in order, says about this one: the semantic kernel k_ij, and its mean support of this
one's claims (null for itself and for an empty text). Semantic and factual uncertainty are means of these, so that both
can be made again from some of the responses."""

PROMPT_ESTIMATES = (
    "discrete_semantic_entropy",
    "degree_matrix",
    "eigenvalue_laplacian",
    "kernel_language_entropy",
    "sar",
    "eigenscore",
)
"""Prompt-level estimators of `scored`, besides `semantic_entropy` and `num_semantic_sets`."""

FACTUAL_REASONS = {
    "no-text": "the response is empty or blank",
    "refusal": "every sentence declines to answer",
    "no-claim": "no sentence has a letter in it",
    "no-other-response": "no other response has a text to compare with",
}
"""Why a response has no factual uncertainty, and what it means."""

CLAIMS = pa.list_(pa.struct([pa.field("text", pa.string()), pa.field("unsupported", pa.float64())]))
"""The claiming sentences of a response, each with its factual uncertainty; null where there is a reason for none."""

DIMENSIONS = ("semantic", "factual", "value")
"""The three uncertainties that make `u`; each is the column `<dimension>_uncertainty`."""

_SCORED_RESPONSE = [
    *_RESPONSE,
    pa.field("cluster", pa.int32()),
    *(pa.field(name, pa.float64()) for name in (*SCORES, *ESTIMATES)),
    pa.field("factual_reason", pa.string()),
    pa.field("judge_failure", pa.string()),
    pa.field("claims", CLAIMS),
    pa.field("acceptable", pa.list_(pa.float64())),
    *(pa.field(name, pa.list_(pa.float64())) for name in EVIDENCE),
]

RESPONSES = pa.schema(
    [
        *PROMPTS,
        _required("responses", pa.list_(pa.struct(_RESPONSE))),
        pa.field("failure", pa.string()),
        pa.field("failure_detail", pa.string()),
    ]
)
"""`failure`: why a prompt has no responses, an outcome of the ledger; null where it has them."""

SCORED = pa.schema(
    [
        *PROMPTS,
        _required("responses", pa.list_(pa.struct(_SCORED_RESPONSE))),
        _required("semantic_entropy", pa.float64()),
        _required("num_semantic_sets", pa.int32()),
        *(pa.field(name, pa.float64()) for name in PROMPT_ESTIMATES),
    ]
)


def some_of_scored(columns: Sequence[str], fields: Sequence[str]) -> pa.Schema:
    """Return `SCORED` with these columns alone, and with these fields of the responses (none: without responses)."""
    found = [SCORED.field(name) for name in columns]
    if fields:
        response = SCORED.field("responses").type.value_type
        found.append(_required("responses", pa.list_(pa.struct([response.field(name) for name in fields]))))
    return pa.schema(found)


PAIRS = pa.schema(
    [
        _required("prompt_id", pa.string()),
        _required("prompt", MESSAGES),
        _required("chosen", MESSAGES),
        _required("rejected", MESSAGES),
        _required("chosen_id", pa.string()),
        _required("rejected_id", pa.string()),
        _required("u_chosen", pa.float64()),
        _required("u_rejected", pa.float64()),
        _required("gap", pa.float64()),
        pa.field("gap_low", pa.float64()),
        pa.field("gap_high", pa.float64()),
        *(pa.field(f"{side}_{name}", pa.float64()) for side in ("chosen", "rejected") for name in SCORES),
        _required("stage", pa.string()),
        _required("split", pa.string()),
        _required("task", pa.string()),
        _required("domain", pa.string()),
        _required("source", pa.string()),
        pa.field("license", pa.string()),
    ]
)

LEDGER = pa.schema(
    [
        _required("source", pa.string()),
        _required("source_row", pa.int64()),
        _required("prompt_id", pa.string()),
        _required("outcome", pa.string()),
        pa.field("detail", pa.string()),
    ]
)

OUTCOMES = {
    "paired": "made a pair",
    "duplicate-prompt": "the same prompt stands earlier in the sources",
    "near-duplicate-prompt": "a nearly identical prompt stands earlier in the sources (MinHash)",
    "context-too-long": "the prompt and its answer do not fit the policy's context",
    "engine-error": "the policy's engine gave no answer, after its own retries",
    "judge-error": "a judge gave no answer about one of the responses, after its engine's own retries",
    "empty-or-truncated": "fewer than two responses are complete and not empty",
    "identical-responses": "fewer than two distinct texts among the complete responses",
    "no-score": "fewer than two responses have an uncertainty",
    "no-response-under-risk-ceiling": "every scored response is above the risk ceiling",
    "no-suboptimal-response": "no response with another text is at least as uncertain as the chosen one",
    "tie": "every such gap to the chosen response is below epsilon",
    "gap-straddles-threshold": "the interval of the gap covers the threshold of a stage",
}
"""Every outcome a prompt can have in the ledger, and what it means."""


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with exactly the columns, order and types of `schema`.

    Raises:
        ValueError: a column or a struct's field is missing or unknown, a required value is null, or a float is not
            finite.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    unknown = [name for name in table.column_names if name not in schema.names]
    if missing or unknown:
        raise ValueError(f"The table's columns do not fit: missing {missing}, unknown {unknown}.")
    for field in schema:
        column = table[field.name]
        if not field.nullable and column.null_count:
            raise ValueError(f"Column '{field.name}' has {column.null_count} nulls; it must have none.")
        if _struct_fields(column.type) != _struct_fields(field.type):
            raise ValueError(
                f"Column '{field.name}' holds {_struct_fields(column.type)}; expected {_struct_fields(field.type)}."
            )
    table = table.select(schema.names).cast(schema).combine_chunks()
    for field in schema:
        column = table[field.name]
        for path, values in _floats(field.name, column.combine_chunks()):
            if not pc.all(pc.is_finite(values), min_count=0).as_py():
                raise ValueError(f"Column '{path}' holds NaN or infinity; a missing number must be null.")
    return table


def _struct_fields(kind: pa.DataType) -> list[str] | None:
    """Return the field names of a list of structs, sorted; None for any other type."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return sorted(kind.field(i).name for i in range(kind.num_fields)) if pa.types.is_struct(kind) else None


def _floats(path: str, values: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Walk lists and structs down to the float leaves."""
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    kind = values.type
    if pa.types.is_floating(kind):
        yield path, values.drop_null()
    elif pa.types.is_list(kind):
        yield from _floats(path, values.flatten())
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _floats(f"{path}.{kind.field(index).name}", values.field(index))
