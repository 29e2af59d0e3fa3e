"""Scored rows -> chosen and rejected, or the reason why not."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tests.tables import EXAMPLES, answered, exploded, reply, scored
from udasa import schema
from udasa.calibrate import calibrate
from udasa.digests import stable_hash
from udasa.pairs import Paired, pair
from udasa.recipe import Pairing, Weights

ONE = Weights(factual=0.0, value=0.0)


def outcome_of(paired: Paired) -> dict[str, str]:
    return dict(paired.outcomes.select("prompt_id", "outcome").iter_rows())


def ids(paired: Paired) -> list[tuple[str, str]]:
    return paired.pairs.select("chosen_id", "rejected_id").rows()


def made(*replies: Mapping[str, Any], seed: int = 0, **settings: Any) -> Paired:
    return pair(exploded(answered("p", *replies)), Pairing(**settings), seed)


# --- outcomes

GOOD, POOR = reply("good", 0.1), reply("poor", 0.9)

TABLES: dict[str, list[list[dict[str, Any]]]] = {
    "paired": [
        [GOOD, POOR],
        [reply("good", 0.1, 0.5), reply("poor", 0.9, 1.0)],
        [GOOD, reply("", 0.0), reply("cut", 0.0, finish_reason="length"), POOR],
        [GOOD, reply("GOOD", 0.95), POOR],
    ],
    "empty-or-truncated": [
        [GOOD],
        [GOOD, reply("", 0.9)],
        [GOOD, reply(" \n\t", 0.9)],
        [GOOD, reply("poor", 0.9, finish_reason="length")],
        [reply("", None, None), reply("", None, None)],
    ],
    "identical-responses": [
        [GOOD, reply("good", 0.9)],
        [GOOD, reply(" Good\n", 0.9), reply("", 0.5)],
        [reply("a  ﬁne\ncup", 0.1), reply("A fine Cup", 0.9)],
        [reply("same", None, None), reply("same", None, None)],
    ],
    "no-score": [
        [GOOD, reply("poor", None)],
        [reply("good", None), reply("poor", None)],
        [GOOD, reply("poor", None), reply("", 0.9)],
    ],
    "no-response-under-risk-ceiling": [
        [reply("good", 0.1, 0.51), reply("poor", 0.9, 1.0)],
        [reply("good", 0.1, None), reply("poor", 0.9, None)],
        [reply("good", 0.1, None), reply("poor", 0.9, 0.6), reply("", 0.0, 0.0)],
        [reply("good", None, 0.0), reply("poor", 0.1, 0.9), reply("worse", 0.2, 0.9)],
    ],
    "no-suboptimal-response": [
        [reply("good", 0.1, 0.9), reply("poor", 0.9, 0.0)],
        [GOOD, reply("Good ", 0.9), reply("poor", None)],
        [reply("bad", 0.1, None), reply("good", 0.2), reply("GOOD", 0.3)],
    ],
    "judge-error": [
        [GOOD, reply("poor", 0.9), reply("worse", 0.95, None, judge_failure="engine-error: 500")],
        [GOOD, reply("good", 0.9, None, judge_failure="engine-error: 500")],
    ],
    "tie": [
        [reply("good", 0.5), reply("poor", 0.5)],
        [reply("good", 0.5), reply("poor", 0.5 + 1e-7)],
        [reply("good", 0.5), reply("poor", 0.5), reply("worse", 0.5)],
    ],
}


def test_every_outcome_of_pairing_has_its_tables() -> None:
    elsewhere = {"duplicate-prompt", "near-duplicate-prompt", "context-too-long", "engine-error"}
    elsewhere |= {"gap-straddles-threshold"}
    assert TABLES.keys() | elsewhere == schema.OUTCOMES.keys()


@pytest.mark.parametrize(("outcome", "number"), [(name, i) for name, rows in TABLES.items() for i in range(len(rows))])
def test_outcome_by_hand(outcome: str, number: int) -> None:
    paired = made(*TABLES[outcome][number])
    assert outcome_of(paired) == {"p": outcome}
    assert len(paired.pairs) == (outcome == "paired")


def test_each_prompt_has_its_own_outcome() -> None:
    rows = [answered(name, *replies[0]) for name, replies in TABLES.items()]
    paired = pair(exploded(*rows), Pairing(), 0)
    assert outcome_of(paired) == {name: name for name in TABLES}
    assert paired.outcomes["prompt_id"].is_sorted()
    assert paired.pairs["prompt_id"].to_list() == ["paired"]


def test_a_pair_carries_both_sides() -> None:
    chosen = reply("good", 0.25, 0.1, factual_uncertainty=0.2, value_uncertainty=0.3, value_disagreement=0.05)
    rejected = reply("poor", 0.75, 0.9, factual_uncertainty=None, value_uncertainty=0.6, value_position_bias=-0.2)
    row = made(rejected, chosen).pairs.to_dicts()[0]
    assert (row["chosen_text"], row["rejected_text"]) == ("good", "poor")
    assert (row["chosen_id"], row["rejected_id"]) == ("p-1", "p-0")
    assert (row["u_chosen"], row["u_rejected"], row["gap"]) == (0.25, 0.75, 0.5)
    for name in schema.SCORES:
        assert (row[f"chosen_{name}"], row[f"rejected_{name}"]) == (chosen[name], rejected[name])
    assert (row["prompt_id"], row["task"], row["domain"], row["source"], row["license"]) == (
        "p",
        "helpfulness",
        "general",
        "hand",
        "apache-2.0",
    )
    assert row["messages"] == [{"role": "user", "content": "p"}]


# --- which response is rejected

SPREAD = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.8, 1.0]
"""mean 0.1875, sd 0.3223: mean + 2 sd is 0.832, nearest to 0.8."""


def spread() -> list[dict[str, Any]]:
    return [reply(f"text {i}", u) for i, u in enumerate(SPREAD)]


@pytest.mark.parametrize(("policy", "u"), [("mu_plus_2sigma", 0.8), ("max", 1.0), ("next", 0.01)])
def test_rejected_by_policy(policy: Any, u: float) -> None:
    paired = made(*spread(), rejected=policy)
    assert paired.pairs["u_chosen"].to_list() == [0.0]
    assert paired.pairs["u_rejected"].to_list() == [u]


@pytest.mark.parametrize(
    ("us", "rejected"),
    [
        ([*SPREAD, 0.45], 0.8),  # target 0.843; mean + 1 sd is 0.525, nearest to 0.45
        ([0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.09, 0.13, 0.14, 0.68, 1.0], 0.68),  # 0.825; 0.855 with n - 1, nearest to 1
        ([0.0, 0.5, 1.0], 1.0),  # target 1.316
    ],
)
def test_the_target_is_two_population_deviations_above_the_mean(us: list[float], rejected: float) -> None:
    paired = made(*(reply(f"text {i}", float(u)) for i, u in enumerate(us)))
    assert paired.pairs["u_rejected"].to_list() == [rejected]


def test_mean_and_deviation_are_of_the_complete_responses_only() -> None:
    noise = [reply("", 1.0), reply("cut", 1.0, finish_reason="length"), reply("unscored", None)] * 9
    assert made(*spread(), *noise).pairs["u_rejected"].to_list() == [0.8]


@pytest.mark.parametrize("seed", range(5))
def test_random_rejects_the_candidate_with_the_smallest_hash(seed: int) -> None:
    replies = [*spread(), reply("TEXT 0", 0.9), reply("", 0.9)]
    expected = min((f"p-{k}" for k in range(1, 12)), key=lambda name: stable_hash(seed, "rejected", name))
    assert ids(made(*replies, rejected="random", seed=seed)) == [("p-0", expected)]


def test_another_seed_rejects_another_response() -> None:
    assert len({ids(made(*spread(), rejected="random", seed=seed))[0] for seed in range(20)}) > 3


def test_equal_u_goes_to_the_smallest_response_id() -> None:
    replies = [reply("a", 0.9), reply("b", 0.1), reply("c", 0.1), reply("d", 0.9)]
    for policy in ("mu_plus_2sigma", "max"):
        assert ids(made(*replies, rejected=policy)) == [("p-1", "p-0")]


# --- the risk ceiling


def test_a_certain_but_harmful_response_is_never_chosen() -> None:
    assert ids(made(reply("harmful", 0.0, 0.9), reply("good", 0.4, 0.1), reply("poor", 0.6, 0.1))) == [("p-1", "p-2")]


def test_a_response_of_unknown_risk_is_never_chosen_but_may_be_rejected() -> None:
    assert ids(made(reply("unknown", 0.0, None), reply("good", 0.4), reply("poor", 0.6, None))) == [("p-1", "p-2")]


@pytest.mark.parametrize(("ceiling", "number"), [(1.0, 0), (0.9, 0), (0.89, 1), (0.5, 1), (0.49, 2)])
def test_the_ceiling_itself_is_allowed(ceiling: float, number: int) -> None:
    replies = [reply("a", 0.1, 0.9), reply("b", 0.2, 0.5), reply("c", 0.3, 0.1), reply("d", 0.9, 1.0)]
    assert ids(made(*replies, risk_ceiling=ceiling, rejected="max")) == [(f"p-{number}", "p-3")]


# --- ties, truncation


@pytest.mark.parametrize(
    ("gap", "epsilon", "outcome"),
    [(0.0, 0.0, "paired"), (0.0, 1e-6, "tie"), (0.25, 0.25, "paired"), (0.25, 0.26, "tie")],
)
def test_a_gap_below_epsilon_is_a_tie(gap: float, epsilon: float, outcome: str) -> None:
    assert outcome_of(made(reply("a", 0.5), reply("b", 0.5 + gap), epsilon=epsilon)) == {"p": outcome}


@pytest.mark.parametrize(("truncated", "expected"), [("drop", ("p-1", "p-2")), ("keep", ("p-0", "p-2"))])
def test_truncated_responses(truncated: Any, expected: tuple[str, str]) -> None:
    replies = [reply("cut", 0.1, finish_reason="length"), reply("good", 0.2), reply("poor", 0.9), reply("", 0.0)]
    assert ids(made(*replies, truncated=truncated)) == [expected]


# --- any build


texts = st.sampled_from(["", " ", "A", "a", "b", "B ", "c\nd", "c  d", "e"])
replies = st.builds(
    lambda text, u, risk, finish: reply(text, None if u is None else u / 8, risk, finish_reason=finish),
    texts,
    st.none() | st.integers(0, 8),
    st.sampled_from([None, 0.0, 0.5, 0.6, 1.0]),
    st.sampled_from(["stop", "stop", "stop", "length"]),
)
builds = (
    st.lists(st.lists(replies, min_size=1, max_size=6), min_size=1, max_size=4)
    .map(lambda prompts: [answered(f"p{i}", *row) for i, row in enumerate(prompts)])
    .filter(lambda rows: any(one["semantic_uncertainty"] is not None for row in rows for one in row["responses"]))
)
settings = st.builds(
    Pairing,
    rejected=st.sampled_from(["mu_plus_2sigma", "max", "next", "random"]),
    risk_ceiling=st.sampled_from([0.5, 0.55, 1.0]),
    epsilon=st.sampled_from([0.0, 1e-6, 0.25]),
    truncated=st.sampled_from(["drop", "keep"]),
)


def normal(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).lower()).strip()


def reason(replies: Sequence[Mapping[str, Any]], pairing: Pairing) -> str:
    """The outcome by the letter of the method, in plain Python; `paired` also stands for `tie`."""
    ends = ("stop",) if pairing.truncated == "drop" else ("stop", "length")
    complete = [one for one in replies if normal(one["text"]) and one["finish_reason"] in ends]
    usable = [one for one in complete if one["u"] is not None]
    safe = [one for one in usable if one["value_risk"] is not None and one["value_risk"] <= pairing.risk_ceiling]
    if len(complete) < 2:
        return "empty-or-truncated"
    if len({normal(one["text"]) for one in complete}) < 2:
        return "identical-responses"
    if len(usable) < 2:
        return "no-score"
    if not safe:
        return "no-response-under-risk-ceiling"
    best = min(safe, key=lambda one: (one["u"], one["response_id"]))
    worse = [one for one in usable if one["u"] >= best["u"] and normal(one["text"]) != normal(best["text"])]
    return "paired" if worse else "no-suboptimal-response"


@EXAMPLES
@given(builds, settings)
def test_every_prompt_has_exactly_one_outcome_and_pairs_hold_what_they_promise(rows: Any, pairing: Pairing) -> None:
    frame = calibrate(scored(*rows), ONE)
    assert frame["u"].drop_nulls().is_between(0, 1).all()
    paired = pair(frame, pairing, 0)
    outcomes = outcome_of(paired)
    assert len(paired.outcomes) == len(outcomes) == len(rows)
    for (name,), group in frame.group_by("prompt_id"):
        found = outcomes[name]
        assert ("paired" if found == "tie" else found) == reason(group.to_dicts(), pairing)
    assert paired.pairs["prompt_id"].to_list() == sorted(name for name, found in outcomes.items() if found == "paired")
    for row in paired.pairs.to_dicts():
        assert normal(row["chosen_text"]) != normal(row["rejected_text"])
        assert row["gap"] >= pairing.epsilon
        assert 0 <= row["u_chosen"] <= row["u_rejected"] <= 1
        assert row["chosen_value_risk"] <= pairing.risk_ceiling
        assert row["chosen_id"].startswith(row["prompt_id"]) and row["rejected_id"].startswith(row["prompt_id"])


@EXAMPLES
@given(builds, settings, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_responses_does_not_count(rows: Any, pairing: Pairing, random: Any) -> None:
    shuffled = []
    for row in rows:
        moved = list(row["responses"])
        random.shuffle(moved)
        shuffled.append({**row, "responses": moved})
    random.shuffle(shuffled)
    before, after = (pair(calibrate(scored(*table), ONE), pairing, 0) for table in (rows, shuffled))
    assert_frame_equal(before.outcomes, after.outcomes)
    assert_frame_equal(before.pairs, after.pairs)


@EXAMPLES
@given(builds)
def test_a_larger_gap_is_never_to_be_had_than_with_max(rows: Any) -> None:
    frame = calibrate(scored(*rows), ONE)
    gaps = [
        pair(frame, Pairing(rejected=policy, epsilon=0.0), 0).pairs.select("prompt_id", "gap")
        for policy in ("next", "random", "mu_plus_2sigma", "max")
    ]
    for other in gaps[:-1]:
        both = other.join(gaps[-1], on="prompt_id", how="full", suffix="_max")
        assert both.null_count().sum_horizontal().item() == 0
        assert (both["gap"] <= both["gap_max"]).all()
    assert gaps[0].join(gaps[1], on="prompt_id").select((pl.col("gap") <= pl.col("gap_right")).all()).item()
