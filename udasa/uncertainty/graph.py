"""A graph of K responses, its edges their likeness -> how many meanings it holds, and how far out each response lies.

`affinity` is W: shape (K, K), 0 .. 1, 1 where two responses mean the same; W_ii = 1, so no response is without weight.
"""

from collections.abc import Callable

import numpy as np

from udasa.backends import Floats


def affinity(likeness: Floats) -> Floats:
    """Return W = (S + S^T) / 2 with W_ii = 1 (Lin et al. 2024); S is P(entailment) for the columns of `scored`."""
    w = (likeness + likeness.T) / 2
    np.fill_diagonal(w, 1.0)
    return w


def degree(affinity: Floats) -> Floats:
    """Return 1 - D_ii / K of each response, shape (K,), 0 .. 1 - 1/K; column `degree`.

    D_ii = sum_j W_ij: the mean distance to all responses, itself included (Lin et al. 2024, C_Deg = D_ii / K, turned
    round). K = 1 and equal responses give 0.
    """
    distance: Floats = 1.0 - affinity.mean(axis=1)
    return distance


def degree_matrix(affinity: Floats) -> float:
    """Return trace(K I - D) / K^2, 0 .. 1 - 1/K; column `degree_matrix` (Lin et al. 2024, U_Deg).

    The mean of `degree`. K = 1 and equal responses give 0.
    """
    return float(degree(affinity).mean())


def eigenvalue_laplacian(affinity: Floats) -> float:
    """Return sum_k max(0, 1 - lambda_k), 1 .. K; column `eigenvalue_laplacian` (Lin et al. 2024, U_EigV).

    lambda: the eigenvalues of the normalised Laplacian I - D^-1/2 W D^-1/2. A number of meanings that need not be
    whole: K separate groups of equals give K. K = 1 and equal responses give 1.
    """
    values, _ = _laplacian_spectrum(affinity)
    return float(np.maximum(0.0, 1.0 - values).sum())


def eccentricity(affinity: Floats, threshold: float = 0.9) -> Floats:
    """Return the distance of each response from the centre in the spectral embedding, shape (K,), 0 .. 1.

    Column `eccentricity`. The embedding is the eigenvectors of the normalised Laplacian with an eigenvalue below 0.9;
    |v_i - mean v| (Lin et al. 2024, C_Ecc turned round; their prompt-level U_Ecc is the root of the sum of squares).
    K = 1 and equal responses give 0. Two spectra on different sides of the threshold make a step: it is in the paper.
    """
    values, vectors = _laplacian_spectrum(affinity)
    embedded = vectors[:, values < threshold]
    distance: Floats = np.linalg.norm(embedded - embedded.mean(axis=0), axis=1)
    return distance


def heat_kernel(weights: Floats, time: float = 0.3) -> Floats:
    """Return exp(-t L), shape (K, K): a matrix exponential through the eigenvalues of the symmetric L = D - W.

    `weights`: shape (K, K), symmetric, 0 or more; the diagonal does not count. Nikitin et al. 2024; t = 0.3 is
    the default of their code.
    """
    return _of_laplacian(weights, lambda values: np.exp(-time * values))


def matern_kernel(weights: Floats, kappa: float = 1.0, nu: float = 1.0) -> Floats:
    """Return (2 nu / kappa^2 I + L)^-nu, shape (K, K); see `heat_kernel` (Nikitin et al. 2024)."""
    return _of_laplacian(weights, lambda values: (2 * nu / kappa**2 + values) ** -nu)


def kernel_language_entropy(kernel: Floats) -> float:
    """Return the von Neumann entropy of a kernel over the responses, nats, 0 .. ln K; column `kernel_language_entropy`.

    -sum lambda ln lambda, lambda the eigenvalues of K_ij / sqrt(K_ii K_jj) / K (Nikitin et al. 2024). The column uses
    the heat kernel with W_ij = k_ij + k_ji, k the semantic kernel: entailment 1, neutral 1/2, contradiction 0, as
    there, but soft. K = 1 gives 0. K equal responses do not give 0: heat needs time to spread over the graph. They
    give the entropy of (1, e, ..., e) / (1 + (K - 1) e), e = exp(-2 K t).
    """
    root = np.sqrt(np.diag(kernel))
    correlation = kernel / np.outer(root, root)
    np.fill_diagonal(correlation, 1.0)
    values = np.linalg.eigvalsh(correlation) / len(kernel)
    p = values[values > 0]
    return max(0.0, float(-(p * np.log(p)).sum()))


def _laplacian_spectrum(affinity: Floats) -> tuple[Floats, Floats]:
    """Return eigenvalues and eigenvectors of I - D^-1/2 W D^-1/2."""
    root = np.sqrt(affinity.sum(axis=1))
    values, vectors = np.linalg.eigh(np.eye(len(affinity)) - affinity / np.outer(root, root))
    return values, vectors


def _of_laplacian(weights: Floats, function: Callable[[Floats], Floats]) -> Floats:
    """Apply a function to the eigenvalues of D - W."""
    edges = weights - np.diag(np.diag(weights))
    values, vectors = np.linalg.eigh(np.diag(edges.sum(axis=1)) - edges)
    out: Floats = (vectors * function(np.maximum(values, 0.0))) @ vectors.T
    return out
