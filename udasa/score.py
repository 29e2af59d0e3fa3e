"""Responses -> scored rows: asks the entailer and the judge, each question once, and applies the formulas.

All entailment questions of a shard are collected first (`udasa.questions`), so that a question that two dimensions or
two prompts share is asked once, and the model sees long batches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import sentencex

from udasa import schema, uncertainty
from udasa.backends import Embedder, Entailer, Exchange, Failure, Floats, Judge, Report, ignore
from udasa.errors import UserError
from udasa.memory import Memory
from udasa.questions import Answers, Asker, before
from udasa.refusals import OPENING

Judgements = Mapping[tuple[str, str], Floats | Failure]
"""What a judge says of each response, by (prompt_id, text)."""


def claims(text: str) -> list[str]:
    """Return the sentences of a response that claim something: refusals and sentences without a letter are left out."""
    sentences = (sentence.strip() for sentence in sentencex.segment("en", text))
    return [s for s in sentences if any(c.isalpha() for c in s) and not OPENING.match(s)]


class Scorer:
    """The `scored` step: holds the entailer, the judge and, if P(True) is asked for, the policy as its own."""

    def __init__(
        self,
        entailer: Entailer,
        judge: Judge,
        clustering: uncertainty.Rule = "components",
        memory: Memory | None = None,
        context: bool = False,
        truth: Judge | None = None,
    ) -> None:
        """Hold the models.

        Args:
            entailer: compares texts.
            judge: reads the constitution.
            clustering: the rule by which responses share a meaning.
            memory: where answers are kept.
            context: whether the entailer reads the prompt before each text.
            truth: the policy as the judge of its own truth, for `p_true`; None leaves the column empty.
        """
        self.entailer = entailer
        self.judge = judge
        self.clustering = clustering
        self.asker = Asker(entailer, memory)
        self.context = context
        self.truth = truth

    def __call__(self, table: pa.Table, report: Report = ignore) -> pa.Table:
        """Return the table's rows that have responses, each of them scored, as `schema.SCORED`; reports prompts."""
        rows = [row for row in schema.conform(table, schema.RESPONSES).to_pylist() if row["failure"] is None]
        ask = self._entailment(rows)
        acceptable = _judgements(self.judge, rows, report)
        true = _judgements(self.truth, rows, ignore) if self.truth else {}
        vectors = self._embeddings(rows)
        scored = [_score(row, self._about(row, ask), acceptable, true, vectors, self.clustering) for row in rows]
        return schema.conform(pa.Table.from_pylist(scored, schema.SCORED), schema.SCORED)

    def _entailment(self, rows: Iterable[Mapping[str, Any]]) -> Answers:
        """Ask every entailment question of the shard once."""
        questions: set[tuple[str, str]] = set()
        for row in rows:
            prefix = before(row["messages"], self.context)
            texts = {r["text"] for r in row["responses"]}
            hypotheses = {text: (text, *claims(text)) for text in texts}
            for premise in texts:
                for other in texts - {premise}:
                    questions.update((prefix + premise, prefix + hypothesis) for hypothesis in hypotheses[other])
        return self.asker.ask(questions)

    def _embeddings(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, Floats] | None:
        """Embed every distinct response of the shard once; None if the entailer has no embeddings."""
        if not isinstance(self.entailer, Embedder):
            return None
        texts = sorted({r["text"] for row in rows for r in row["responses"]})
        return dict(zip(texts, self.entailer.embed(texts), strict=True)) if texts else {}

    def _about(self, row: Mapping[str, Any], answers: Answers) -> Answers:
        return answers.after(before(row["messages"], self.context))


