"""Texts with yes/no labels -> a classifier in one file: TF-IDF of words and word pairs, and logistic regression.

classifier = fit(["I cannot help.", "Sure, first ..."], [True, False], facts={"data": "..."})
classifier.probability(["I cannot say."]) -> [0.8]
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from udasa.backends import Floats
from udasa.backends_hf.weights import cache_folder
from udasa.errors import UserError, require
from udasa.run import write_file

_VERSION = 1
"""Of the features: another number makes a cached classifier be trained again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClassifier:
    """A linear model on the TF-IDF of a text, its words in lower case, term counts as 1 + ln."""

    vocabulary: tuple[str, ...]
    """Words and pairs of words, in the order of the weights."""
    idf: Floats
    """Smoothed inverse document frequency of each, ln((1 + n) / (1 + df)) + 1."""
    weights: Floats
    """Of the logistic regression."""
    intercept: float
    facts: Mapping[str, Any]
    """What it was trained on; JSON values."""

    def probability(self, texts: Sequence[str]) -> Floats:
        """Return P(yes) of each text, 0 .. 1, shape (n,)."""
        from scipy.special import expit

        if not texts:
            return np.empty(0)
        vectorizer = _vectorizer(vocabulary={term: i for i, term in enumerate(self.vocabulary)})
        vectorizer.idf_ = self.idf
        found: Floats = expit(vectorizer.transform(texts) @ self.weights + self.intercept)
        return found


def fit(texts: Sequence[str], labels: Sequence[bool], *, facts: Mapping[str, Any] | None = None) -> TextClassifier:
    """Fit the classifier; the same texts in the same order give the same weights.

    Raises:
        UserError: the labels are all the same, so there is nothing to tell apart.
    """
    linear = require("sklearn.linear_model", extra="eval")
    if len(set(labels)) < 2:
        raise UserError(f"All {len(labels)} labels are the same; a classifier needs texts of both kinds.")
    vectorizer = _vectorizer(min_df=2)
    features = vectorizer.fit_transform(texts)
    model = linear.LogisticRegression(C=10.0, max_iter=1000).fit(features, np.asarray(labels, dtype=np.int64))
    return TextClassifier(
        vocabulary=tuple(map(str, vectorizer.get_feature_names_out())),
        idf=np.asarray(vectorizer.idf_, dtype=np.float64),
        weights=model.coef_[0],
        intercept=float(model.intercept_[0]),
        facts=dict(facts or {}),
    )


def save(classifier: TextClassifier, path: Path) -> str:
    """Write it as safetensors, with its words and facts in the header; returns the sha256 of the bytes."""
    from safetensors.numpy import save as dump

    tensors = {
        "idf": classifier.idf,
        "weights": classifier.weights,
        "intercept": np.array([classifier.intercept]),
    }
    header = json.dumps({"words": classifier.vocabulary, "facts": classifier.facts}, sort_keys=True)
    payload = dump(tensors, metadata={"classifier": header})  # one entry: safetensors keeps no order among several
    write_file(path, payload)
    return hashlib.sha256(payload).hexdigest()


def load(path: Path) -> TextClassifier:
    """Read a classifier back.

    Raises:
        UserError: the file holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["classifier"])
            tensors = {name: file.get_tensor(name) for name in ("idf", "weights", "intercept")}
        return TextClassifier(
            vocabulary=tuple(header["words"]),
            idf=tensors["idf"],
            weights=tensors["weights"],
            intercept=float(tensors["intercept"][0]),
            facts=header["facts"],
        )
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a text classifier of udasa ({error}). Delete it, to train it again.") from error


def cached(name: str, files: Mapping[str, str], train: Callable[[], TextClassifier]) -> TextClassifier:
    """Return the classifier `name` of these files (name -> sha256), trained on first use and kept in udasa's cache."""
    key = hashlib.sha256(json.dumps([_VERSION, name, sorted(files.items())]).encode()).hexdigest()[:16]
    path = cache_folder() / "classifiers" / f"{name}-{key}.safetensors"
    if not path.is_file():
        save(train(), path)
    return load(path)


def _vectorizer(**options: Any) -> Any:
    text = require("sklearn.feature_extraction.text", extra="eval")
    return text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float64, **options)
