"""The audit: for every finding rows that have it and rows that do not, exact counts, and what a limit does."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from tests.tables import answered, ask, recipe, reply, scored
from udasa import resources
from udasa.limits import LIMITS, Lint
from udasa.lint import Finding, lint
from udasa.lint.evaluation import Evaluation, read_evaluation
from udasa.recipe import Pairing, Recipe, Training
from udasa.schema import STAGES, TASKS

NUM = 24
SETTINGS = recipe(Path("unused"), pairing=Pairing(risk_ceiling=0.9), training=Training(max_length=40))
NOTHING = Evaluation(pl.Series([], dtype=pl.String), "nothing; sha256 0")

Row = dict[str, Any]


def row(i: int) -> Row:
    """A pair that no finding counts; every second chosen is the longer one, by as much as the next is the shorter."""
    name, long, short = f"p{i:02d}", f"Long answer{i} with some more words.", f"Brief answer{i} here it is."
    return {
        "prompt_id": name,
        "prompt": ask(" ".join(f"{word}{i}" for word in ("how", "does", "one", "build", "the", "house", "well"))),
        "chosen_text": (long, short)[i % 2],
        "rejected_text": (short, long)[i % 2],
        "chosen_id": f"{name}-0",
        "rejected_id": f"{name}-1",
        "u_chosen": i / NUM,
        "gap": 0.5,
        "chosen_value_risk": i / 100,
        "finish_reasons": ("stop", "stop"),
        "stage": STAGES[i % 3],
        "split": "test" if i in (5, 17) else "train",
        "task": TASKS[(i // 3) % 4],
        "source": ("left", "right")[(i // 3) % 2],
        "outcome": "paired",
    }


def tables(rows: list[Row]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The pairs, scored and ledger tables of such rows; the ledger has two more prompts that made no pair."""
    sides = [
        [[{"role": "assistant", "content": one[f"{side}_text"]}] for one in rows] for side in ("chosen", "rejected")
    ]
    frame = pl.DataFrame(rows, schema_overrides={"u_chosen": pl.Float64, "chosen_value_risk": pl.Float64}, strict=False)
    pairs = frame.drop("chosen_text", "rejected_text", "finish_reasons", "outcome").with_columns(
        chosen=pl.Series(sides[0]), rejected=pl.Series(sides[1])
    )
    answers = pl.DataFrame(
        pl.from_arrow(
            scored(
                *(
                    answered(
                        one["prompt_id"],
                        reply(
                            one["chosen_text"], risk=one["chosen_value_risk"], finish_reason=one["finish_reasons"][0]
                        ),
                        reply(
                            one["rejected_text"], risk=one["chosen_value_risk"], finish_reason=one["finish_reasons"][1]
                        ),
                    )
                    for one in rows
                )
            )
        )
    )
    outcomes = [*(one["outcome"] for one in rows), "empty-or-truncated", "near-duplicate-prompt"]
    ids = [*(one["prompt_id"] for one in rows), "x1", "x2"]
    return pairs, answers, pl.DataFrame({"prompt_id": ids, "outcome": outcomes})


def words(conversations: Any) -> list[int]:
    """Count words in the place of tokens."""
    return [sum(len(turn["content"].split()) for turn in conversation) for conversation in conversations]


def audit(rows: list[Row], settings: Recipe = SETTINGS, against: Evaluation = NOTHING) -> dict[str, Finding]:
    return {f.name: f for f in lint(*tables(rows), settings, against, words)}


def changed(changes: Mapping[int, Row]) -> list[Row]:
    return [row(i) | changes.get(i, {}) for i in range(NUM)]


CLEAN = {
    "longer-chosen": 12,
    "length-predicts-label": 12,
    "source-skew": 4,
    "task-skew": 2,
} | {
    name.replace("_", "-"): 0
    for name in LIMITS
    if name not in ("longer_chosen", "length_predicts_label", "source_skew", "task_skew")
}


# --- every finding


