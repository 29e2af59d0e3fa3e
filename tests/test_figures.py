import re
import socket
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from udasa import figures, schema

SUBJECTS = (
    ("harmlessness", "general", "My neighbour plays loud music every night. How do I get back at them?"),
    ("harmlessness", "health", "Which two household cleaners should never be mixed, and why?"),
    ("helpfulness", "technical", "Write a one-line shell command that counts the files in a folder."),
    ("helpfulness", "law", "How long do I have to return something I bought online?"),
    ("truthfulness", "general", "What happens if you swallow chewing gum?"),
    ("truthfulness", "health", "Do we only use ten percent of our brains?"),
    ("sentiment", "general", "Continue in a positive tone: The film opened with a long silent shot of the harbour"),
)
REPLIES = (
    "It passes through your body within a few days. It is not digested, but it does not stay for years.",
    "I am not sure. Some people say that it depends on where you live and what was agreed before.",
    "That is a common belief, but it is not true: imaging shows activity in almost all of the brain.",
    "Talk to them first and say which hours matter to you. If that fails, ask the landlord or a mediator.",
    "Never mix bleach with ammonia or with an acid. Both make a poisonous gas, even in a large room.",
    "Use `ls -1 | wc -l`. It counts the entries that are not hidden; add `-A` to count those too.",
)


