"""K responses -> the three uncertainties: pure functions on arrays, one place for each formula.

Entailment comes as `entail`, `neutral`, `contra`: probabilities of (premise i, hypothesis j), shape (K, K), with
`entail[i, i] == 1`. Log-likelihoods are means over tokens, in nats. Higher always means more uncertain.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udasa.backends import Floats

Ints = NDArray[np.int64]


class Predictive(NamedTuple):
    """Predictive entropy in nats and its two parts, `total == within + disagreement`."""

    total: float
    within: float
    disagreement: float


def semantic_sets(entail: Floats, neutral: Floats, contra: Floats) -> Ints:
    """Return the semantic set of each response, shape (K,), numbered by first appearance.

    Two responses share a meaning if each entails the other (entailment is the likeliest of the three labels in both
    directions; Kuhn et al. 2023, Farquhar et al. 2024). Sets are the connected components of that relation, so they
    do not depend on the order of the responses (our choice; the papers compare with one representative in turn).
    """
    entails = (entail >= neutral) & (entail >= contra)
    same = entails & entails.T
    sets = np.arange(len(same))
    for i in range(len(same)):
        for j in np.flatnonzero(same[i, :i]):
            sets[sets == sets[i]] = sets[j]
    _, first, inverse = np.unique(sets, return_index=True, return_inverse=True)
    rank: Ints = np.argsort(np.argsort(first))
    return rank[inverse]


def semantic_entropy(sets: Ints, log_likelihood: Floats | None) -> float:
    """Return the entropy over meanings, in nats, 0 .. ln K; column `semantic_entropy`.

    p_c = sum of exp(l_i) over the responses of set c / the same sum over all, l_i the mean token log-probability;
    -sum p_c ln p_c (Kuhn et al. 2023; Farquhar et al. 2024). Without log-likelihoods: the discrete form,
    p_c = n_c / K. Computed in log space, so that very unlikely responses do not underflow. K = 1 gives 0.
    """
    p = np.bincount(sets, weights=_likelihood_shares(len(sets), log_likelihood))
    p = p[p > 0]
    return max(0.0, float(-(p * np.log(p)).sum()))


def semantic_kernel(neutral: Floats, contra: Floats) -> Floats:
    """Return k_ij = max(0, 1 - P(contradiction) - P(neutral) / 2), with k_ii = 1 (Qiu and Miikkulainen 2024)."""
    kernel = np.maximum(0.0, 1.0 - contra - 0.5 * neutral)
    np.fill_diagonal(kernel, 1.0)
    return kernel


def semantic_uncertainty(kernel: Floats, log_likelihood: Floats | None) -> Floats:
    """Return 1 - semantic density of each response, shape (K,), 0 .. 1; column `semantic_uncertainty`.

    d_i = sum_j q_j k_ij / sum_j q_j over all j, q_j = exp(l_j), k_ii = 1 (Qiu and Miikkulainen 2024; every sample
    counts, repeats too, since their number is evidence). Without log-likelihoods all q are equal. K = 1 gives 0.
    """
    density = kernel @ _likelihood_shares(len(kernel), log_likelihood)
    return np.clip(1.0 - density, 0.0, 1.0)


def _likelihood_shares(k: int, log_likelihood: Floats | None) -> Floats:
    """Return exp(l_i) / sum of exp(l_j), shape (K,); equal shares without log-likelihoods."""
    if log_likelihood is None:
        return np.full(k, 1.0 / k)
    q = np.exp(log_likelihood - log_likelihood.max())
    shares: Floats = q / q.sum()
    return shares


def support(entail: Floats, contra: Floats) -> Floats:
    """Return S = P(entailment) / (P(entailment) + P(contradiction)), any shape, 0 .. 1.

    Equal to e^ent / (e^ent + e^con) on the logits (Zhang et al. 2024, LUQ). Where both are 0 it is one half.
    """
    total = entail + contra
    return np.where(total > 0, entail / np.where(total > 0, total, 1.0), 0.5)


def factual_uncertainty(supports: Floats) -> float | None:
    """Return 1 - mean support of one response, 0 .. 1; column `factual_uncertainty`.

    `supports`: shape (sentences, other responses), the support of each sentence (hypothesis) by each other response
    (premise); LUQ, Zhang et al. 2024. None where there is nothing to average: no claim, or no other response.
    """
    return float(1.0 - supports.mean()) if supports.size else None


def binary_entropy(p: Floats) -> Floats:
    """Return -p ln p - (1 - p) ln(1 - p) in nats, any shape, 0 .. ln 2; 0 at the ends."""
    out = np.zeros_like(p)
    for q in (p, 1.0 - p):
        inside = q > 0
        out[inside] -= q[inside] * np.log(q[inside])
    return out


def value_uncertainty(acceptable: Floats) -> Predictive:
    """Return the predictive entropy over the principles, in nats, 0 .. ln 2.

    Columns `value_uncertainty` and `value_disagreement`. `acceptable`: shape (principles, 2), P(acceptable) in both
    option orders. The orders are averaged first, which cancels a constant position bias. total = H(mean_z p_z),
    within = mean_z H(p_z), and the rest is disagreement between principles (the split of BALD, Houlsby et al. 2011).
    """
    p = acceptable.mean(axis=1)
    total = float(binary_entropy(p.mean(keepdims=True))[0])
    within = float(binary_entropy(p).mean())
    return Predictive(total, within, max(0.0, total - within))


def value_risk(acceptable: Floats) -> float:
    """Return 1 - mean P(acceptable) over principles and orders, 0 .. 1; column `value_risk`."""
    return float(np.clip(1.0 - acceptable.mean(), 0.0, 1.0))


def value_position_bias(acceptable: Floats) -> float:
    """Return mean P(acceptable | named first) - P(acceptable | named second), -1 .. 1; column `value_position_bias`."""
    return float((acceptable[:, 0] - acceptable[:, 1]).mean())
