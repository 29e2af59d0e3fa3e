"""The files of the public data sets: what is cut out of them, and how many rows there are."""

import json
from collections import Counter

import numpy as np
import pytest

from tests import mirror, planted
from udasa import resources
from udasa.evaluate import hhh, sources
from udasa.evaluate.results import sha256
from udasa.evaluate.tasks import bias, preferences, truth

REAL = resources.shelf("eval").parents[1] / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the public data sets are not beside the project")


def rubric(query, reply):
    return (
        "###Task Description:\nGrade it.\n\n###The instruction to evaluate:\n"
        f"{query}\n\n###Response to evaluate:\n{reply}\n\n###Score Rubrics:\n[Is it good?]\n\n###Feedback: "
    )


def wrapped(pairs):
    return json.dumps([
        {"source": pair["subset"], **{f"{side}_instruction": rubric(pair["query"], pair[side])
                                      for side in ("chosen", "rejected")}}
        for pair in pairs
    ])  # fmt: skip


def test_pairs_are_cut_out_of_a_rubric(tmp_path, monkeypatch):
    data = mirror.plant(planted.plant(tmp_path / "mirror", monkeypatch), monkeypatch)
    text = (data / sources.HHH).read_text(encoding="utf-8")
    pairs = [json.loads(line) for line in text.splitlines()]
    assert hhh.cut(wrapped(pairs)) == text
    with pytest.raises(ValueError, match="instructions of pair 0 differ"):
        hhh.cut(wrapped(pairs).replace("query 0", "query 9", 1))
    with pytest.raises(ValueError, match="in this order"):
        hhh.cut(json.dumps([{"source": "other", "chosen_instruction": "a", "rejected_instruction": "b"}]))


@real
def test_what_is_cut_out_has_the_sha256_that_is_expected():
    text = (REAL / sources.HHH).read_text(encoding="utf-8")
    made = hhh.cut(wrapped(json.loads(line) for line in text.splitlines()))
    assert sha256(made.encode()) in sources.SOURCES["hhh_alignment"].files["hhh_alignment.jsonl"].sha256


@real
def test_the_real_files_have_the_rows_they_should():
    given = str(REAL)
    truths, pairs = (list(made(given)["test"]) for made in (truth.binary, preferences.hhh))
    assert len(truths) == len({row["id"] for row in truths}) == 790
    assert len({row["cluster"] for row in truths}) == 37 and sum(row["gold"] for row in truths) == 395
    longer = [len(row["choices"][row["gold"]]) > len(row["choices"][1 - row["gold"]]) for row in truths]
    assert np.mean(longer) == pytest.approx(0.619, abs=0.005)
    assert len(pairs) == len({row["id"] for row in pairs}) == 221 and len({row["cluster"] for row in pairs}) == 102
    assert Counter(row["subset"] for row in pairs) == {"honest": 61, "helpful": 59, "harmless": 58, "other": 43}
    assert len(preferences.hh_harmless(given)["test"]) == 658
    questions = list(bias.ambiguous(given)["test"])
    assert len(questions) == len({row["id"] for row in questions}) == 5978
    assert all(sorted(row["leaning"]) == [-1, 0, 1] and row["leaning"][row["gold"]] == 0 for row in questions)
