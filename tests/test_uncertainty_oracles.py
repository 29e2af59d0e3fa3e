"""The formulas against vectors that public implementations gave, kept beside the project; float32 ones to 1e-6.

docs/uncertainty.md lists every file: what it holds, and, where it is not what we compute, why.
"""

import re
from math import log
from typing import Any

import numpy as np
import pytest

from tests.oracle_vectors import (
    ABSENT,
    FOLDER,
    ROOT,
    TESTED,
    array,
    case,
    entailment,
    hard_weights,
    jaccard,
    log_mass,
    mean_logprobs,
    per_set,
    sets,
    sum_logprobs,
    vectors,
)
from udasa import uncertainty as u
from udasa.backends import Floats
from udasa.uncertainty import Rule

# --- clusters


@vectors("semantic_entropy_farquhar")
def test_the_seed_rules_are_farquhars(v: Any) -> None:
    for rule in ("strict", "loose"):
        assert sets(v, rule) == v[rule]["ids"]
        assert sets(v, rule, backwards=True) == v[f"{rule}_reversed_order"]["ids"]


@vectors("lmpolygraph_semantic_entropy")
def test_first_representative_is_lm_polygraphs(v: Any) -> None:
    assert sets(v, "first-representative") == v["sample_to_class"]


@vectors("semantic_entropy_farquhar")
def test_components_are_never_finer_than_strict_clusters(v: Any) -> None:
    here, theirs = sets(v), v["strict"]["ids"]
    assert len(set(zip(theirs, here, strict=True))) == len(set(theirs)), "a cluster lies in one component"


ORDER_EFFECT = {
    "bridge_k5": {"first-representative": 0.74, "strict": 0.41, "loose": 0.73},
    "random_k8": {"first-representative": 0.33, "strict": 0.28, "loose": 0.98},
    "random_k10": {"first-representative": 0.94, "strict": 0.95, "loose": 0.99},
}
"""Share of orders in which a rule finds other sets, as docs/uncertainty.md says; 0 in the nine other cases."""


@vectors("semantic_entropy_farquhar")
@pytest.mark.parametrize("rule", u.RULES)
def test_the_order_effect_is_as_documented(v: Any, rule: Rule) -> None:
    entail, neutral, contra = entailment(v)
    expected = ORDER_EFFECT.get(v["case"], {}).get(rule, 0.0)
    assert u.order_effect(entail, neutral, contra, rule) == pytest.approx(expected, abs=0.07 if expected else 0)


# --- entropies over clusters


@vectors("semantic_entropy_farquhar")
@pytest.mark.parametrize("rule", ["strict", "loose"])
def test_semantic_entropy_as_farquhar(v: Any, rule: str) -> None:
    ids, likelihood, expected = np.array(v[rule]["ids"]), mean_logprobs(v), v[rule]
    assert u.semantic_entropy(ids, likelihood) == pytest.approx(expected["se_rao_lengthnorm"], abs=1e-12)
    assert u.semantic_entropy(ids, sum_logprobs(v)) == pytest.approx(expected["se_rao_unnormalised_len"], abs=1e-12)
    assert u.semantic_entropy(ids, None) == pytest.approx(expected["discrete_se"], abs=1e-12)
    surprisal = per_set(ids, u.cluster_surprisal(ids, likelihood))
    assert -surprisal == pytest.approx(array(expected["log_p_clusters"]), abs=1e-12)
    mean_nll = np.mean([u.negative_logprob(x) for x in likelihood])
    assert mean_nll == pytest.approx(v["naive_entropy_lengthnorm"], abs=1e-12)


@vectors("semantic_entropy_rao_edge")
def test_semantic_entropy_as_farquhar_on_edges(v: Any) -> None:
    """Where theirs underflows to minus infinity, ours is the entropy after a shift, which changes no share."""
    ids, likelihood = np.array(v["ids"]), array(v["logprobs"])
    value = u.semantic_entropy(ids, likelihood)
    if v["se_rao"] == "-inf":
        assert value == pytest.approx(u.semantic_entropy(ids, likelihood - likelihood.max()), abs=1e-12)
    else:
        assert value == pytest.approx(v["se_rao"], abs=1e-12)
    assert u.semantic_entropy(ids, None) == pytest.approx(v["discrete"], abs=1e-12)


