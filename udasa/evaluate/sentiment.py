"""Film reviews -> a classifier of positive and negative texts, its figures, and openings to be continued.

load()(["a joy from start to finish"]) -> [0.93]
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from udasa import agreement, maps
from udasa.agreement import Estimate
from udasa.backends import Floats
from udasa.digests import stable_hash
from udasa.evaluate import sources, text_classifier
from udasa.evaluate.text_classifier import TextClassifier

SENTENCES = "sentiment_nltk/sentence_polarity.zip"
"""What the classifier learns from: 10,662 sentences of reviews (Pang and Lee 2005)."""
REVIEWS = "sentiment_nltk/movie_reviews.zip"
"""Where the openings are from: 2,000 other reviews (Pang and Lee 2004)."""
WINDOW = 60
"""Words of a review's end or beginning on which the classifier is tried: about as many as a continuation has."""

_FOLDS = 5
_OPENING = (2, 8)
"""Fewest and most words of an opening."""


class Review(NamedTuple):
    """A text and whether it is positive."""

    id: str
    text: str
    positive: bool


class Figures(NamedTuple):
    """How well the classifier tells positive from negative texts that it has not seen."""

    accuracy: Estimate
    auc: Estimate
    calibration_error: Estimate
    """In ten bins of equal mass."""


def sentences(data: Path | None = None) -> list[Review]:
    """Read the labelled sentences.

    Raises:
        UserError: the file is missing or is another version.
    """
    found = []
    with zipfile.ZipFile(sources.fetch(SENTENCES, data)) as archive:
        for kind in ("neg", "pos"):
            lines = archive.read(f"sentence_polarity/rt-polarity.{kind}").decode("cp1252", errors="replace")
            found += [
                Review(f"{kind}-{i}", line.strip(), kind == "pos")
                for i, line in enumerate(io.StringIO(lines))
                if line.strip()
            ]
    return found


def reviews(data: Path | None = None) -> list[Review]:
    """Read the whole reviews, in the order of their names.

    Raises:
        UserError: the file is missing or is another version.
    """
    with zipfile.ZipFile(sources.fetch(REVIEWS, data)) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
        return [
            Review("/".join(Path(n).with_suffix("").parts[-2:]), archive.read(n).decode("latin-1"), "/pos/" in n)
            for n in names
            if "/cv" in n
        ]


def load(data: Path | None = None) -> TextClassifier:
    """Return the classifier, trained on the sentences on first use and kept.

    Raises:
        UserError: the sentences are missing: there is no sentiment without them.
    """
    digests = {SENTENCES: sources.digest(SENTENCES, data)}
    return text_classifier.cached("sentiment", digests, lambda: train(sentences(data), digests))


def train(rows: Sequence[Review], files: Mapping[str, str]) -> TextClassifier:
    """Fit the classifier to labelled texts; `files`: the sha256 of what they were read from, by name."""
    facts = {"files": dict(files), "rows": len(rows)}
    return text_classifier.fit([row.text for row in rows], [row.positive for row in rows], facts=facts)


def opening(review: Review) -> str:
    """Return the first 2 to 8 words of a review, as many as its id's hash says."""
    low, high = _OPENING
    return " ".join(review.text.split()[: low + stable_hash("words", review.id) % (high - low + 1)])


def held_out(rows: Sequence[Review]) -> Figures:
    """Return the figures over the sentences, in five folds by hash."""
    fold = np.array([stable_hash("fold", row.id) % _FOLDS for row in rows])
    found = np.empty(len(rows))
    for part in range(_FOLDS):
        classifier = train([row for row, f in zip(rows, fold, strict=True) if f != part], {})
        found[fold == part] = classifier.probability([row.text for row, f in zip(rows, fold, strict=True) if f == part])
    return _figures(found, rows)


def on_windows(classifier: TextClassifier, rows: Sequence[Review]) -> dict[str, Figures]:
    """Return the figures on each review's last and first words, and on its opening alone, none of which it has seen."""
    parts = {
        f"last {WINDOW} words": [" ".join(row.text.split()[-WINDOW:]) for row in rows],
        f"first {WINDOW} words": [" ".join(row.text.split()[:WINDOW]) for row in rows],
        "opening of 2 to 8 words": [opening(row) for row in rows],
    }
    return {name: _figures(classifier.probability(texts), rows) for name, texts in parts.items()}


def _figures(probability: Floats, rows: Sequence[Review]) -> Figures:
    ids = np.array([row.id for row in rows])
    truth = np.array([row.positive for row in rows], dtype=np.float64)
    said = (probability >= 0.5).astype(np.float64)
    ece = maps.calibration_error(probability, truth, ids, "sentiment")
    return Figures(
        agreement.estimate(agreement.accuracy, ids, said, truth),
        agreement.estimate(agreement.auc, ids, probability, truth),
        Estimate(ece.value, ece.low, ece.high, ece.n),
    )
