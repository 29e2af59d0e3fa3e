"""Pairs of texts -> P(entailment), P(neutral), P(contradiction)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from udasa.backends import Floats, Report, ignore
from udasa.backends_hf.batches import batches_by_length
from udasa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS = ("entail", "neutral", "contra")


class NLIEntailer:
    """A three-way NLI cross-encoder; which logit is which is read from its config."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch_tokens: int) -> None:
        """Check the labels.

        Raises:
            UserError: the config does not name entailment, neutral and contradiction.
        """
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.batch_tokens = batch_tokens
        self.columns = _label_columns(dict(model.config.id2label or {}), str(model.config.name_or_path))

    def entail(self, pairs: Sequence[tuple[str, str]], report: Report = ignore) -> Floats:
        """See `Entailer.entail`."""
        encoded = [
            self.tokenizer(premise, hypothesis, truncation=True, max_length=_context(self.model, self.tokenizer))
            for premise, hypothesis in pairs
        ]
        out = np.empty((len(pairs), 3))
        for rows in batches_by_length([len(e["input_ids"]) for e in encoded], self.batch_tokens):
            batch = _pad(self.tokenizer, [encoded[i] for i in rows]).to(self.model.device)
            with torch.inference_mode():
                logits = self.model(**batch).logits[:, self.columns].double()
            out[rows] = torch.softmax(logits, dim=-1).cpu().numpy()
            report(len(rows))
        return out


def _label_columns(id2label: dict[Any, str], name: str) -> list[int]:
    """Return the logit columns of entailment, neutral and contradiction."""
    columns = [[i for i, label in id2label.items() if stem in label.lower()] for stem in LABELS]
    if len(id2label) != 3 or any(len(found) != 1 for found in columns):
        raise UserError(
            f"The labels of {name} are {list(id2label.values())}; an NLI model must name entailment, neutral and "
            "contradiction in its config (id2label). Use another model, or mend the labels in its config.json."
        )
    return [found[0] for found in columns]


class SimilarityEntailer:
    """Cosine of sentence embeddings, in the place of entailment: topic and wording, not logic.

    The cosine, clipped to [0, 1], is raised to the power that brings `same_meaning` to one half; the result stands
    as P(entailment), its complement as P(contradiction), and P(neutral) is 0. Symmetric; identical texts give 1.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        batch_tokens: int,
        same_meaning: float,
    ) -> None:
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.batch_tokens = batch_tokens
        self.power = float(np.log(0.5) / np.log(same_meaning))

    def entail(self, pairs: Sequence[tuple[str, str]], report: Report = ignore) -> Floats:
        """See `Entailer.entail`."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        vectors = self.embed(texts)
        place = {text: i for i, text in enumerate(texts)}
        left = [place[premise] for premise, _ in pairs]
        right = [place[hypothesis] for _, hypothesis in pairs]
        cosine = np.einsum("nd,nd->n", vectors[left], vectors[right]) if pairs else np.empty(0)
        same = np.where(np.equal(left, right), 1.0, np.clip(cosine, 0.0, 1.0) ** self.power)
        report(len(pairs))
        return np.stack([same, np.zeros_like(same), 1.0 - same], axis=1)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return mean-pooled, unit-length embeddings, shape (n, width), float64."""
        limit = _context(self.model, self.tokenizer)
        encoded = [self.tokenizer(text, truncation=True, max_length=limit) for text in texts]
        out = np.empty((len(texts), self.model.config.hidden_size))
        for rows in batches_by_length([len(e["input_ids"]) for e in encoded], self.batch_tokens):
            batch = _pad(self.tokenizer, [encoded[i] for i in rows]).to(self.model.device)
            with torch.inference_mode():
                states = self.model(**batch).last_hidden_state.double()
            mask = batch["attention_mask"][..., None].double()
            out[rows] = ((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
        unit: Floats = out / np.linalg.norm(out, axis=1, keepdims=True)
        return unit


def _pad(tokenizer: Any, rows: list[Any]) -> Any:
    """Pad on the right: encoders count positions from the left."""
    return tokenizer.pad(rows, return_tensors="pt", padding_side="right")


def _context(model: Any, tokenizer: Any) -> int:
    """Return the longest input in tokens; beyond it texts are cut at the end."""
    return int(min(model.config.max_position_embeddings, tokenizer.model_max_length))