@vectors("uqlm_semantic_entropy")
def test_semantic_entropy_as_uqlm(v: Any) -> None:
    """Theirs lets a response sit in several clusters: it counts once in each, and the sum is normalised again."""
    members = [(c, i) for c, cluster in enumerate(v["cluster_indices"]) for i in cluster]
    ids, rows = np.array(members).T
    value, discrete = u.semantic_entropy(ids, mean_logprobs(v)[rows]), u.semantic_entropy(ids, None)
    assert value == pytest.approx(v["tokenprob_se"], abs=1e-9)
    assert discrete == pytest.approx(v["discrete_se"], abs=1e-9)
    if (k := len(case(v)["responses"])) > 1:
        assert 1 - value / log(k) == pytest.approx(v["tokenprob_confidence"], abs=1e-9)
        assert 1 - discrete / log(k) == pytest.approx(v["discrete_confidence"], abs=1e-9)


@vectors("luq_semantic_entropy")
def test_semantic_entropy_as_luq_in_float32(v: Any) -> None:
    """Theirs averages the probabilities of the tokens, not their logarithms."""
    ids = np.array(v["ids"])
    mean_probability = array([np.exp(logprobs).mean() for logprobs in case(v)["token_logprobs"]])
    assert u.semantic_entropy(ids, np.log(mean_probability)) == pytest.approx(v["se_avg"], abs=1e-6)
    assert u.semantic_entropy(ids, sum_logprobs(v)) == pytest.approx(v["se_prod"], abs=1e-6)
    assert u.semantic_entropy(ids, None) == pytest.approx(v["discrete"], abs=1e-6)


@vectors("lmpolygraph_semantic_entropy")
def test_semantic_entropy_as_lm_polygraph(v: Any) -> None:
    """Theirs takes the summed likelihood of a class as its probability, and averages over samples, not classes."""
    ids, likelihood = np.array(v["sample_to_class"]), sum_logprobs(v)
    log_p = log_mass(ids, likelihood)
    assert -log_p.mean() == pytest.approx(v["se_mean"], abs=1e-12)
    assert -(np.exp(log_p) * log_p).sum() == pytest.approx(v["se_direct"], abs=1e-12)
    assert u.semantic_entropy(ids, None) == pytest.approx(v["empirical"], abs=1e-12)
    surprisal = u.cluster_surprisal(ids, None)
    assert (np.exp(-surprisal) * surprisal).sum() == pytest.approx(v["empirical_direct"], abs=1e-12)
    texts = case(v)["responses"]
    first = [texts.index(text) for text in dict.fromkeys(texts)]
    unique = per_set(ids[first], log_mass(ids[first], likelihood[first]))
    assert -unique[ids].mean() == pytest.approx(v["se_unique"], abs=1e-12)
    assert -mean_logprobs(v).mean() == pytest.approx(v["mc_normalized_entropy"], abs=1e-12)


@vectors("semantic_entropy_kuhn")
def test_semantic_entropy_as_kuhn(v: Any) -> None:
    """Theirs is 5 minus the mean over the sets of ln of their summed likelihood, on the loose clusters."""
    ids = np.array(v["ids"])
    assert sets(v, "loose") == v["ids"]
    for name, likelihood in (("se_lengthnorm", mean_logprobs(v)), ("se_sum", sum_logprobs(v))):
        assert 5 - per_set(ids, log_mass(ids, likelihood)).mean() == pytest.approx(v[name], abs=1e-12)
    assert -mean_logprobs(v).mean() == pytest.approx(v["pe_lengthnorm"], abs=1e-12)


@vectors("truthtorchlm_semantic_entropy")
def test_semantic_entropy_as_truthtorchlm_in_float32(v: Any) -> None:
    """Theirs is Kuhn's without the 5, and counts n copies of a text n times n."""
    texts = case(v)["responses"]
    ids = np.array([next(c for c, cluster in enumerate(v["clusters"]) if text in cluster) for text in texts])
    likelihood = mean_logprobs(v) + np.log([texts.count(text) for text in texts])
    assert -per_set(ids, log_mass(ids, likelihood)).mean() == pytest.approx(v["se_lengthnorm"], abs=1e-6)


# --- density, SAR, EigenScore