def _judgements(judge: Judge, rows: Sequence[Mapping[str, Any]], report: Report) -> Judgements:
    """Judge every distinct response once; an empty response is not judged.

    Raises:
        UserError: the judge answered about none of them: it is down, and the responses are not to blame.
    """
    exchanges = {
        (row["prompt_id"], r["text"]): Exchange(row["messages"], r["text"])
        for row in rows
        for r in row["responses"]
        if r["text"]
    }
    share = _share(report, len(rows), len(exchanges))
    found = dict(zip(exchanges, judge.judge(list(exchanges.values()), share), strict=True))
    failed = [one for one in found.values() if isinstance(one, Failure)]
    if failed and len(failed) == len(found):
        raise UserError(
            f"The judge answered about none of the {len(found)} responses of a shard; the first error: "
            f"{failed[0].detail}. Mend the engine, and run the same command again to go on."
        )
    return found


def _score(
    row: Mapping[str, Any],
    ask: Answers,
    acceptable: Judgements,
    true: Judgements,
    vectors: Mapping[str, Floats] | None,
    clustering: uncertainty.Rule,
) -> dict[str, Any]:
    """Return the row with every column of `scored`.

    Raises:
        ValueError: the row has no responses.
    """
    texts = [r["text"] for r in row["responses"]]
    if not texts:
        raise ValueError(f"Prompt {row['prompt_id']} has no responses; a row to score has one or more.")
    entailment = ask(texts, texts)
    log_likelihood = _log_likelihood(row["responses"])
    entail, neutral, contra = entailment
    sets = uncertainty.semantic_sets(entail, neutral, contra, clustering)
    columns = _response_estimates(texts, sets, entailment, log_likelihood)
    return {
        **row,
        **_prompt_estimates(sets, entailment, log_likelihood),
        "eigenscore": None if vectors is None else uncertainty.eigenscore(np.stack([vectors[t] for t in texts])),
        "responses": [
            {
                **response,
                **_judged(*(some.get((row["prompt_id"], response["text"])) for some in (acceptable, true))),
                "negative_logprob_mean": uncertainty.negative_logprob(response["logprob_mean"]),
                "negative_logprob_sum": uncertainty.negative_logprob(response["logprob_sum"]),
                **{name: values[i] for name, values in columns.items()},
                **_factual(i, texts, ask),
            }
            for i, response in enumerate(row["responses"])
        ],
    }


def _log_likelihood(responses: Sequence[Mapping[str, Any]]) -> Floats | None:
    """Return the mean log-probabilities; None if one is missing, since shares need them all."""
    values = [r["logprob_mean"] for r in responses]
    return None if None in values else np.array(values, dtype=np.float64)


def _prompt_estimates(sets: uncertainty.Ints, entailment: Floats, log_likelihood: Floats | None) -> dict[str, Any]:
    entail, neutral, contra = entailment
    affinity = uncertainty.affinity(entail)
    kernel = uncertainty.semantic_kernel(neutral, contra)
    heat = uncertainty.heat_kernel(kernel + kernel.T)
    similarity = uncertainty.affinity(kernel)
    return {
        "semantic_entropy": uncertainty.semantic_entropy(sets, log_likelihood),
        "num_semantic_sets": int(sets.max()) + 1,
        "discrete_semantic_entropy": uncertainty.semantic_entropy(sets, None),
        "degree_matrix": uncertainty.degree_matrix(affinity),
        "eigenvalue_laplacian": uncertainty.eigenvalue_laplacian(affinity),
        "kernel_language_entropy": uncertainty.kernel_language_entropy(heat),
        "sar": None if log_likelihood is None else uncertainty.sar(similarity, log_likelihood),
    }


