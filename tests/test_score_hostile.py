"""Responses in any script, form and length -> scored: rows that conform, or a refusal."""

from typing import Any

import pytest

from tests import tiny
from tests.tables import CONSTITUTION, answered, reply
from tests.test_score import score, texts
from udasa.backends import ModelSpec, make_entailer
from udasa.backends_fake import FakeEntailer, FakeJudge

LONG = " ".join(["word"] * 20_000)

HOSTILE = {
    "empty": ("", "A is.", "B is."),
    "all-empty": ("", "", ""),
    "one": ("A is.",),
    "blank": ("  \n\t", "A is.", "\u200b"),
    "long": (LONG, f"{LONG} more", "A is."),
    "punctuation": ("?!", "...", "—", "A is."),
    "emoji": ("😀 🎉", "👩‍👩‍👧‍👦", "😀 A is."),
    "chinese": ("今天天气很好。我们去公园吧！", "今天下雨。", "天气很好。"),
    "arabic": ("يذهب الولد إلى المدرسة. هل تعلم؟", "نعم.", "لا أعلم."),
    "hindi": ("यह एक वाक्य है। यह दूसरा है।", "हाँ।", "नहीं।"),
    "thai": ("สวัสดีครับ วันนี้อากาศดี", "ฝนตก", "ไม่รู้"),
    "mixed": ("Yes 是 да.", "\x00 control\x85", "e\u0301 é", "a\u2028b\u2029c"),
    "equal": ("A is.", "A is.", "A is.", "A is."),
}

LOGPROBS = {
    "all": lambda i: {},
    "some": lambda i: {"logprob_mean": None, "logprob_sum": None} if i == 0 else {},
    "none": lambda i: {"logprob_mean": None, "logprob_sum": None},
    "unlikely": lambda i: {"logprob_mean": -1000.0 * (i + 1), "logprob_sum": -1e6},
}


def hostile(logprobs: str) -> list[dict[str, Any]]:
    """Rows of every kind in one table, so that K differs from row to row."""
    change = LOGPROBS[logprobs]
    return [answered(n, *(reply(t, **change(i)) for i, t in enumerate(ts))) for n, ts in HOSTILE.items()]


@pytest.mark.parametrize("logprobs", LOGPROBS)
def test_hostile_rows_are_scored_and_conform(logprobs: str) -> None:
    """`conform` refuses NaN, infinity and a null in a required column: reaching it is most of the test."""
    rows = score(*hostile(logprobs), entailer=FakeEntailer(), judge=FakeJudge(CONSTITUTION))
    for row in rows:
        texts_of = HOSTILE[row["prompt_id"]]
        assert len(row["responses"]) == len(texts_of)
        assert (row["sar"] is None) == (logprobs in ("some", "none"))
        for text, one in zip(texts_of, row["responses"], strict=True):
            assert (
                (one["factual_uncertainty"] is None) == (one["factual_reason"] is not None) == (one["claims"] is None)
            )
            assert (one["acceptable"] is None) == (text == "")
            assert (one["lexical_dissimilarity"] is None) == (len(texts_of) == 1)
            assert (one["cocoa"] is None) == (len(texts_of) == 1 or logprobs in ("some", "none"))
            assert (one["negative_logprob_mean"] is None) == (one["logprob_mean"] is None)


def test_a_row_without_responses_is_refused() -> None:
    with pytest.raises(ValueError, match="Prompt p has no responses"):
        score(answered("p"))


@pytest.mark.parametrize("name", ["chinese", "arabic", "hindi"])
def test_sentences_are_found_in_other_scripts(name: str) -> None:
    row = score(texts(name, *HOSTILE[name]), entailer=FakeEntailer())[0]
    assert len(row["responses"][0]["claims"]) == 2
    assert row["responses"][0]["factual_reason"] is None


def test_hostile_rows_pass_through_a_real_entailer() -> None:
    """A tiny classifier with random weights; the long text is cut to its context."""
    nli = make_entailer(ModelSpec(model=str(tiny.nli())), "nli", 0.8)
    for row in score(*hostile("some"), entailer=nli, judge=FakeJudge(CONSTITUTION)):
        assert all(0 <= one["semantic_uncertainty"] <= 1 for one in row["responses"])
        assert row["eigenscore"] is None
