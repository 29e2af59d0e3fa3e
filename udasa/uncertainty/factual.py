"""Sentences of a response against the other responses -> how little they support it.

`entail`, `contra`: probabilities of (premise = another response, hypothesis = a sentence), shape (sentences, others).
"""

import numpy as np

from udasa.backends import Floats


def support(entail: Floats, contra: Floats) -> Floats:
    """Return S = P(entailment) / (P(entailment) + P(contradiction)), any shape, 0 .. 1.

    Equal to e^ent / (e^ent + e^con) on the logits (Zhang et al. 2024, LUQ). Where both are 0 it is one half.
    """
    total = entail + contra
    return np.where(total > 0, entail / np.where(total > 0, total, 1.0), 0.5)


def unsupported(supports: Floats) -> Floats:
    """Return 1 - mean support of each sentence, shape (sentences,), 0 .. 1; `claims.unsupported`.

    `supports`: shape (sentences, others), one other or more. LUQ (Zhang et al. 2024) sentence by sentence; equal to
    SelfCheckGPT-NLI as its paper writes it (Manakul et al. 2023), sample as premise, two classes. Sentences that
    every other response repeats give 0.
    """
    share: Floats = 1.0 - supports.mean(axis=1)
    return share


def factual_uncertainty(supports: Floats) -> float | None:
    """Return 1 - mean support of one response, 0 .. 1; column `factual_uncertainty`.

    `supports`: shape (sentences, other responses), the support of each sentence (hypothesis) by each other response
    (premise); LUQ, Zhang et al. 2024. None where there is nothing to average: no claim, or no other response.
    """
    return float(unsupported(supports).mean()) if supports.size else None


def selfcheck_nli(contra: Floats) -> float | None:
    """Return the mean P(contradiction) over sentences and samples, 0 .. 1; column `selfcheck_nli`.

    Manakul et al. 2023. Their classifier has two classes. Ours has three, and neutral stays in: silence is no
    contradiction. Renormalised over two classes it would be `factual_uncertainty` again. The premise is the sample, as
    their paper says; their code puts the sentence first. None where there is no claim, or no other response.
    """
    return float(contra.mean()) if contra.size else None


def cocoa(information: Floats, similarity: Floats) -> Floats | None:
    """Return u_i * mean_{j != i} (1 - g_ij), shape (K,), in the unit of u; column `cocoa`, null without u.

    CoCoA (Vashurin et al. 2025): what the policy thinks of its own text, times how far the other responses are from
    it. `information`: u, shape (K,); for the column the mean negative log-probability in nats. `similarity`: g, shape
    (K, K), 0 .. 1, its diagonal not read; for the column the semantic kernel, made symmetric. Equal responses give 0.
    None for K = 1.
    """
    k = len(information)
    if k == 1:
        return None
    distance = 1.0 - similarity
    np.fill_diagonal(distance, 0.0)
    value: Floats = information * distance.sum(axis=1) / (k - 1)
    return value


def p_true(true: Floats, false: Floats) -> float | None:
    """Return 1 - P(True) / (P(True) + P(False)), 0 .. 1; column `p_true`.

    Kadavath et al. 2022: the policy is asked whether the response is true. `true`, `false`: probabilities of the two
    answers as the next token, shape (orders,), an entry for each order in which the options were named; the orders
    are averaged. None where an order gives neither option any probability.
    """
    total = true + false
    return float(np.mean(false / total)) if (total > 0).all() else None
