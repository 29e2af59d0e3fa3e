"""The table schemas, and `conform`."""

from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pytest

from tests.tables import answered, prompts, reply, scored
from udasa import recipe, schema, uncertainty

TABLES = (schema.PROMPTS, schema.RESPONSES, schema.SCORED, schema.PAIRS, schema.LEDGER)

NUMBERS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("deep", pa.list_(pa.struct([pa.field("x", pa.float64()), pa.field("n", pa.int32())]))),
    ]
)


def numbers(*xs: float | None) -> pa.Table:
    rows = [{"id": str(i), "deep": [{"x": 0.0, "n": 1}, {"x": x, "n": 2}]} for i, x in enumerate(xs)]
    return pa.Table.from_pylist(rows, NUMBERS)


@pytest.mark.parametrize("table", TABLES)
def test_an_empty_table_conforms(table: pa.Schema) -> None:
    assert schema.conform(table.empty_table(), table).schema == table


def test_columns_come_in_the_order_and_types_of_the_schema() -> None:
    table = prompts("a", "b")
    mixed = table.select(sorted(table.column_names, reverse=True))
    assert mixed.column_names != schema.PROMPTS.names
    narrow = mixed.set_column(mixed.column_names.index("source_row"), "source_row", pa.array([0, 1], pa.int8()))
    assert schema.conform(narrow, schema.PROMPTS).equals(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["task", "domain"]), "missing ['task', 'domain'], unknown []"),
        (lambda t: t.append_column("mood", pa.array(["low"])), "missing [], unknown ['mood']"),
        (lambda t: t.rename_columns({"task": "tasks"}), "missing ['task'], unknown ['tasks']"),
    ],
)
def test_missing_and_unknown_columns_are_named(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match="columns do not fit") as caught:
        schema.conform(change(prompts("a")), schema.PROMPTS)
    assert message in str(caught.value)


def test_a_null_in_a_required_column_is_refused_and_the_column_named() -> None:
    table = prompts("a", "b")
    holed = table.set_column(table.column_names.index("task"), "task", pa.array(["helpfulness", None]))
    with pytest.raises(ValueError, match="'task'"):
        schema.conform(holed, schema.PROMPTS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_found_inside_lists_of_structs(bad: float) -> None:
    with pytest.raises(ValueError, match=r"Column 'deep\.x' holds NaN or infinity"):
        schema.conform(numbers(0.5, None, bad), NUMBERS)


def test_only_the_rows_of_a_slice_count() -> None:
    table = pa.concat_tables([numbers(float("nan")), numbers(0.5, float("inf"))])
    assert schema.conform(table.slice(1, 1), NUMBERS).to_pylist() == numbers(0.5).to_pylist()


def test_null_numbers_and_null_lists_are_kept() -> None:
    rows = [{"id": "a", "deep": None}, {"id": "b", "deep": [None, {"x": None, "n": None}]}]
    assert schema.conform(pa.Table.from_pylist(rows, NUMBERS), NUMBERS).to_pylist() == rows


def test_a_value_of_another_type_is_refused() -> None:
    table = prompts("a")
    bent = table.set_column(table.column_names.index("source_row"), "source_row", pa.array([0.5]))
    with pytest.raises(ValueError, match=r"0\.5"):
        schema.conform(bent, schema.PROMPTS)


def test_conform_is_idempotent() -> None:
    table = schema.conform(scored(answered("a", reply("x", 0.5))), schema.SCORED)
    assert schema.conform(table, schema.SCORED).equals(table)


def test_the_recipe_knows_the_same_words() -> None:
    assert get_args(recipe.Task) == schema.TASKS
    assert get_args(recipe.Domain) == schema.DOMAINS
    assert get_args(recipe.Stage) == schema.STAGES
    assert tuple(recipe.Weights.__dataclass_fields__) == schema.DIMENSIONS
    assert sorted(get_args(get_type_hints(recipe.Entailment)["clustering"])) == sorted(uncertainty.RULES)


def test_every_dimension_and_score_has_its_columns() -> None:
    assert {f"{name}_uncertainty" for name in schema.DIMENSIONS} <= set(schema.SCORES)
    sides = [f"{side}_{name}" for side in ("chosen", "rejected") for name in schema.SCORES]
    assert [name for name in schema.PAIRS.names if name in sides] == sides
    fields = [field.name for field in schema.SCORED.field("responses").type.value_type]
    before = [field.name for field in schema.RESPONSES.field("responses").type.value_type]
    scores = [*schema.SCORES, *schema.ESTIMATES]
    assert fields == [
        *before,
        "cluster",
        *scores,
        "factual_reason",
        "judge_failure",
        "claims",
        "acceptable",
        *schema.EVIDENCE,
    ]
    assert set(schema.PROMPT_ESTIMATES) < set(schema.SCORED.names)