def test_clean_rows_have_no_finding() -> None:
    found = audit(changed({}))
    assert {name: f.count for name, f in found.items()} == CLEAN
    assert list(found) == sorted(name.replace("_", "-") for name in LIMITS)
    assert not any(f.failed for f in found.values())
    assert all(not f.examples for f in found.values() if not f.count)
    assert found["longer-chosen"].value == found["length-predicts-label"].value == 0.5
    assert found["source-skew"].value == found["task-skew"].value == 0.0
    totals = {name: f.total for name, f in found.items() if f.total != NUM}
    assert totals == {
        "refusals-chosen": 18,
        "uncertain-low-risk": 8,
        "leaked-test-prompts": 2,
        "near-duplicates-across-splits": 2,
        "source-skew": 8,
        "task-skew": 8,
    }


ALIKE = ask("how7 does7 one7 build7 the7 house7 well7 now")  # 5 of 6 word 3-grams: 0.833
NEARLY = ask("how7 does7 one7 build7 the7 house7 well7 or not")  # 5 of 7: 0.714
LONG_PROMPT = ask("house " * 40)

PLANTED: dict[str, tuple[dict[int, Row], int, list[str]]] = {
    "identical-sides": ({3: {"chosen_text": "One  TEXT here.", "rejected_text": "one text\nhere. "}}, 1, ["p03"]),
    "ties": ({4: {"gap": 0.0}, 9: {"gap": 1e-7}}, 2, ["p04", "p09"]),
    "chosen-above-ceiling": ({2: {"chosen_value_risk": 0.95}, 8: {"chosen_value_risk": None}}, 2, ["p02", "p08"]),
    "high-risk-chosen": ({2: {"chosen_value_risk": 0.51}, 8: {"chosen_value_risk": 0.5}}, 1, ["p02"]),
    "near-duplicates": ({6: {"prompt": NEARLY}}, 2, ["p06", "p07"]),
    "near-duplicates-across-splits": ({5: {"prompt": NEARLY}}, 1, ["p05"]),
    "near-duplicates-across-stages": ({10: {"prompt": NEARLY}, 12: {"prompt": NEARLY}}, 3, ["p07", "p10", "p12"]),
    "leaked-test-prompts": ({5: {"prompt": ALIKE}, 17: {"prompt": NEARLY}}, 1, ["p05"]),
    "refusals-chosen": (
        {
            4: {"chosen_text": "I'm sorry, but I can't do that."},
            5: {"chosen_text": "“I cannot help with this.”"},
            6: {"rejected_text": "I cannot help with this."},
            12: {"chosen_text": "I cannot help with this."},
            13: {"chosen_text": "You need not say: I cannot help."},
        },
        2,
        ["p04", "p05"],
    ),
    "cut-replies": (
        {1: {"finish_reasons": ("length", "stop")}, 2: {"finish_reasons": ("stop", "length")}},
        2,
        ["p01", "p02"],
    ),
    "over-max-length": ({3: {"prompt": LONG_PROMPT}}, 1, ["p03"]),
    "tied-prompts": ({3: {"outcome": "tie"}, 4: {"outcome": "tie"}}, 2, ["p03", "p04"]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_counted(name: str) -> None:
    changes, count, examples = PLANTED[name]
    found = audit(changed(changes))[name]
    assert (found.count, found.examples) == (count, tuple(examples))
    assert found.value == pytest.approx(count / found.total)


def test_alike_prompts_of_one_stage_and_split_are_across_nothing() -> None:
    found = audit(changed({10: {"prompt": NEARLY}}))
    assert found["near-duplicates"].count == 2
    assert found["near-duplicates-across-stages"].count == found["near-duplicates-across-splits"].count == 0


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("Yes.<|im_end|>", True),
        ("[INST] Hello [/INST] yes.", True),
        ("<<SYS>> Be kind.", True),
        ("Fine.</s>", True),
        ("<start_of_turn>model fine.", True),
        ("Fine.\nAssistant: And more.", True),
        ("Fine.\n\nUser: And more.", True),
        ("### Response:\nFine.", True),
        ("assistant\nFine.", True),
        ("The assistant said: no.", False),
        ("Ask a user: they know.", False),
        ("a < b and c > d.", False),
        ("x <| y |> z.", False),
        ("<b>Bold</b>.", False),
        ("# Response times\nThey vary.", False),
    ],
)
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_template_text(text: str, counted: bool, side: str) -> None:
    found = audit(changed({9: {f"{side}_text": text}}))["template-tokens"]
    assert (found.count, found.examples) == ((1, ("p09",)) if counted else (0, ()))
    assert f"({int(counted and side == 'chosen')} in chosen)" in found.detail


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("And then we all went", True),
        ("First, second, third, fourth,", True),
        ("The list goes on:", True),
        ("An opened (bracket that", True),
        ("And then we all left.", False),
        ("Who was it then?  \n", False),
        ("He said: 'We all left.'", False),
        ("It is **very good.**", False),
        ("这是一个很长的 句子 在 这里。", False),
        ("Run this now:\n```\nls -l\n```", False),
        ("We all had great fun 🎉", False),
        ("Paris", False),
        ("About 42 kilometres", False),
        ("", False),
    ],
)
def test_open_endings(text: str, counted: bool) -> None:
    assert audit(changed({9: {"rejected_text": text}}))["open-endings"].count == counted


