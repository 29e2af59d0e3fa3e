"""Scored rows -> staged pairs: the same, however the rows are parted and wherever they come from."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builds
from tests.tables import EXAMPLES, answered, reply, scored
from udasa import pairing, run, schema
from udasa.errors import UserError
from udasa.pairing import of_build, of_table, pair_and_stage
from udasa.recipe import Pairing, Recipe, Staging, Weights

PLAIN = builds.recipe()
WARY = builds.recipe(pairing=Pairing(gap_resamples=100), staging=Staging(abstain=True), weights=Weights(value=0.0))


def made(parts: pairing.Parts, settings: Recipe) -> tuple[list[pa.Table], pairing.Staged]:
    tables: list[pa.Table] = []

    def write(number: int, table: pa.Table) -> None:
        assert number == len(tables)
        tables.append(table)

    return tables, pair_and_stage(parts, settings, None, write)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builds.built(tmp_path_factory.mktemp("build") / "build", shard_size=3)


@pytest.mark.parametrize("settings", [PLAIN, WARY], ids=["plain", "with intervals"])
@pytest.mark.parametrize("part", [1, 4, 7, 100])
def test_the_size_of_a_part_changes_no_row(
    build: Path, settings: Recipe, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,), expected = made(of_table(run.read(build, "scored")), settings)
    assert whole.num_rows > 10
    monkeypatch.setattr(pairing, "PART", part)
    tables, found = made(of_build(build), settings)
    assert len(tables) == -(-40 // part) and pa.concat_tables(tables).equals(whole)
    assert max(table.num_rows for table in tables) <= part
    assert found.thresholds == expected.thresholds
    assert found.outcomes.sort("prompt_id").equals(expected.outcomes.sort("prompt_id"))


@EXAMPLES
@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=6), st.integers(1, 4))
def test_prompts_of_any_number_of_responses_part_alike(us: list[list[float]], part: int) -> None:
    rows = [answered(f"{i:02d}", *(reply(f"text {k}", u) for k, u in enumerate(some))) for i, some in enumerate(us)]
    table = scored(*rows)
    alone = builds.recipe(weights=Weights(factual=0.0, value=0.0))

    def cut(columns: Any, fields: Any) -> Any:
        return (next(of_table(table.slice(at, part))(columns, fields)) for at in range(0, len(rows), part))

    one, other = (made(parts, alone) for parts in (of_table(table), cut))
    assert pa.concat_tables(one[0]).equals(pa.concat_tables(other[0]))
    assert one[1].outcomes.sort("prompt_id").equals(other[1].outcomes.sort("prompt_id"))


def test_without_a_pair_there_is_an_empty_table() -> None:
    (table,), staged = made(of_table(scored(answered("a", reply("x", 0.1)))), PLAIN_SEMANTIC)
    assert table.equals(schema.PAIRS.empty_table()) and staged.outcomes["outcome"].to_list() == ["empty-or-truncated"]


PLAIN_SEMANTIC = builds.recipe(weights=Weights(factual=0.0, value=0.0))


def test_a_number_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    table = scored(answered("a", reply("x", 0.1), reply("y", float("nan"))))
    with pytest.raises(ValueError, match=r"responses\.semantic_uncertainty' holds NaN"):
        made(of_table(table), PLAIN_SEMANTIC)
    run.write_shard(tmp_path / "scored" / "00000.parquet", table)
    with pytest.raises(ValueError, match=r"responses\.semantic_uncertainty' holds NaN"):
        made(of_build(tmp_path), PLAIN_SEMANTIC)


def test_a_dimension_without_a_value_is_refused() -> None:
    with pytest.raises(UserError, match="The factual dimension has no value"):
        made(of_table(scored(answered("a", reply("x", 0.1)))), builds.recipe(weights=Weights(value=0.0)))
