"""Meanings, likelihoods and similarities of K responses -> semantic uncertainty."""

import numpy as np

from udasa.backends import Floats
from udasa.uncertainty.sets import Ints


def log_shares(k: int, log_likelihood: Floats | None) -> Floats:
    """Return l_i - ln sum_j exp(l_j), shape (K,), in nats; -ln K each without log-likelihoods."""
    if log_likelihood is None:
        return np.full(k, -np.log(k))
    return log_likelihood - _log_sum_exp(log_likelihood)


def semantic_entropy(sets: Ints, log_likelihood: Floats | None) -> float:
    """Return the entropy over meanings, in nats, 0 .. ln(number of sets).

    Columns `semantic_entropy` and, without log-likelihoods, `discrete_semantic_entropy`.

    p_c = sum of exp(l_i) over the responses of set c / the same sum over all, l_i the mean token log-probability;
    -sum p_c ln p_c (Kuhn et al. 2023; Farquhar et al. 2024). Without log-likelihoods: the discrete form,
    p_c = n_c / K. Computed in log space, so that very unlikely responses do not underflow. K = 1 gives 0.
    """
    log_p = _log_set_shares(sets, log_likelihood)
    return max(0.0, float(-(np.exp(log_p) * log_p).sum()))


def cluster_surprisal(sets: Ints, log_likelihood: Floats | None) -> Floats:
    """Return -ln p_c of the set c of each response, shape (K,), nats, 0 or more; column `cluster_surprisal`.

    p_c as in `semantic_entropy`, which is the mean of the surprisal under p: what one response adds to it (our
    reading of Farquhar et al. 2024 at the level of a response). Without log-likelihoods p_c = n_c / K. K = 1 gives 0.
    """
    _, place = np.unique(sets, return_inverse=True)
    return np.maximum(0.0, 0.0 - _log_set_shares(sets, log_likelihood)[place])


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
    density = kernel @ np.exp(log_shares(len(kernel), log_likelihood))
    return np.clip(1.0 - density, 0.0, 1.0)


def sar(similarity: Floats, log_likelihood: Floats, temperature: float = 0.001) -> float:
    """Return sentence-level SAR, in nats, any sign; column `sar`, null where a log-probability is missing.

    mean_i -ln(q_i + sum_{j != i} g_ij q_j / t), with t = 0.001 (Duan et al. 2024, "shifting attention to relevance").
    q_i = exp(l_i). Their full SAR takes q_i = exp(-tokenSAR), which weighs each token by its relevance; token
    log-probabilities are not stored, so here all tokens are equally relevant, and l_i is their mean. `similarity`: g,
    shape (K, K), 0 .. 1, its diagonal not read; for the column the semantic kernel, made symmetric. K = 1 gives -l;
    K equal responses give -l - ln(1 + (K - 1) / t).
    """
    with np.errstate(divide="ignore"):
        log_g = np.log(similarity) - np.log(temperature)
    np.fill_diagonal(log_g, 0.0)
    return -float(np.mean([_log_sum_exp(row + log_likelihood) for row in log_g]))


def eigenscore(embeddings: Floats, alpha: float = 1e-3) -> float:
    """Return the EigenScore, ln alpha or more; column `eigenscore`, null where the entailer has no embeddings.

    1/K sum of ln eigenvalues of Z J Z^T + alpha I, Z: shape (K, d), J = I - 11^T / d (Chen et al. 2024, INSIDE,
    alpha = 0.001). As in the paper J centres each embedding over its own d coordinates, not over the K responses. The
    paper embeds with a middle layer of the policy; here it is the entailer's sentence embedding. K equal responses
    give ((K - 1) ln alpha + ln(K |Jz|^2 + alpha)) / K; K = 1 gives ln(|Jz|^2 + alpha).
    """
    centred = embeddings - embeddings.mean(axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(centred @ centred.T)
    return float(np.log(np.maximum(eigenvalues, 0.0) + alpha).mean())


def _log_set_shares(sets: Ints, log_likelihood: Floats | None) -> Floats:
    """Return ln p_c of each set, in the order of the sets' numbers."""
    shares = log_shares(len(sets), log_likelihood)
    return np.array([_log_sum_exp(shares[sets == c]) for c in np.unique(sets)])


def _log_sum_exp(x: Floats) -> float:
    largest = x.max()
    return float(largest + np.log(np.exp(x - largest).sum()))
