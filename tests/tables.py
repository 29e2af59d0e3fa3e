"""Hand-made rows for the tests of the core: a prompt with replies, whose scores a test sets one by one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import settings

from udasa import schema
from udasa.backends import ModelSpec, Principle, Sampling
from udasa.limits import Planted
from udasa.prompts import prompt_id
from udasa.recipe import Entailment, Judging, Recipe, Source

EXAMPLES = settings(deadline=None, derandomize=True, max_examples=60)
"""The same examples on every machine, and no timing."""

FAKE = ModelSpec(model="fake", backend="fake")

CONSTITUTION = (Principle(id="kind", question="Is it kind?"), Principle(id="true", question="Is it true?"))


def ask(content: str) -> list[dict[str, str]]:
    """One user's turn."""
    return [{"role": "user", "content": content}]


def prompt(name: str, **changes: Any) -> dict[str, Any]:
    """A row of the prompts table whose id is its name."""
    row = {"prompt_id": name, "messages": ask(name), "task": "helpfulness", "domain": "general"}
    return row | {"source": "hand", "source_row": 0, "source_revision": None, "license": "apache-2.0"} | changes


def prompts(*names: str) -> pa.Table:
    """A prompts table, a row a name."""
    rows = [prompt(name, source_row=number) for number, name in enumerate(names)]
    return pa.Table.from_pylist(rows, schema.PROMPTS)


def reply(text: str, u: float | None = None, risk: float | None = 0.0, **changes: Any) -> dict[str, Any]:
    """A scored response; `u` is its semantic uncertainty, the other two dimensions have no value unless given."""
    row: dict[str, Any] = {"text": text, "num_tokens": 2, "logprob_sum": -2.0, "logprob_mean": -1.0}
    row |= {"finish_reason": "stop", "seed": 0, "cluster": 0}
    row |= dict.fromkeys(
        (*schema.SCORES, *schema.ESTIMATES, *schema.EVIDENCE, "factual_reason", "judge_failure", "claims", "acceptable")
    )
    return row | {"semantic_uncertainty": u, "value_risk": risk} | changes


def answered(name: str, *replies: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A scored row; the replies' ids are `<name>-0`, `<name>-1`, …"""
    row = prompt(name, semantic_entropy=0.0, num_semantic_sets=1, **changes) | dict.fromkeys(schema.PROMPT_ESTIMATES)
    return row | {"responses": [{"response_id": f"{name}-{k}", **one} for k, one in enumerate(replies)]}


def scored(*rows: Mapping[str, Any]) -> pa.Table:
    """A scored table."""
    return pa.Table.from_pylist(list(rows), schema.SCORED)


def responses(*rows: Mapping[str, Any]) -> pa.Table:
    """A responses table: the same rows before they were scored."""
    unscored = [
        {key: value for key, value in row.items() if key in schema.RESPONSES.names}
        | {"responses": [{key: one[key] for key in _RESPONSE} for one in row["responses"]]}
        for row in rows
    ]
    return pa.Table.from_pylist(unscored, schema.RESPONSES)


_RESPONSE = [field.name for field in schema.RESPONSES.field("responses").type.value_type]


def exploded(*rows: Mapping[str, Any]) -> pl.DataFrame:
    """A row a response, as `calibrate` returns them, with `u` as given and not as a rank."""
    frame = pl.DataFrame(pl.from_arrow(scored(*rows))).explode("responses").unnest("responses")
    return frame.with_columns(u=pl.col("semantic_uncertainty"))


def write_jsonl(path: Path, *rows: Any) -> Path:
    """Write one JSON value a line; a text stands for {"prompt": text}."""
    values = ({"prompt": row} if isinstance(row, str) else row for row in rows)
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


def recipe(*paths: Path, **changes: Any) -> Recipe:
    """A recipe of fakes that reads these files, and asks nothing beside them."""
    sources = tuple(Source(name=path.stem, task="helpfulness", path=str(path)) for path in paths)
    values: dict[str, Any] = {"name": "hand", "sources": sources, "policy": FAKE, "sampling": Sampling(k=4)}
    values |= {"judging": Judging(constitution=CONSTITUTION), "entailment": Entailment(model=FAKE)}
    values |= {"planted": Planted(path=None)}
    return Recipe(**(values | changes))


def id_of(content: str) -> str:
    """The prompt id of one user's turn."""
    return prompt_id([{"role": "user", "content": content}])