@cache
def made_responses(num_prompts: int = 48, k: int = 6, seed: int = 3) -> pl.DataFrame:
    """A scored table like a small build's: plausible scores, one response in fourteen without a factual claim."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(num_prompts):
        task, domain, question = SUBJECTS[index % len(SUBJECTS)]
        hard = rng.beta(2, 3)
        responses = []
        for one in range(k):
            value = float(np.clip(rng.normal(0.25 + 0.3 * hard, 0.12), 0.01, 0.69))
            responses.append(
                {
                    "response_id": f"r{index:03d}-{one}", "text": REPLIES[(index * 5 + one) % len(REPLIES)],
                    "num_tokens": 24 + one, "logprob_sum": -20.0 - one, "logprob_mean": -0.8, "finish_reason": "stop",
                    "seed": index * 100 + one, "cluster": one // 2,
                    "semantic_uncertainty": float(np.clip(rng.normal(0.15 + 0.7 * hard, 0.15), 0, 1)),
                    "factual_uncertainty": None if rng.random() < 1 / 14 else float(rng.beta(2 + 2 * hard, 3)),
                    "value_uncertainty": value, "value_disagreement": value * 0.3,
                    "value_risk": float(np.clip(value * rng.uniform(0.2, 1.1), 0, 1)),
                    "value_position_bias": float(rng.normal(0.06, 0.05)),
                }
            )  # fmt: skip
        rows.append(
            {
                "prompt_id": f"p{index:03d}", "messages": [{"role": "user", "content": question}], "task": task,
                "source_row": index, "domain": domain, "source": "own-prompts", "source_revision": None,
                "license": "apache-2.0",
                "responses": responses, "semantic_entropy": float(1.4 * hard), "num_semantic_sets": 3,
            }
        )  # fmt: skip
    return _frame(rows, schema.SCORED)


@cache
def made_pairs(num_prompts: int = 48) -> pl.DataFrame:
    """The pairs of `made_responses`, by the method: rank shares, lowest u chosen, highest rejected, terciles."""
    scored = made_responses(num_prompts)
    ranks = {name: rank_share(scored, name) for name in figures.UNITS}
    rows: list[dict[str, Any]] = []
    for row in scored.iter_rows(named=True):
        answers = row["responses"]
        u = [np.mean([ranks[n](r[n]) for n in ranks if r[n] is not None]) for r in answers]
        best, worst = int(np.argmin(u)), int(np.argmax(u))
        sides = {"chosen": answers[best], "rejected": answers[worst]}
        rows.append(
            {
                "prompt_id": row["prompt_id"], "prompt": row["messages"],
                **{side: [{"role": "assistant", "content": r["text"]}] for side, r in sides.items()},
                **{f"{side}_id": r["response_id"] for side, r in sides.items()},
                "u_chosen": float(u[best]), "u_rejected": float(u[worst]), "gap": float(u[worst] - u[best]),
                **{f"{side}_{name}": r[name] for side, r in sides.items() for name in schema.SCORES},
                "split": "test" if len(rows) % 10 == 9 else "train",
                **{key: row[key] for key in ("task", "domain", "source", "license")},
            }
        )  # fmt: skip
    moderate, conservative = np.quantile([r["gap"] for r in rows], [1 / 3, 2 / 3])
    for pair in rows:
        pair["stage"] = schema.STAGES[0 if pair["gap"] >= conservative else 1 if pair["gap"] >= moderate else 2]
    return _frame(rows, schema.PAIRS)


def rank_share(scored: pl.DataFrame, name: str) -> Any:
    values = scored["responses"].explode().struct.field(name).drop_nulls().sort().to_numpy()
    return lambda x: np.searchsorted(values, x, side="right") / len(values)


def made_thresholds() -> dict[str, float]:
    moderate, conservative = np.quantile(made_pairs()["gap"].to_numpy(), [1 / 3, 2 / 3])
    return {"moderate": float(moderate), "conservative": float(conservative)}


def _frame(rows: list[dict[str, Any]], table: pa.Schema) -> pl.DataFrame:
    frame = pl.from_arrow(schema.conform(pa.Table.from_pylist(rows, schema=table), table))
    assert isinstance(frame, pl.DataFrame)
    return frame


@dataclass(frozen=True)
class Delta:
    task: str
    metric: str
    n: int
    before: float
    after: float
    delta: float
    low: float
    high: float
    higher_is_better: bool = True


COMPARISON = (
    Delta("udasa_harmlessness", "acc", 48, 0.562, 0.687, 0.125, 0.031, 0.219),
    Delta("udasa_truthfulness", "acc", 60, 0.417, 0.433, 0.016, -0.067, 0.1),
    Delta("udasa_sentiment", "acc", 40, 0.575, 0.475, -0.1, -0.19, -0.01),
    Delta("udasa_helpfulness", "perplexity", 48, 18.21, 16.94, -1.27, -2.11, -0.43, False),
)


def charts() -> dict[str, Any]:
    tasks = {"harmlessness": {"conservative": 5, "moderate": 2, "exploratory": 0}, "sentiment": {"exploratory": 3}}
    return {
        "uncertainty": figures.uncertainty_chart(made_responses()),
        "gap": figures.gap_chart(made_pairs(), made_thresholds()),
        "stage": figures.stage_chart(tasks),
        "forest": figures.forest_chart(COMPARISON),
    }


def texts(svg: str) -> str:
    return " ".join(node.text or "" for node in ET.fromstring(svg).iter() if node.tag.endswith("text"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uncertainty", ["n = 288 responses", "(nats)", "(0 to 1)", "17 null", "median"]),
        ("gap", ["n = 48 pairs", "gap: u(rejected)", "conservative from", "moderate from", *schema.STAGES]),
        ("stage", ["n = 10 pairs", "harmlessness", "sentiment", "5"]),
        ("forest", ["udasa_harmlessness (n = 48)", "+0.125", "lower is better", "higher is better", "95 % interval"]),
    ],
)
def test_a_figure_says_its_units_and_its_n(name: str, expected: list[str]) -> None:
    shown = texts(figures.to_svg(charts()[name]))
    for words in expected:
        assert words in shown


@pytest.mark.parametrize("name", ["uncertainty", "gap", "stage", "forest"])
def test_svg_is_the_same_twice_and_refers_to_nothing_outside(name: str) -> None:
    first, second = figures.to_svg(charts()[name]), figures.to_svg(charts()[name])
    assert first == second
    assert 'role="img" aria-label="' in first
    links = set(re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', first))
    assert all((link or url).startswith("#") for link, url in links)
    assert "white" not in first.split(">")[1]


def test_ids_of_two_figures_in_one_page_differ() -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', figures.to_svg(chart))) for chart in charts().values()]
    assert sum(len(one) for one in ids) == len(set().union(*ids))


def test_drawing_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a figure must not use the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert figures.to_svg(charts()["gap"])


def test_data_from_an_address_is_refused() -> None:
    import altair as alt

    chart = alt.Chart(alt.UrlData(url="http://127.0.0.1:9/never.json")).mark_bar().encode(x="a:Q")
    svg = ""
    with pytest.raises(ValueError, match=r"(?i)not allowed|denied|permission"):
        svg = figures.to_svg(chart)
    assert svg == ""


def test_labels_from_outside_are_text() -> None:
    hostile = Delta("</text><script>alert(1)</script>", "<b>acc", 4, 0.1, 0.2, 0.1, 0.05, 0.15)
    svg = figures.to_svg(figures.forest_chart([hostile]))
    assert "<script" not in svg
    assert "<b>" not in svg
    assert "</text><script>alert(1)</script> (n = 4)" in texts(svg)


def test_a_build_without_pairs_still_has_its_figures() -> None:
    empty_pairs, empty_responses = made_pairs().clear(), made_responses().clear()
    assert "n = 0 pairs" in texts(
        figures.to_svg(figures.gap_chart(empty_pairs, {"moderate": 0.0, "conservative": 0.0}))
    )
    assert "n = 0 responses" in texts(figures.to_svg(figures.uncertainty_chart(empty_responses)))
    assert "n = 0 pairs" in texts(figures.to_svg(figures.stage_chart({})))


@pytest.mark.parametrize(
    ("delta", "low", "high", "higher_is_better", "expected"),
    [
        (0.1, 0.05, 0.15, True, "better"),
        (-0.1, -0.15, -0.05, True, "worse"),
        (-0.1, -0.15, -0.05, False, "better"),
        (0.1, 0.05, 0.15, False, "worse"),
        (0.1, -0.01, 0.2, True, "not told apart"),
        (0.1, 0.0, 0.2, True, "not told apart"),
    ],
)
def test_reading(delta: float, low: float, high: float, higher_is_better: bool, expected: str) -> None:
    assert figures.reading(Delta("t", "m", 48, 0.0, delta, delta, low, high, higher_is_better)) == expected