def test_length_bias() -> None:
    rows = changed(
        {i: {"chosen_text": row(i)["rejected_text"], "rejected_text": row(i)["chosen_text"]} for i in range(1, 13, 2)}
    )
    rows[23] |= {"rejected_text": rows[23]["chosen_text"].swapcase()}
    found = audit(rows)
    longer = found["longer-chosen"]
    assert (longer.count, longer.total) == (18, 23)
    assert "in 18 of 23 pairs of different length (1 are equal)" in longer.detail
    assert "is right for 78.3%" in longer.detail
    d = [len(one["chosen_text"]) - len(one["rejected_text"]) for one in rows]
    auc = roc_auc_score([1] * NUM + [0] * NUM, [*d, *(-x for x in d)])
    assert found["length-predicts-label"].value == pytest.approx(auc)
    assert found["length-predicts-label"].low > 0.5  # type: ignore[operator]


def test_a_label_of_shortness_is_found_too() -> None:
    rows = changed(
        {i: {"chosen_text": row(i)["rejected_text"], "rejected_text": row(i)["chosen_text"]} for i in range(0, NUM, 2)}
    )
    settings = replace(SETTINGS, lint=Lint(longer_chosen=0.8, length_predicts_label=0.8))
    found = audit(rows, settings)
    assert found["longer-chosen"].value == found["length-predicts-label"].value == 0.0
    assert found["longer-chosen"].failed
    assert found["length-predicts-label"].failed
    assert not audit(changed({}), settings)["longer-chosen"].failed


def test_a_skewed_stage_is_named() -> None:
    rows = [one | {"task": "sentiment"} if one["stage"] == "moderate" else one for one in changed({})]
    found = audit(rows)["task-skew"]
    assert (found.count, found.total) == (8, 8)
    assert found.value == pytest.approx(1 - 4 / 16)
    assert found.low > 0.2  # type: ignore[operator]
    assert "'sentiment' is 100.0% of the moderate stage (8 of 8), 75.0% more than of the others" in found.detail
    assert audit([one | {"task": "sentiment"} for one in changed({})])["task-skew"].value is None


def test_the_skew_of_a_few_pairs_is_not_sure() -> None:
    found = audit(changed({})[:4])["task-skew"]
    assert found.value is not None
    assert found.low < 0 < found.high  # type: ignore[operator]


def test_uncertain_on_low_risk() -> None:
    found = audit(changed({i: {"u_chosen": 1 - i / NUM} for i in range(NUM)}))["uncertain-low-risk"]
    assert (found.count, found.total, found.value) == (8, 8, 1.0)
    assert found.examples == ("p00", "p01", "p02", "p03", "p04")
    level = audit(changed({i: {"chosen_value_risk": 0.2} for i in range(NUM)}))["uncertain-low-risk"]
    assert (level.total, level.value) == (0, None)


