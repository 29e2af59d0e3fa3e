"""A judge's P(acceptable) of one response, by principle and option order -> value uncertainty.

`acceptable`: shape (principles, 2), the option `acceptable` named first, then named second.
"""

from typing import NamedTuple

import numpy as np

from udasa.backends import Floats


class Predictive(NamedTuple):
    """Predictive entropy in nats and its two parts, `total == within + disagreement`."""

    total: float
    within: float
    disagreement: float


class Attribution(NamedTuple):
    """What each principle adds to the two parts of the predictive entropy, in nats, shape (principles,) each."""

    within: Floats
    disagreement: Floats


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


def value_attribution(acceptable: Floats) -> Attribution:
    """Return what each principle adds to `value_uncertainty`; the sums over principles are its two parts.

    Of Z principles, z adds H(p_z) / Z to within and KL(p_z || mean p) / Z to disagreement, which is the mean of these
    divergences (Jensen and Shannon's; our reading of the split at the level of a principle). Together z adds the
    cross-entropy -p_z ln m - (1 - p_z) ln(1 - m), over Z, m the mean. All terms are 0 or more.
    """
    p = acceptable.mean(axis=1)
    mean = p.mean()
    divergence = np.zeros_like(p)
    for q, m in ((p, mean), (1.0 - p, 1.0 - mean)):
        inside = q > 0
        divergence[inside] += q[inside] * np.log(q[inside] / m)
    return Attribution(binary_entropy(p) / len(p), np.maximum(0.0, divergence) / len(p))