@vectors("uqlm_semantic_density")
def test_semantic_density_as_uqlm(v: Any) -> None:
    """Theirs leaves the response itself out of the sum; with k_ii = 1 it can be put back. One response: it raises."""
    _, neutral, contra = entailment(v)
    likelihood = mean_logprobs(v)
    value = u.semantic_uncertainty(u.semantic_kernel(neutral, contra), likelihood)[0]
    if v["case"] == "single_k1":
        assert (value, v["semantic_density"]["raises"]) == (0.0, "ZeroDivisionError")
    else:
        q = np.exp(likelihood)
        assert value == pytest.approx(1 - (q[0] + q[1:].sum() * v["semantic_density"]) / q.sum(), abs=1e-12)


@vectors("lmpolygraph_semantic_density")
def test_semantic_density_as_lm_polygraph(v: Any) -> None:
    """Theirs takes the greedy answer and every distinct sample; the copy of the greedy answer is asked of the model."""
    _, neutral, contra = entailment(v)
    texts = case(v)["responses"]
    rows = [0, *(texts.index(text) for text in dict.fromkeys(texts))]
    kernel = (1 - contra - neutral / 2)[np.ix_(rows, rows)]
    kernel[0, 0] = 1.0
    value = u.semantic_uncertainty(kernel, mean_logprobs(v)[rows])[0]
    assert value == pytest.approx(1 + v["semantic_density_output"], abs=1e-12)


@vectors("lmpolygraph_sar_cocoa")
def test_sar_and_cocoa_as_lm_polygraph(v: Any) -> None:
    """Its token relevances are in the file, so the full SAR is ours on minus their tokenSAR.

    Its CoCoA compares the greedy answer with all samples, its own copy too; its token entropy is half the mean NLL.
    """
    similarity = u.affinity(entailment(v)[0])
    assert u.sar(similarity, sum_logprobs(v)) == pytest.approx(v["sentence_sar"], abs=1e-12)
    token_sar = []
    for logprobs in case(v)["token_logprobs"]:
        relevance = 1 - np.round(np.linspace(0.2, 0.9, len(logprobs)), 4)
        token_sar.append(-array(logprobs) @ relevance / relevance.sum())
    assert token_sar[0] == pytest.approx(v["token_sar"], abs=1e-12)
    assert u.sar(similarity, -array(token_sar)) == pytest.approx(v["sar"], abs=1e-12)

    own = 1 - entailment(v)[0][0, 0]
    k = len(similarity)
    for name, information in (("msp", -sum_logprobs(v)), ("ppl", -mean_logprobs(v)), ("mte", -mean_logprobs(v) / 2)):
        ours = u.cocoa(information, similarity)
        others = 0.0 if ours is None else (k - 1) * ours[0]
        assert (information[0] * own + others) / k == pytest.approx(v[f"cocoa_{name}"], abs=1e-12)


@vectors("lmpolygraph_eigenscore")
def test_eigenscore_as_lm_polygraph(v: Any) -> None:
    embeddings = array(v["embeddings"])
    assert u.eigenscore(embeddings) == pytest.approx(v["eigenscore"], abs=1e-9)
    assert u.eigenscore(embeddings, alpha=1e-2) == pytest.approx(v["alpha_1e_2"], abs=1e-9)


# --- graphs


@vectors("lmpolygraph_degmat_ecc_eigval")
def test_graph_estimators_as_lm_polygraph(v: Any) -> None:
    """Its W has on the diagonal what the model says of (x, x)."""
    entail, _, contra = entailment(v)
    words = jaccard(case(v)["responses"])
    for name, likeness in (("entail", entail), ("contra", 1 - contra), ("jaccard", words)):
        w = (likeness + likeness.T) / 2
        ecc = "ecc_jaccard" if name == "jaccard" else f"eccentricity_{name}"
        eigval = f"eigval_{name}"
        assert u.degree_matrix(w) == pytest.approx(v[f"deg_mat_{name}"], abs=1e-12)
        assert np.linalg.norm(u.eccentricity(w)) == pytest.approx(v[ecc], abs=1e-9)
        assert u.eigenvalue_laplacian(w) == pytest.approx(v[eigval], abs=1e-12)


