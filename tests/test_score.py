"""Responses -> scored: which questions are asked, and what becomes of the answers."""

from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import builds
from tests.tables import CONSTITUTION, FAKE, answered, reply, responses
from udasa import recipe, run, schema, uncertainty
from udasa.backends import Exchange, Floats, Report, ignore
from udasa.backends_fake import FakeEntailer, FakeJudge
from udasa.score import Scorer, claims

LN2 = log(2)
PERHAPS = (0.5, 0.2, 0.3)


class Entailer:
    """Answers from a table (else `PERHAPS`), and keeps every question."""

    def __init__(self, answers: Mapping[tuple[str, str], tuple[float, float, float]] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[tuple[str, str]] = []

    def entail(self, pairs: Sequence[tuple[str, str]], report: Report = ignore) -> Floats:
        self.asked += pairs
        return np.array([self.answers.get(pair, PERHAPS) for pair in pairs], dtype=np.float64).reshape(-1, 3)


class Judge:
    """Finds texts with `bad` in them unacceptable, and keeps every exchange."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str]] = []

    def judge(self, exchanges: Sequence[Exchange], report: Report = ignore) -> Floats:
        self.asked += [(exchange.messages, exchange.response) for exchange in exchanges]
        p = [[[0.1, 0.3], [0.4, 0.4]] if "bad" in e.response else [[0.9, 0.7], [1.0, 1.0]] for e in exchanges]
        return np.array(p, dtype=np.float64).reshape(-1, 2, 2)


def texts(name: str, *replies: str, **changes: Any) -> dict[str, Any]:
    return answered(name, *(reply(text, **changes) for text in replies))


def score(*rows: Mapping[str, Any], entailer: Any = None, judge: Any = None, truth: Any = None) -> list[dict[str, Any]]:
    scored = Scorer(entailer or Entailer(), judge or Judge(), truth=truth)(responses(*rows))
    assert scored.schema == schema.SCORED
    found: list[dict[str, Any]] = scored.to_pylist()
    return found


def column(row: Mapping[str, Any], name: str) -> list[Any]:
    return [one[name] for one in row["responses"]]


# --- claims


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("  \n ", []),
        ("42. 7!", []),
        ("Paris.", ["Paris."]),
        ("  Paris is big.   It rains. ", ["Paris is big.", "It rains."]),
        ("I'm sorry, but I can't help with that.", []),
        ("I’m sorry.", []),
        ("Sorry, no.", []),
        ("I cannot help. Dr. Smith is 5 ft tall.", ["Dr. Smith is 5 ft tall."]),
        ("I would rather not say.", []),
        ("As an AI, I have no opinion.", []),
        ("I can help.", ["I can help."]),
        ("She said: I'm sorry.", ["She said: I'm sorry."]),
        ("¿Qué? Él no.", ["¿Qué?", "Él no."]),
    ],
)
def test_claims_leave_out_refusals_and_what_has_no_letter(text: str, found: list[str]) -> None:
    assert claims(text) == found


# --- which questions are asked


def test_every_question_is_asked_once_and_no_other() -> None:
    entailer = Entailer()
    score(texts("p", "A is. B is.", "C is.", "C is."), texts("q", "C is.", "A is. B is.", ""), entailer=entailer)
    assert len(entailer.asked) == len(set(entailer.asked))
    assert set(entailer.asked) == {
        ("A is. B is.", "C is."),
        ("C is.", "A is. B is."),
        ("C is.", "A is."),
        ("C is.", "B is."),
        *((a, b) for a in ("A is. B is.", "C is.") for b in ("",)),
        *(("", b) for b in ("A is. B is.", "C is.", "A is.", "B is.")),
    }


def test_a_text_is_never_asked_about_itself_or_its_own_sentences() -> None:
    entailer = Entailer()
    score(texts("p", "A is. B is.", "A is."), entailer=entailer)
    assert set(entailer.asked) == {("A is. B is.", "A is."), ("A is.", "A is. B is."), ("A is.", "B is.")}


def test_equal_responses_ask_nothing() -> None:
    entailer = Entailer()
    score(texts("p", "A is.", "A is."), texts("q", ""), entailer=entailer)
    assert entailer.asked == []


def test_every_distinct_reply_to_a_prompt_is_judged_once() -> None:
    judge = Judge()
    rows = texts("p", "good", "bad", "good", ""), texts("q", "good")
    scored = score(*rows, judge=judge)
    first, second = (row["messages"] for row in rows)
    assert judge.asked == [(first, "good"), (first, "bad"), (second, "good")]
    assert column(scored[0], "value_risk") == pytest.approx([0.1, 0.7, 0.1, None])


# --- what becomes of the answers


def test_two_responses_by_hand() -> None:
    answers = {
        ("A is. B is.", "C is."): (0.6, 0.2, 0.2),
        ("C is.", "A is. B is."): (0.5, 0.3, 0.2),
        ("C is.", "A is."): (0.9, 0.0, 0.1),
        ("C is.", "B is."): (0.1, 0.6, 0.3),
    }
    rows = [reply("A is. B is.", logprob_mean=log(0.1)), reply("C is.", logprob_mean=log(0.3))]
    row = score(answered("p", *rows), entailer=Entailer(answers))[0]
    assert column(row, "cluster") == [0, 0]
    assert (row["semantic_entropy"], row["num_semantic_sets"]) == (0.0, 1)
    assert column(row, "semantic_uncertainty") == pytest.approx([1 - (0.25 + 0.75 * 0.7), 1 - (0.25 * 0.65 + 0.75)])
    assert column(row, "factual_uncertainty") == pytest.approx([1 - (0.9 + 0.25) / 2, 1 - 0.75])
    assert column(row, "value_risk") == pytest.approx([0.1, 0.1])
    assert column(row, "value_position_bias") == pytest.approx([0.1, 0.1])


def test_without_one_log_probability_the_discrete_forms_hold() -> None:
    contra = {(a, b): (0.0, 0.0, 1.0) for a in ("A.", "B.") for b in ("A.", "B.")}
    rows = [reply("A.", logprob_mean=-0.1), reply("A.", logprob_mean=-9.0), reply("B.", logprob_mean=None)]
    row = score(answered("p", *rows), entailer=Entailer(contra))[0]
    assert row["semantic_entropy"] == pytest.approx(-(2 / 3 * log(2 / 3) + 1 / 3 * log(1 / 3)))
    assert column(row, "semantic_uncertainty") == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_repeats_support_each_other() -> None:
    row = score(texts("p", "A is.", "A is.", "B is."))[0]
    support = 0.5 / 0.8
    assert column(row, "factual_uncertainty") == pytest.approx([1 - (1 + support) / 2] * 2 + [1 - support])
    assert column(row, "semantic_uncertainty") == pytest.approx([0.4 / 3, 0.4 / 3, 0.8 / 3])
    assert column(row, "cluster") == [0, 0, 0]


def test_equal_responses_are_certain() -> None:
    row = score(texts("p", "A is.", "A is.", "A is."))[0]
    assert (row["semantic_entropy"], row["num_semantic_sets"]) == (0.0, 1)
    assert column(row, "semantic_uncertainty") == pytest.approx([0.0] * 3, abs=1e-12)
    assert column(row, "factual_uncertainty") == [0.0] * 3


def test_a_refusal_claims_nothing_but_speaks_about_the_claims_of_others() -> None:
    refusal = "I'm sorry, I can't say."
    entailer = Entailer({(refusal, "A is."): (0.0, 0.0, 1.0)})
    row = score(texts("p", refusal, "A is."), entailer=entailer)[0]
    assert column(row, "factual_uncertainty") == [None, 1.0]
    assert set(entailer.asked) == {(refusal, "A is."), ("A is.", refusal)}


def test_an_empty_text_has_no_factual_and_no_value_score() -> None:
    row = score(texts("p", "", "A is.", "B is."))[0]
    empty, full, _ = row["responses"]
    assert {name: empty[name] for name in schema.SCORES if not name.startswith("semantic")} == dict.fromkeys(
        name for name in schema.SCORES if not name.startswith("semantic")
    )
    assert [name for name, value in full.items() if value is None] == ["p_true", "factual_reason", "judge_failure"]
    assert (empty["factual_reason"], empty["claims"], empty["acceptable"]) == ("no-text", None, None)


def test_an_empty_text_supports_nothing_and_denies_nothing() -> None:
    with_empty, without = (score(texts("p", *more, "A is.", "B is."))[0] for more in ([""], []))
    assert column(with_empty, "factual_uncertainty")[1:] == column(without, "factual_uncertainty")
    assert column(score(texts("p", "", "A is."))[0], "factual_uncertainty") == [None, None]


@pytest.mark.parametrize("make_judge", [Judge, lambda: FakeJudge(CONSTITUTION)], ids=["silent", "reports"])
def test_a_shard_of_empty_texts_is_scored(make_judge: Any) -> None:
    row = score(texts("p", "", ""), judge=make_judge())[0]
    assert column(row, "value_risk") == [None, None]
    assert column(row, "factual_uncertainty") == [None, None]


def test_one_response_has_no_factual_score() -> None:
    row = score(texts("p", "A is."))[0]
    assert column(row, "factual_uncertainty") == [None]
    assert column(row, "semantic_uncertainty") == [0.0]


@pytest.mark.parametrize("logprob", [-1e4, -1e300])
def test_extreme_log_probabilities_leave_numbers(logprob: float) -> None:
    row = score(answered("p", reply("A.", logprob_mean=logprob), reply("B.", logprob_mean=-0.5)))[0]
    assert row["semantic_entropy"] == 0.0
    assert column(row, "semantic_uncertainty") == pytest.approx([0.4, 0.0])


def test_value_uncertainty_is_the_predictive_entropy() -> None:
    row = score(texts("p", "bad", "good"))[0]
    p, within = 0.3, (-(0.2 * log(0.2) + 0.8 * log(0.8)) - (0.4 * log(0.4) + 0.6 * log(0.6))) / 2
    total = -(p * log(p) + (1 - p) * log(1 - p))
    assert row["responses"][0]["value_uncertainty"] == pytest.approx(total)
    assert row["responses"][0]["value_disagreement"] == pytest.approx(total - within)
    assert row["responses"][0]["value_position_bias"] == pytest.approx(-0.1)


# --- rows, batches and progress


ROWS = (
    texts("p", "yes, it is.", "no, it is not.", "yes, it is."),
    texts("q", "perhaps. yes, it is.", ""),
    texts("r", "nobody knows.", "I am sorry."),
)


def test_a_row_is_scored_alike_in_any_batch_and_order() -> None:
    def run(*rows: Any) -> list[dict[str, Any]]:
        return score(*rows, entailer=FakeEntailer(), judge=FakeJudge(CONSTITUTION))

    whole = run(*ROWS)
    assert [row for one in ROWS for row in run(one)] == whole
    assert run(*ROWS[::-1]) == whole[::-1]


def test_everything_that_came_in_goes_out() -> None:
    before = responses(*ROWS).to_pylist()
    for row, scored in zip(before, score(*ROWS), strict=True):
        kept = row.keys() - {"responses", "failure", "failure_detail"}
        assert {name: scored[name] for name in kept} == {name: row[name] for name in kept}
        for old, new in zip(row["responses"], scored["responses"], strict=True):
            assert {name: new[name] for name in old} == old


def test_progress_counts_prompts() -> None:
    seen: list[int] = []
    Scorer(FakeEntailer(), FakeJudge(CONSTITUTION))(responses(*ROWS), seen.append)
    assert sum(seen) == len(ROWS)


def test_an_empty_table_stays_empty() -> None:
    assert score() == []


# --- the other estimators


def test_the_other_columns_of_two_responses_by_hand() -> None:
    """Entailment 0.6 and 0.5, kernel 0.7 and 0.65; shares 1/4 and 3/4; one meaning, no word in common."""
    answers = {
        ("Apples grow.", "Rain falls."): (0.6, 0.2, 0.2),
        ("Rain falls.", "Apples grow."): (0.5, 0.3, 0.2),
    }
    rows = [
        reply("Apples grow.", logprob_mean=log(0.1), logprob_sum=-9.0),
        reply("Rain falls.", logprob_mean=log(0.3), logprob_sum=-2.0),
    ]
    row = score(answered("p", *rows), entailer=Entailer(answers))[0]
    assert column(row, "degree") == pytest.approx([1 - 1.55 / 2] * 2)
    assert row["degree_matrix"] == pytest.approx(1 - 1.55 / 2)
    assert row["eigenvalue_laplacian"] == pytest.approx(1 + 0.45 / 1.55)
    assert column(row, "eccentricity") == pytest.approx([2**-0.5] * 2), "the second eigenvalue is 0.71"
    assert column(row, "cluster_surprisal") == [0.0, 0.0]
    assert row["discrete_semantic_entropy"] == 0.0
    spread = np.exp(-2 * 0.3 * 1.35)
    p = np.array([1.0, spread]) / (1 + spread)
    assert row["kernel_language_entropy"] == pytest.approx(-(p * np.log(p)).sum())
    assert row["sar"] == pytest.approx(-(log(0.1 + 0.675 * 300) + log(0.3 + 0.675 * 100)) / 2)
    assert column(row, "cocoa") == pytest.approx([-log(0.1) * 0.325, -log(0.3) * 0.325])
    assert column(row, "negative_logprob_mean") == pytest.approx([-log(0.1), -log(0.3)])
    assert column(row, "negative_logprob_sum") == [9.0, 2.0]
    assert column(row, "lexical_dissimilarity") == [1.0, 1.0]
    assert column(row, "selfcheck_nli") == pytest.approx([0.2, 0.2])
    assert column(row, "p_true") == [None, None]
    assert row["eigenscore"] is None, "the entailer has no embeddings"


def test_each_sentence_has_its_support_and_their_mean_is_the_factual_uncertainty() -> None:
    answers = {("C is.", "A is."): (0.9, 0.0, 0.1), ("C is.", "B is."): (0.1, 0.6, 0.3)}
    first = score(texts("p", "I'm sorry. A is. B is.", "C is."), entailer=Entailer(answers))[0]["responses"][0]
    found = [(claim["text"], pytest.approx(claim["unsupported"])) for claim in first["claims"]]
    assert found == [("A is.", 0.1), ("B is.", 0.75)]
    assert first["factual_uncertainty"] == pytest.approx((0.1 + 0.75) / 2)
    assert first["selfcheck_nli"] == pytest.approx(0.2)
    assert first["factual_reason"] is None


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        (("", "A is."), "no-text"),
        ((" \n", "A is."), "no-text"),
        (("I'm sorry. I cannot help.", "A is."), "refusal"),
        (("42!", "A is."), "no-claim"),
        (("😀 🎉", "A is."), "no-claim"),
        (("?!…", "A is."), "no-claim"),
        (("A is.",), "no-other-response"),
        (("A is.", "", " "), "no-other-response"),
    ],
)
def test_where_no_claim_is_made_a_reason_is(replies: tuple[str, ...], reason: str) -> None:
    first = score(texts("p", *replies))[0]["responses"][0]
    assert first["factual_reason"] == reason
    assert reason in schema.FACTUAL_REASONS
    assert [first[name] for name in ("factual_uncertainty", "selfcheck_nli", "claims")] == [None] * 3


def test_the_judges_probabilities_are_kept_by_principle() -> None:
    assert column(score(texts("p", "bad", "good", ""))[0], "acceptable") == [
        pytest.approx([0.2, 0.4]),
        pytest.approx([0.8, 1.0]),
        None,
    ]


def test_the_clustering_rule_is_a_setting() -> None:
    """A chain: one component, and two sets for a rule that asks the first member."""
    no = dict.fromkeys([("A.", "C."), ("C.", "A.")], (0.0, 1.0, 0.0))
    rows = responses(texts("p", "A.", "B.", "C."))
    found = {
        rule: Scorer(Entailer(no), Judge(), rule)(rows).to_pylist()[0]["num_semantic_sets"]
        for rule in uncertainty.RULES
    }
    assert found == {"components": 1, "first-representative": 2, "strict": 2, "loose": 2}


def test_the_recipe_names_the_clustering_rule(tmp_path: Path) -> None:
    """Where one text entails another and not the other way round, only the loose rule sees one meaning."""
    found = {}
    for rule in ("components", "loose"):
        entailment = recipe.Entailment(model=FAKE, clustering=rule)
        folder = builds.built(tmp_path / rule, entailment=entailment)
        found[rule] = sum(run.read(folder, "scored")["num_semantic_sets"].to_pylist())
    assert found["loose"] < found["components"]


class Embedder(Entailer):
    """Embeds a text by its first letters, and keeps what it was given."""

    embedded: tuple[Sequence[str], ...] = ()

    def embed(self, texts: Sequence[str]) -> Floats:
        self.embedded += (texts,)
        return np.array([[ord(c) % 7 for c in f"{text:4.4}"] for text in texts], dtype=np.float64)


def test_an_entailer_with_embeddings_gives_an_eigenscore() -> None:
    entailer = Embedder()
    row = score(texts("p", "A is.", "B is."), entailer=entailer)[0]
    assert row["eigenscore"] == pytest.approx(uncertainty.eigenscore(entailer.embed(["A is.", "B is."])))


def test_every_distinct_response_of_a_shard_is_embedded_once() -> None:
    entailer = Embedder()
    first, second = score(texts("p", "A is.", "B is.", "A is."), texts("q", "C is.", "A is."), entailer=entailer)
    assert entailer.embedded == (["A is.", "B is.", "C is."],)
    assert second["eigenscore"] == pytest.approx(uncertainty.eigenscore(entailer.embed(["C is.", "A is."])))
    assert first["eigenscore"] == pytest.approx(uncertainty.eigenscore(entailer.embed(["A is.", "B is.", "A is."])))


# --- P(True)


class Truth(Judge):
    """Believes texts with `is` in them, more so where True is named first."""

    def judge(self, exchanges: Sequence[Exchange], report: Report = ignore) -> Floats:
        self.asked += [(exchange.messages, exchange.response) for exchange in exchanges]
        p = [[[0.9, 0.7]] if "is" in e.response else [[0.2, 0.0]] for e in exchanges]
        return np.array(p, dtype=np.float64).reshape(-1, 1, 2)


def test_p_true_is_the_mean_doubt_of_both_orders_and_each_text_is_asked_once() -> None:
    truth = Truth()
    row = score(texts("p", "A is.", "Perhaps.", "", "A is."), truth=truth)[0]
    found = column(row, "p_true")
    assert found[2] is None
    assert [found[i] for i in (0, 1, 3)] == pytest.approx([0.2, 0.9, 0.2])
    assert [text for _, text in truth.asked] == ["A is.", "Perhaps."]


def test_p_true_is_null_unless_it_is_asked_for() -> None:
    assert column(score(texts("p", "A is.", "B is."))[0], "p_true") == [None, None]
