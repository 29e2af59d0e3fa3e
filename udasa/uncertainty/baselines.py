"""What costs nothing: likelihood and wording. An estimator that does not beat these is not worth its price."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from udasa.backends import Floats

UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese: no spaces between words, so that each character is one."""


def negative_logprob(logprob: float | None) -> float | None:
    """Return -logprob, nats, 0 or more; columns `negative_logprob_mean` (a token) and `negative_logprob_sum`.

    Under the policy at temperature 1. Null where the sampler gave no log-probability.
    """
    return None if logprob is None else 0.0 - logprob


def words(text: str) -> list[str]:
    """Return the words that ROUGE compares: runs of letters, marks and digits in lower case, in any script.

    A text without any (emoji, punctuation) is compared by its characters. No stemming.
    """
    spaced = (
        f" {c} " if UNSPACED.match(c) else c if unicodedata.category(c)[0] in "LMN" else " " for c in text.casefold()
    )
    return "".join(spaced).split() or [c for c in text if not c.isspace()]


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return its length, in about len(a) * len(b) / 64 steps (bit-parallel; Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & full
    return len(a) - row.bit_count()


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """Return the F1 of ROUGE-L, 2 LCS / (|a| + |b|), 0 .. 1 (Lin 2004); 1 for two texts without words."""
    total = len(a) + len(b)
    return 2 * longest_common_subsequence(a, b) / total if total else 1.0


def lexical_similarity(texts: Sequence[str]) -> Floats:
    """Return ROUGE-L of each pair of texts, shape (K, K), symmetric, 1 on the diagonal; equal texts give 1."""
    distinct = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(distinct)}
    split = [words(text) for text in distinct]
    similarity = np.eye(len(distinct))
    for i, j in combinations(range(len(distinct)), 2):
        similarity[i, j] = similarity[j, i] = rouge_l(split[i], split[j])
    rows = [place[text] for text in texts]
    return similarity[np.ix_(rows, rows)]


def lexical_dissimilarity(similarity: Floats) -> Floats | None:
    """Return 1 - mean_{j != i} ROUGE-L, shape (K,), 0 .. 1; column `lexical_dissimilarity`.

    One minus its mean is the lexical similarity of Fomicheva et al. 2020. Equal texts give 0. None for K = 1.
    """
    k = len(similarity)
    return (1.0 - similarity).sum(axis=1) / (k - 1) if k > 1 else None