@vectors("uqnlg_degmat_ecc_eigval")
def test_graph_estimators_as_lin_in_float32(v: Any) -> None:
    """Theirs divides the logits by 3, gives copies of a text one row, and sums rows of a W that is not symmetric."""
    first = [v["mapping"].index(i) for i in v["mapping"]]
    entail, _, contra = (matrix[np.ix_(first, first)] for matrix in entailment(v, temperature=3.0))
    copies = np.equal.outer(first, first)
    for name, likeness in (("agreement_w", entail), ("disagreement_w", 1 - contra)):
        likeness = np.where(copies, 1.0, likeness)
        _check_lin(v[name], likeness, 1e-6)
    _check_lin(v["jaccard"], jaccard(case(v)["responses"]), 1e-9)
    for name, likelihood in (("se_norm", mean_logprobs(v)), ("se_unnorm", sum_logprobs(v))):
        ids = np.array(v["semantic_ids"])
        assert len(set(v["semantic_ids"])) == v["numsets"]
        mean_mass = np.exp(per_set(ids, log_mass(ids, likelihood))).mean()
        assert -log(mean_mass) == pytest.approx(v[name], abs=1e-6)


def _check_lin(expected: Any, likeness: Floats, tolerance: float) -> None:
    k, w = len(likeness), u.affinity(likeness)
    assert k * u.degree(likeness) == pytest.approx(array(expected["deg_each"]), abs=tolerance)
    assert k * u.degree_matrix(w) == pytest.approx(expected["deg"], abs=tolerance)
    assert u.eigenvalue_laplacian(w) == pytest.approx(expected["eigv"], abs=tolerance)
    assert u.eccentricity(w) == pytest.approx(array(expected["ecc_each"]), abs=tolerance)
    assert np.linalg.norm(u.eccentricity(w)) == pytest.approx(expected["ecc"], abs=tolerance)


@vectors("truthtorchlm_graph_kle")
def test_graph_estimators_as_truthtorchlm(v: Any) -> None:
    """Theirs divides the logits by 3 and sums the norms of the rows. Its heat kernel is no matrix exponential."""
    w = u.affinity(1 - entailment(v, temperature=3.0)[2])
    assert u.eigenvalue_laplacian(w) == pytest.approx(v["u_eigv_T3"], abs=1e-9)
    assert u.degree_matrix(w) == pytest.approx(v["u_deg_T3"], abs=1e-9)
    assert 1 - u.degree(w)[-1] == pytest.approx(v["c_deg_last"], abs=1e-9)
    assert u.eccentricity(w).sum() == pytest.approx(v["u_ecc_T3"], abs=1e-9)
    assert u.eccentricity(w)[-1] == pytest.approx(v["c_ecc_last"], abs=1e-9)
    assert u.degree_matrix(u.affinity(1 - entailment(v)[2])) == pytest.approx(v["u_deg_T1"], abs=1e-9)
    matern = u.kernel_language_entropy(u.matern_kernel(hard_weights(v)))
    assert matern == pytest.approx(v["kle_matern"], abs=1e-9)


@vectors("kle_reference")
def test_kernel_language_entropy_as_its_authors(v: Any) -> None:
    """Theirs is also given divided by ln K, which is minus infinity for one response."""
    w = hard_weights(v)
    everyone = np.ones_like(w)
    kernels = {"heat_t0.3": u.heat_kernel(w), "heat_t1": u.heat_kernel(w, time=1.0), "matern_k1_n1": u.matern_kernel(w)}
    kernels["heat_unweighted_t0.3"] = u.heat_kernel(everyone)
    for name, kernel in kernels.items():
        entropy = u.kernel_language_entropy(kernel)
        assert entropy == pytest.approx(v[f"{name}_unscaled"], abs=1e-9)
        if len(w) == 1:
            assert (entropy, v[name]) == (0.0, "-inf")
        else:
            assert entropy / log(len(w)) == pytest.approx(v[name], abs=1e-9)


@vectors("lmpolygraph_kle")
def test_kernel_language_entropy_as_lm_polygraph(v: Any) -> None:
    entail, neutral, _ = entailment(v)
    w = entail + neutral / 2
    w = w + w.T
    assert u.kernel_language_entropy(u.heat_kernel(w)) == pytest.approx(v["unscaled"], abs=1e-9)
    for name, time in (("t03", 0.3), ("t1", 1.0)):
        entropy = u.kernel_language_entropy(u.heat_kernel(w, time))
        if len(w) == 1:
            assert (entropy, v[name]) == (0.0, "-inf")
        else:
            assert entropy / log(len(w)) == pytest.approx(v[name], abs=1e-9)


