"""Sources -> prompts, and the ledger lines of those that do not enter."""

import hashlib
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from tests.tables import ask, id_of, recipe, write_jsonl
from udasa import prompts, schema
from udasa.digests import stable_hash
from udasa.errors import UserError
from udasa.recipe import Recipe, Source

TASKS = schema.TASKS


def collected(path: Path | None, **changes: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = prompts.collect(of(path, **changes)).table.to_pylist()
    return rows


def of(path: Path | None, system: str | None = None, seed: int = 0, **changes: Any) -> Recipe:
    source = Source(**{"name": "mine", "task": "helpfulness", "path": path and str(path)} | changes)
    return recipe(Path("unused"), sources=(source,), system=system, seed=seed)


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][-1]["content"] for row in rows]


def refused(path: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        prompts.collect(of(path, **changes))
    return str(caught.value)


# --- normalise and ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a b \n", "a b"),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\nb"),
        ("Cafe\u0301", "Café"),
        ("\u00a0x\u3000", "x"),
        ("a  b", "a  b"),
        ("ﬁ", "ﬁ"),
        (" \r\n ", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert prompts.normalise(text) == expected
    assert prompts.normalise(expected) == expected


def test_an_id_is_the_hash_of_the_messages() -> None:
    digest = hashlib.sha256(b'[["user", "What is DNA?"]]').hexdigest()
    assert prompts.prompt_id([{"role": "user", "content": "What is DNA?"}]) == digest[:16]


def test_an_id_knows_roles_borders_and_letters() -> None:
    turns = [[("user", "ab")], [("user", "a"), ("user", "b")], [("system", "ab")], [("user", "aB")], [("user", "ab ")]]
    ids = {prompts.prompt_id([{"role": r, "content": c} for r, c in turn]) for turn in turns}
    assert len(ids) == len(turns)


# --- files


def test_a_row_carries_its_source(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", "  What is DNA?\r\n")
    revision = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert collected(path, license="mit", domain="law") == [
        {
            "prompt_id": id_of("What is DNA?"),
            "messages": ask("What is DNA?"),
            "task": "helpfulness",
            "domain": "law",
            "source": "mine",
            "source_row": 0,
            "source_revision": revision,
            "license": "mit",
        }
    ]


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    frame = pl.DataFrame(columns)
    {".jsonl": frame.write_ndjson, ".parquet": frame.write_parquet, ".csv": frame.write_csv}[path.suffix](path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    columns = {
        "question": ["One, two?", 'A "quoted"\nline', "Ünï"],
        "field": ["health", None, "law"],
        "extra": [1, 2, 3],
    }
    path = write(tmp_path / f"x{suffix}", {"extra": [1, 2, 3]} | columns)
    rows = collected(path, prompt_column="question", domain_column="field", domain="technical")
    assert texts(rows) == columns["question"]
    assert [row["domain"] for row in rows] == ["health", "technical", "law"]
    assert [row["source_row"] for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_a_column_that_begins_with_many_nulls_is_read(tmp_path: Path, suffix: str) -> None:
    num = 200
    columns = {"prompt": [f"word{i}" for i in range(num)] + ["late"], "domain": [None] * num + ["law"]}
    rows = collected(write(tmp_path / f"x{suffix}", columns), domain_column="domain")
    assert Counter(row["domain"] for row in rows) == {"general": num, "law": 1}


def test_a_csv_prompt_may_look_like_a_number(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt\n12\n007\n")
    assert texts(collected(path)) == ["12", "007"]


def test_a_field_that_only_some_lines_have(tmp_path: Path) -> None:
    lines = [{"prompt": f"word{i}"} for i in range(150)] + [{"prompt": "late", "domain": "law"}]
    rows = collected(write_jsonl(tmp_path / "x.jsonl", *lines), domain_column="domain")
    assert [row["domain"] for row in rows] == ["general"] * 150 + ["law"]


CHAT = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who are you?\r\n"},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_of_messages(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", {"chat": [CHAT, ask("Hi")]})
    rows = collected(path, prompt_column="chat")
    assert [(m["role"], m["content"]) for m in rows[0]["messages"]] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Who are you?"),
    ]
    assert rows[1]["prompt_id"] == id_of("Hi")


@pytest.mark.parametrize("turned", [False, True])
def test_texts_and_messages_in_one_column(tmp_path: Path, turned: bool) -> None:
    lines = [{"prompt": "plain"}, {"prompt": ask("spoken")}]
    path = write_jsonl(tmp_path / "x.jsonl", *(reversed(lines) if turned else lines))
    assert sorted(texts(collected(path))) == ["plain", "spoken"]


def test_the_system_message_goes_before_prompts_that_have_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"prompt": [CHAT, ask("Something else")]})
    rows = collected(path, system=" Be kind. ")
    assert [row["messages"][0] for row in rows] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
    ]
    assert rows[1]["prompt_id"] != id_of("Something else")


def test_a_hub_data_set_is_read_at_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return SimpleNamespace(to_polars=lambda: pl.DataFrame({"prompt": ["Hi"]}))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    rows = collected(None, dataset="org/set", config="main", split="test", revision="abc")
    assert asked == [(("org/set", "main"), {"split": "test", "revision": "abc"})]
    assert (texts(rows), rows[0]["source_revision"]) == (["Hi"], "abc")


# --- duplicates

LONG = "Tell me in a few short words why the sky over the sea is blue in the morning and red at night"


def test_exact_duplicates_are_dropped_with_the_reason(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", "One?", " One?\n", "Two?")
    second = write_jsonl(tmp_path / "b.jsonl", "Three?", "Two?")
    found = prompts.collect(recipe(first, second))
    assert texts(found.table.to_pylist()) == ["One?", "Two?", "Three?"]
    assert found.dropped.schema == schema.LEDGER
    assert found.dropped.to_pylist() == [
        {"source": source, "source_row": 1, "prompt_id": name, "outcome": "duplicate-prompt", "detail": name}
        for source, name in (("a", id_of("One?")), ("b", id_of("Two?")))
    ]


def test_near_duplicates_name_their_twin(tmp_path: Path) -> None:
    near = LONG + " here"
    path = write_jsonl(tmp_path / "a.jsonl", "Two?", LONG, near, LONG.upper() + "!")
    found = prompts.collect(recipe(path))
    assert texts(found.table.to_pylist()) == ["Two?", LONG]
    assert [(row["source_row"], row["outcome"], row["detail"]) for row in found.dropped.to_pylist()] == [
        (2, "near-duplicate-prompt", id_of(LONG)),
        (3, "near-duplicate-prompt", id_of(LONG)),
    ]
    assert [row["prompt_id"] for row in found.dropped.to_pylist()] == [id_of(near), id_of(LONG.upper() + "!")]


def test_the_threshold_is_a_setting(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", LONG, LONG + " here")
    assert prompts.collect(recipe(path, near_duplicate=1.0)).table.num_rows == 2
    assert prompts.collect(recipe(path, near_duplicate=0.5)).table.num_rows == 1


def test_prompts_well_above_the_threshold_are_all_found(tmp_path: Path) -> None:
    """38 of 42 word 3-grams are shared: a Jaccard similarity of 0.905, against a threshold of 0.8."""
    pairs = [" ".join(f"word{i}of{n}" for i in range(words)) for n in range(60) for words in (40, 44)]
    found = prompts.collect(recipe(write_jsonl(tmp_path / "x.jsonl", *pairs)))
    assert found.dropped["source_row"].to_pylist() == list(range(1, 120, 2))


def test_the_threshold_is_held_exactly(tmp_path: Path) -> None:
    """38 of 47 word 3-grams are 0.809, and 38 of 48 are 0.792; an estimate would mistake some of sixty."""
    for longer, kept in ((49, 60), (50, 120)):
        texts = [" ".join(f"word{i}of{n}" for i in range(words)) for n in range(60) for words in (40, longer)]
        assert prompts.collect(recipe(write_jsonl(tmp_path / "x.jsonl", *texts))).table.num_rows == kept


@pytest.mark.parametrize(
    "different",
    [
        ("How do I boil an egg?", "How do I fry an egg?"),
        ("Wie spät ist es?", "Where is the station?"),
        ("今天天气怎么样", "明天天气怎么样"),
        ("What is C?", "What is C++?"),
        ("What is 3 + 5?", "What is 3 - 5?"),
        ("???", "!!!"),
        ("😀", "🎉"),
    ],
)
def test_other_prompts_are_kept(tmp_path: Path, different: tuple[str, str]) -> None:
    assert texts(collected(write_jsonl(tmp_path / "x.jsonl", *different))) == list(different)


def test_the_first_in_source_order_stays(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", "Same?", f"Only {name}") for name in "ab"]
    for order in (paths, paths[::-1]):
        table = prompts.collect(recipe(*order)).table
        assert table["source"].to_pylist() == [order[0].stem] * 2 + [order[1].stem]


# --- limits


NUM = 50


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "x.jsonl", *(f"word{i}" for i in range(NUM)))


def test_a_limit_takes_the_rows_with_the_smallest_hash_in_file_order(numbered: Path) -> None:
    key = {i: stable_hash(5, "sample", id_of(f"word{i}")) for i in range(NUM)}
    expected = sorted(sorted(range(NUM), key=lambda i: key[i])[:7])
    assert [row["source_row"] for row in collected(numbered, limit=7, seed=5)] == expected
    assert expected != list(range(7))


def test_a_larger_limit_keeps_the_smaller_sample(numbered: Path) -> None:
    samples = [{row["prompt_id"] for row in collected(numbered, limit=n)} for n in (5, 20, NUM, 10 * NUM)]
    assert [len(sample) for sample in samples] == [5, 20, NUM, NUM]
    assert samples[0] < samples[1] < samples[2]


def test_the_sample_is_of_the_prompts_and_not_of_the_rows(numbered: Path, tmp_path: Path) -> None:
    turned = write_jsonl(tmp_path / "y.jsonl", *(f"word{i}" for i in reversed(range(NUM))))
    both = [{row["prompt_id"] for row in collected(path, limit=9)} for path in (numbered, turned)]
    assert both[0] == both[1]
    assert both[0] != {row["prompt_id"] for row in collected(numbered, limit=9, seed=1)}


# --- bad input


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "expected a text or a list of {role, content}, got None."),
        (7, "expected a text or a list of {role, content}, got 7."),
        ("", "it must end with a user's turn that is not empty, got"),
        (" \n", "it must end with a user's turn that is not empty, got"),
        ([], "it must end with a user's turn that is not empty, got []."),
        ([{"role": "user"}], "expected a text or a list of {role, content}, got"),
        ([{"role": "user", "content": None}], "it must end with a user's turn that is not empty, got"),
        ([{"role": "assistant", "content": "Hi"}], "it must end with a user's turn that is not empty, got"),
    ],
)
def test_a_row_without_a_prompt_is_named(tmp_path: Path, value: Any, message: str) -> None:
    text = refused(write_jsonl(tmp_path / "x.jsonl", {"prompt": value, "other": 1}))
    assert text.startswith("Row 0 of source 'mine' has no prompt: ")
    assert message in text