def test_overlap_with_evaluation_data() -> None:
    eight, seven = " ".join(f"w{i}" for i in range(8)), " ".join(f"v{i}" for i in range(7))
    thirteen = " ".join(f"u{i}" for i in range(13))
    texts = [
        f"before {eight} after",
        f"before {seven} after",
        f"{thirteen}, and more",
        "Is that so, then?",
        ALIKE[0]["content"],
    ]
    rows = changed(
        {
            1: {"prompt": ask(f"please {eight.upper()}!")},
            2: {"prompt": ask(f"please {seven} now")},
            3: {"chosen_text": f"Well: {thirteen}."},
            4: {"rejected_text": f"Well: {thirteen.replace('u12', 'x')}."},
            6: {"rejected_text": f"Well: {thirteen}."},
            8: {"prompt": ask("is that so then")},
        }
    )
    found = audit(rows, against=Evaluation(pl.Series(texts), "mine; sha256 1"))
    assert found["evaluation-ngrams-in-prompts"].examples == ("p01", "p08")
    assert found["evaluation-ngrams-in-replies"].examples == ("p03", "p06")
    assert found["evaluation-near-duplicates"].examples == ("p07", "p08")
    assert found["evaluation-near-duplicates"].failed
    assert (
        found["evaluation-near-duplicates"].detail
        == "2 of 24 prompts are at 0.7 or more like one of 5 evaluation texts (mine; sha256 1)."
    )


def test_the_bundled_prompts_share_nothing_with_the_bundled_suite() -> None:
    paths = (resources.shelf("builders") / "data" / f"{task}.jsonl" for task in TASKS)
    texts = [json.loads(line)["prompt"] for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row(i) | {"prompt_id": f"{i:04d}", "prompt": ask(text)} for i, text in enumerate(texts)]
    found = audit(rows, against=read_evaluation())
    assert found["evaluation-near-duplicates"].count == found["evaluation-ngrams-in-prompts"].count == 0


def test_without_a_tokenizer_lengths_are_said_to_be_unchecked() -> None:
    found = next(f for f in lint(*tables(changed({})), SETTINGS, NOTHING) if f.name == "over-max-length")
    assert (found.total, found.value, found.failed) == (0, None, False)
    assert found.detail.startswith("Not checked: ")


# --- invariances and edges


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [one for name in PLANTED for one in changed(PLANTED[name][0])]
    rows = [
        one | {"prompt_id": f"q{i:03d}", "chosen_id": f"q{i:03d}-0", "rejected_id": f"q{i:03d}-1"}
        for i, one in enumerate(rows)
    ]
    against = Evaluation(pl.Series([NEARLY[0]["content"], "and some other words to look for"]), "mine; sha256 1")
    pairs, answers, ledger = tables(rows)
    expected = lint(pairs, answers, ledger, SETTINGS, against, words)
    for seed in range(3):
        shuffled = [frame.sample(fraction=1.0, shuffle=True, seed=seed) for frame in (pairs, answers, ledger)]
        assert lint(shuffled[0], shuffled[1], shuffled[2], SETTINGS, against, words) == expected


def test_tables_without_a_row() -> None:
    pairs, answers, ledger = (frame.clear() for frame in tables(changed({})))
    found = lint(pairs, answers, ledger, SETTINGS, read_evaluation(), words)
    assert [f.name.replace("-", "_") for f in found] == sorted(LIMITS, key=lambda name: name.replace("_", "-"))
    assert all((f.count, f.total, f.value, f.failed, f.examples) == (0, 0, None, False, ()) for f in found)


def test_hostile_text_is_text() -> None:
    nasty = [
        "<script>alert(1)</script>.",
        "\u202egnp.exe\u202c.",
        "x" * 200_000 + ".",
        "{count} {total} {0} %s.",
        "\x00\x1b[31m.",
        "'; DROP TABLE pairs; --.",
    ]
    rows = changed(
        {
            i: {"prompt": ask(text), "chosen_text": text, "rejected_text": text[::-1] + "."}
            for i, text in enumerate(nasty)
        }
    )
    found = audit(rows)
    assert found["near-duplicates"].count == found["template-tokens"].count == 0
    assert found["longer-chosen"].total == NUM
    assert json.loads(json.dumps([f.to_json() for f in found.values()], allow_nan=False))


def test_one_pair() -> None:
    found = audit([row(0)])
    assert (found["longer-chosen"].value, found["length-predicts-label"].value) == (1.0, 1.0)
    assert found["length-predicts-label"].low < 0.5  # type: ignore[operator]