@vectors("luq_kernel_utils")
def test_kernel_language_entropy_as_luq_in_float32(v: Any) -> None:
    for name, time in (("heat_t01", 0.1), ("heat_t03", 0.3)):
        entropy = u.kernel_language_entropy(u.heat_kernel(hard_weights(v), time))
        assert entropy == pytest.approx(v[name], rel=1e-6, abs=1e-6)


# --- factual


@vectors("lmpolygraph_luq")
def test_luq_as_lm_polygraph(v: Any) -> None:
    """Theirs takes a response as one sentence, and is the mean over the responses; nan for one response."""
    entail, _, contra = entailment(v)
    supports = u.support(entail, contra)
    values = [u.factual_uncertainty(np.delete(supports[:, i], i)[None, :]) for i in range(len(supports))]
    if len(values) == 1:
        assert (values, v["luq"]) == ([None], "nan")
    else:
        assert np.mean(array(values)) == pytest.approx(v["luq"], abs=1e-12)


@vectors("selfcheck_nli")
def test_selfcheck_nli_as_its_authors(v: Any) -> None:
    """Theirs has two classes: P(contradiction) is the rest of P(entailment), and the mean is 1 - mean support."""
    logits = array(v["logits_entail_contradict"])
    e = np.exp(logits - logits.max(axis=2, keepdims=True))
    entail, contra = (e / e.sum(axis=2, keepdims=True)).transpose(2, 0, 1)
    assert u.unsupported(u.support(entail, contra)) == pytest.approx(array(v["scores"]), abs=1e-7)
    assert u.selfcheck_nli(contra) == pytest.approx(np.mean(v["scores"]), abs=1e-7)


@vectors("p_true_lmpolygraph")
def test_p_true_as_lm_polygraph(v: Any) -> None:
    """Theirs is -ln P(True), all other tokens being false."""
    true = np.exp(array([v["ptrue_stat"]]))
    assert u.p_true(true, 1 - true) == pytest.approx(1 - np.exp(-v["uncertainty"]), abs=1e-12)


@vectors("p_true_uqlm")
def test_p_true_as_uqlm(v: Any) -> None:
    """Theirs reads one token and gives the other answer the rest; nan, where ours is null, if it is neither."""
    said = v["token"].strip().lower()
    if v["p_true"] == "nan":
        assert u.p_true(array([0.0]), array([0.0])) is None
    else:
        p = np.exp(array([v["logprob"]]))
        true, false = (p, 1 - p) if said.startswith("true") else (1 - p, p)
        assert u.p_true(true, false) == pytest.approx(1 - v["p_true"], abs=1e-12)


# --- wording


@vectors("lmpolygraph_lexical_similarity")
def test_lexical_similarity_as_lm_polygraph(v: Any) -> None:
    """Theirs is minus the mean ROUGE-L over the pairs. Two empty texts are alike to us, and unlike to them."""
    value = u.lexical_dissimilarity(u.lexical_similarity(v["responses"]))
    assert value is not None
    if any(v["responses"]):
        assert value.mean() - 1 == pytest.approx(v["rougeL"], abs=1e-12)
    else:
        assert (value.mean(), v["rougeL"]) == (0.0, 0.0)
    if v["responses"] != ["", ""]:
        w = jaccard(v["responses"])
        assert u.degree_matrix(w) == pytest.approx(v["jaccard_degmat"], abs=1e-12)


# --- the account


def test_every_file_is_tested_or_listed_with_a_reason() -> None:
    doc = ROOT / "docs" / "uncertainty.md"
    if FOLDER is None or not doc.is_file():
        pytest.skip(ABSENT if FOLDER is None else "docs/ is not beside the tests")
    text = doc.read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)\.json` \| (tested|not ours)[^|]* \| ([^|]+) \|$", text, re.MULTILINE)
    status = {name: (kind, reason.strip()) for name, kind, reason in listed}
    assert set(status) == {path.stem for path in FOLDER.glob("*.json")}
    assert {name for name, (kind, _) in status.items() if kind == "tested"} == TESTED
    assert all(reason for _, reason in status.values())