def test_the_row_is_the_one_at_fault(tmp_path: Path) -> None:
    assert refused(write_jsonl(tmp_path / "x.jsonl", "a", "b", "", "d")).startswith("Row 2 of source 'mine'")


def test_a_turn_of_nobody_is_refused(tmp_path: Path) -> None:
    chat = [{"role": "wizard", "content": "Abracadabra"}, {"role": "user", "content": "Hi"}]
    text = refused(write_jsonl(tmp_path / "x.jsonl", {"prompt": chat}))
    assert text.startswith("Row 0 of source 'mine'")
    assert "wizard" in text


def test_an_unknown_domain_is_named(tmp_path: Path) -> None:
    lines = [{"prompt": "a", "domain": "law"}, {"prompt": "b", "domain": "magic"}]
    text = refused(write_jsonl(tmp_path / "x.jsonl", *lines), domain_column="domain")
    assert text == "Row 1 of source 'mine' has domain 'magic'; expected one of general, health, law, technical."


@pytest.mark.parametrize("column", ["prompt_column", "domain_column"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, column: str) -> None:
    text = refused(write_jsonl(tmp_path / "x.jsonl", {"prompt": "a", "b": 1}), **{column: "question"})
    assert text.startswith("Source 'mine' has no column 'question'; its columns are ['prompt', 'b'].")


@pytest.mark.parametrize(("name", "text"), [("x.jsonl", ""), ("x.csv", ""), ("x.csv", "prompt\n"), ("x.jsonl", "\n\n")])
def test_an_empty_source_is_refused(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert refused(path).startswith("Source 'mine' is empty")


def test_an_empty_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"prompt": []}, schema={"prompt": pl.String}).write_parquet(path)
    assert refused(path).startswith("Source 'mine' is empty")


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("x.jsonl", b"not json\n"),
        ("x.jsonl", b'{"prompt": "a"'),
        ("x.jsonl", b'[{"prompt": "a"}]\n'),
        ("x.jsonl", b'{"prompt": "\xff"}\n'),
        ("x.parquet", b"PAR1 is not enough"),
        ("x.csv", b"prompt\na,b\n"),
        ("x.csv", b"prompt\n\xff\xfe\n"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, payload: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(payload)
    text = refused(path)
    assert "'mine'" in text
    assert str(path) in text


def test_a_broken_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt"; "c"}\n')
    assert "Row 2 of source 'mine'" in refused(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.touch()
    assert refused(path) == f"Source 'mine': {path} ends in '.xlsx'; expected .jsonl, .parquet or .csv."


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nope.jsonl"
    message = f"Source 'mine': there is no file at {path}. Give a .jsonl, .parquet or .csv file."
    assert refused(path) == message
    assert refused(tmp_path / "nope.jsonl", limit=3) == message
