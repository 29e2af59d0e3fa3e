"""Near-duplicates, n-grams and evaluation data: what the audit finds alike."""

import json
import random
from itertools import product
from pathlib import Path

import polars as pl
import pytest

from tests import mirror
from tests.hub.client import run_client
from tests.hub.server import RunningHub
from tests.tables import write_jsonl
from udasa import resources
from udasa.errors import UserError
from udasa.lint import evaluation, overlap
from udasa.lint.evaluation import read_evaluation

# --- likeness


def brute(a: str, b: str) -> float:
    x, y = (overlap_shingles(text) for text in (a, b))
    return len(x & y) / len(x | y)


def overlap_shingles(text: str) -> set[tuple[str, ...]]:
    found = text.split()
    return {tuple(found[i : i + 3]) for i in range(max(1, len(found) - 2))}


def sentences(seed: int, num: int) -> list[str]:
    rng = random.Random(seed)
    made = [" ".join(rng.choices("abcdefgh", k=rng.randint(1, 14))) for _ in range(num)]
    for i in range(0, num - 1, 3):  # some are another one with a word more or less
        made[i + 1] = made[i] + rng.choice(["", " a", " b c"])
    return made


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_those_that_comparing_all_finds(threshold: float, seed: int) -> None:
    texts, others = sentences(seed, 150), sentences(seed + 10, 60)
    found = overlap.near_duplicates(overlap.sets(pl.Series(texts)), threshold)
    expected = {
        (i, j): s for i in range(150) for j in range(i + 1, 150) if (s := brute(texts[i], texts[j])) >= threshold
    }
    assert len(expected) > 20
    assert {(a, b): s for a, b, s in found.iter_rows()} == pytest.approx(expected)
    across = overlap.near_texts(overlap.sets(pl.Series(texts)), overlap.sets(pl.Series(others + texts[:5])), threshold)
    expected = {
        (i, j): s for i, j in product(range(150), range(65)) if (s := brute(texts[i], (others + texts)[j])) >= threshold
    }
    assert {(a, b): s for a, b, s in across.iter_rows()} == pytest.approx(expected)


def test_many_copies_are_all_found() -> None:
    found = overlap.near_duplicates(overlap.sets(pl.Series(["the same few words again"] * 500)), 0.7)
    assert set(found["a"]) | set(found["b"]) == set(range(500))
    assert found.height == 500 * overlap.WINDOW - overlap.WINDOW * (overlap.WINDOW + 1) // 2


@pytest.mark.parametrize("n", [1, 3, 8])
def test_ngrams_are_the_same_where_the_words_are(n: int) -> None:
    texts = [*sentences(1, 60), "", "..."]
    grams = [
        (int(r), int(h))
        for rows, hashes in overlap.ngrams(pl.Series(texts), n)
        for r, h in zip(rows, hashes, strict=True)
    ]
    named: dict[tuple[str, ...], set[int]] = {}
    by_row: dict[int, list[int]] = {}
    for r, h in grams:
        by_row.setdefault(r, []).append(h)
    for i, text in enumerate(texts):
        parts = overlap.words(text)
        expected = [tuple(parts[k : k + n]) for k in range(len(parts) - n + 1)] or ([tuple(parts)] if parts else [])
        assert len(by_row.get(i, [])) == len(expected)
        for gram, h in zip(expected, by_row.get(i, []), strict=True):
            named.setdefault(gram, set()).add(h)
    assert all(len(hashes) == 1 for hashes in named.values())
    assert len({next(iter(hashes)) for hashes in named.values()}) == len(named)


# --- evaluation data


def test_the_bundled_suite_is_read_without_being_asked() -> None:
    found = read_evaluation()
    lines = [
        json.loads(line)
        for path in (resources.shelf("eval") / "data").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {line.get("prompt") or line["text"] for line in lines} <= set(found.texts)
    assert not {line["domain"] for line in lines if "domain" in line} & set(found.texts)
    assert found.about.startswith("the bundled suite; sha256 ")


def test_evaluation_data_of_every_kind(tmp_path: Path) -> None:
    nested = {"id": 7, "turns": [{"role": "user", "content": "one two three four"}], "none": None, "label": "short"}
    write_jsonl(tmp_path / "a.jsonl", nested)
    pl.DataFrame({"x": ["five six seven eight"], "n": [1]}).write_csv(tmp_path / "b.csv")
    pl.DataFrame({"y": ["nine ten eleven twelve"]}).write_parquet(tmp_path / "c.parquet")
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.csv", "c.parquet")]
    found, before = read_evaluation(paths), read_evaluation()
    assert set(found.texts) - set(before.texts) == {
        "one two three four",
        "five six seven eight",
        "nine ten eleven twelve",
    }
    assert found.about.rpartition(" ")[2] != before.about.rpartition(" ")[2]
    assert read_evaluation(paths[::-1]).texts.to_list() == found.texts.to_list()


def test_evaluation_data_of_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mirror.plant(tmp_path / "mirror", monkeypatch)
    (folder / "ifeval" / "LICENSE.upstream").write_text("ten words of a licence are no evaluation data\n")
    found = set(read_evaluation([str(folder)]).texts) - set(read_evaluation().texts)
    assert {"Made-up question number 7?", "Made up: no commas, at least 3 words."} <= found
    assert any("Made-up request 5?" in text for text in found) and not any("licence" in text for text in found)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="with rows in"):
        read_evaluation([str(tmp_path / "empty")])


@pytest.mark.parametrize("name", ["nowhere.jsonl", "./x", "nowhere", "a/b/c", "no/file.csv"])
def test_evaluation_data_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match="There is no evaluation data at"):
        evaluation.read_evaluation([name])


def test_evaluation_data_of_a_hub(hub: RunningHub, tmp_path: Path) -> None:
    def upload() -> str:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo("acme/exam", repo_type="dataset", exist_ok=True)
        line = b'{"question": "which river runs through the town of Ulm"}\n'
        return api.upload_file(
            path_or_fileobj=line, path_in_repo="test.jsonl", repo_id="acme/exam", repo_type="dataset"
        ).oid

    def read(name: str) -> list[str]:
        from udasa.lint import read_evaluation

        return [text for text in read_evaluation([name]).texts if "Ulm" in text]

    def miss() -> str:
        from udasa.errors import UserError
        from udasa.lint import read_evaluation

        try:
            read_evaluation(["acme/nowhere"])
        except UserError as error:
            return str(error)
        return ""

    commit = run_client(hub, upload, home=tmp_path, token=hub.token())
    for name in ("acme/exam", f"acme/exam@{commit}"):
        assert run_client(hub, read, name, home=tmp_path, token=hub.token()) == [
            "which river runs through the town of Ulm"
        ]
    assert run_client(hub, miss, home=tmp_path, token=hub.token()).startswith(
        "The evaluation data acme/nowhere cannot be read: "
    )
