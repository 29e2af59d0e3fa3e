"""K responses -> their uncertainties: pure functions on arrays, one place for each formula.

Entailment comes as `entail`, `neutral`, `contra`: probabilities of (premise i, hypothesis j), shape (K, K), with
`entail[i, i] == 1`. Log-likelihoods are means over tokens, in nats. Higher always means more uncertain. A function
whose value is a column of a table names that column. docs/uncertainty.md has them all in one table.
"""

from udasa.uncertainty.baselines import (
    lexical_dissimilarity,
    lexical_similarity,
    longest_common_subsequence,
    negative_logprob,
    rouge_l,
    words,
)
from udasa.uncertainty.factual import cocoa, factual_uncertainty, p_true, selfcheck_nli, support, unsupported
from udasa.uncertainty.graph import (
    affinity,
    degree,
    degree_matrix,
    eccentricity,
    eigenvalue_laplacian,
    heat_kernel,
    kernel_language_entropy,
    matern_kernel,
)
from udasa.uncertainty.semantic import (
    cluster_surprisal,
    eigenscore,
    sar,
    semantic_entropy,
    semantic_kernel,
    semantic_uncertainty,
)
from udasa.uncertainty.sets import RULES, Ints, Rule, order_effect, semantic_sets
from udasa.uncertainty.value import (
    Attribution,
    Predictive,
    binary_entropy,
    value_attribution,
    value_position_bias,
    value_risk,
    value_uncertainty,
)

__all__ = [
    "RULES",
    "Attribution",
    "Ints",
    "Predictive",
    "Rule",
    "affinity",
    "binary_entropy",
    "cluster_surprisal",
    "cocoa",
    "degree",
    "degree_matrix",
    "eccentricity",
    "eigenscore",
    "eigenvalue_laplacian",
    "factual_uncertainty",
    "heat_kernel",
    "kernel_language_entropy",
    "lexical_dissimilarity",
    "lexical_similarity",
    "longest_common_subsequence",
    "matern_kernel",
    "negative_logprob",
    "order_effect",
    "p_true",
    "rouge_l",
    "sar",
    "selfcheck_nli",
    "semantic_entropy",
    "semantic_kernel",
    "semantic_sets",
    "semantic_uncertainty",
    "support",
    "unsupported",
    "value_attribution",
    "value_position_bias",
    "value_risk",
    "value_uncertainty",
    "words",
]