def _response_estimates(
    texts: Sequence[str], sets: uncertainty.Ints, entailment: Floats, log_likelihood: Floats | None
) -> dict[str, Sequence[Any]]:
    """Return the columns that compare whole responses, each with a value a response."""
    entail, neutral, contra = entailment
    affinity = uncertainty.affinity(entail)
    kernel = uncertainty.semantic_kernel(neutral, contra)
    lexical = uncertainty.lexical_dissimilarity(uncertainty.lexical_similarity(texts))
    information = None if log_likelihood is None else -log_likelihood
    cocoa = None if information is None else uncertainty.cocoa(information, uncertainty.affinity(kernel))
    columns = {
        "cluster": sets,
        "semantic_uncertainty": uncertainty.semantic_uncertainty(kernel, log_likelihood),
        "cluster_surprisal": uncertainty.cluster_surprisal(sets, log_likelihood),
        "eccentricity": uncertainty.eccentricity(affinity),
        "degree": uncertainty.degree(affinity),
        "cocoa": cocoa,
        "lexical_dissimilarity": lexical,
        "agreement": kernel,
    }
    return {n: [None] * len(texts) if v is None else v.tolist() for n, v in columns.items()}


def _factual(i: int, texts: Sequence[str], ask: Answers) -> dict[str, Any]:
    """Compare the claims of response i with every other text; an equal text counts, and supports every sentence."""
    sentences = claims(texts[i])
    places = [j for j, text in enumerate(texts) if j != i and text.strip()]
    others = [texts[j] for j in places]
    if not sentences or not others:
        reason = "no-other-response" if sentences else _no_claim(texts[i])
        names = ("factual_uncertainty", "selfcheck_nli", "claims", "support")
        return {**dict.fromkeys(names), "factual_reason": reason}
    differs = np.array([text != texts[i] for text in others])
    supports, contradictions = np.ones((len(sentences), len(others))), np.zeros((len(sentences), len(others)))
    if differs.any():
        entail, _, contra = ask([text for text in others if text != texts[i]], sentences)
        supports[:, differs] = uncertainty.support(entail, contra).T
        contradictions[:, differs] = contra.T
    means = dict(zip(places, supports.mean(axis=0).tolist(), strict=True))
    unsupported = uncertainty.unsupported(supports).tolist()
    return {
        "factual_uncertainty": uncertainty.factual_uncertainty(supports),
        "selfcheck_nli": uncertainty.selfcheck_nli(contradictions),
        "claims": [{"text": s, "unsupported": u} for s, u in zip(sentences, unsupported, strict=True)],
        "factual_reason": None,
        "support": [means.get(j) for j in range(len(texts))],
    }


def _no_claim(text: str) -> str:
    """Say why a text claims nothing; a word of `schema.FACTUAL_REASONS`."""
    if not text.strip():
        return "no-text"
    return "refusal" if any(c.isalpha() for c in text) else "no-claim"


def _judged(acceptable: Floats | Failure | None, true: Floats | Failure | None) -> dict[str, Any]:
    """Return what both judges say; what one did not answer is null, with the reason."""
    failed = [one for one in (acceptable, true) if isinstance(one, Failure)]
    return {
        **_value(None if isinstance(acceptable, Failure) else acceptable),
        "p_true": _p_true(None if isinstance(true, Failure) else true),
        "judge_failure": f"{failed[0].reason}: {failed[0].detail}" if failed else None,
    }


def _value(acceptable: Floats | None) -> dict[str, Any]:
    if acceptable is None:
        names = ("value_uncertainty", "value_disagreement", "value_risk", "value_position_bias", "acceptable")
        return dict.fromkeys(names)
    entropy = uncertainty.value_uncertainty(acceptable)
    return {
        "value_uncertainty": entropy.total,
        "value_disagreement": entropy.disagreement,
        "value_risk": uncertainty.value_risk(acceptable),
        "value_position_bias": uncertainty.value_position_bias(acceptable),
        "acceptable": acceptable.mean(axis=1).tolist(),
    }


def _p_true(true: Floats | None) -> float | None:
    return None if true is None else uncertainty.p_true(true[0], 1.0 - true[0])


def _share(report: Report, total: int, parts: int) -> Callable[[int], None]:
    """Turn a count of parts into a count of `total` items."""
    if not parts:
        report(total)
        return ignore
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        before, done = done, done + n
        report(done * total // parts - before * total // parts)

    return advance
