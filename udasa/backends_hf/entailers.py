"""Pairs of texts -> P(entailment), P(neutral), P(contradiction)."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from udasa.backends import Floats, Report, ignore
from udasa.backends_hf.batches import batches_by_length
from udasa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS = ("entail", "neutral", "contra")

Logits = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
"""One forward pass: padded inputs, shape (rows, tokens), to logits, shape (rows, labels)."""

_CHUNK = 2048
"""Texts that are tokenised at once: it bounds the encodings in memory."""

log = logging.getLogger(__name__)


class NLIEntailer:
    """A three-way NLI cross-encoder; which logit is which is read from its config.

    A pair that is longer than the model's context is cut, the longer text first, so that both sides remain; `num_cut`
    counts such pairs.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        batch_tokens: int,
        logits: Logits | None = None,
    ) -> None:
        """Check the labels. `logits`: what runs instead of the model's own forward pass.

        Raises:
            UserError: the config does not name entailment, neutral and contradiction; or the tokenizer is not fast.
        """
        _require_fast(tokenizer, str(model.config.name_or_path))
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.batch_tokens = batch_tokens
        self.columns = _label_columns(dict(model.config.id2label or {}), str(model.config.name_or_path))
        self.logits = logits or self._forward
        self.num_cut = 0

    def entail(self, pairs: Sequence[tuple[str, str]], report: Report = ignore) -> Floats:
        """See `Entailer.entail`."""
        out = np.empty((len(pairs), 3))
        for start in range(0, len(pairs), _CHUNK):
            out[start : start + _CHUNK] = self._chunk(pairs[start : start + _CHUNK], report)
        return out

    def _chunk(self, pairs: Sequence[tuple[str, str]], report: Report) -> Floats:
        limit = _context(self.model, self.tokenizer)
        short = _clip(self.tokenizer, {text for pair in pairs for text in pair}, limit)
        encoded = self.tokenizer(
            [short[premise] for premise, _ in pairs],
            [short[hypothesis] for _, hypothesis in pairs],
            truncation="longest_first",
            max_length=limit,
        )
        self._count([bool(one.overflowing) for one in encoded.encodings], limit)
        out = np.empty((len(pairs), 3))
        for rows in batches_by_length([len(ids) for ids in encoded["input_ids"]], self.batch_tokens):
            with torch.inference_mode():
                logits = self.logits(_pad(self.tokenizer, encoded, rows))[:, self.columns].double()
            out[rows] = torch.softmax(logits, dim=-1).cpu().numpy()
            report(len(rows))
        return out

    def _forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.model(**{name: rows.to(self.model.device) for name, rows in batch.items()}).logits
        return logits

    def _count(self, cut: Sequence[bool], limit: int) -> None:
        if any(cut):
            self.num_cut += sum(cut)
            log.warning("%d of %d pairs are longer than %d tokens and were cut.", sum(cut), len(cut), limit)


def _require_fast(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """Refuse a tokenizer that cannot say which token came from where: long texts are cut by that."""
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer of {name} is a {type(tokenizer).__name__}, which has no fast form; an entailer needs one "
            "to cut long texts. Use a model whose folder holds a tokenizer.json."
        )


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
        _require_fast(tokenizer, str(model.config.name_or_path))
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
        cosine = _dots(vectors, left, right)
        same = np.where(np.equal(left, right), 1.0, np.clip(cosine, 0.0, 1.0) ** self.power)
        report(len(pairs))
        return np.stack([same, np.zeros_like(same), 1.0 - same], axis=1)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return mean-pooled, unit-length embeddings, shape (n, width), float64."""
        out = np.empty((len(texts), self.model.config.hidden_size))
        for start in range(0, len(texts), _CHUNK):
            out[start : start + _CHUNK] = self._chunk(texts[start : start + _CHUNK])
        unit: Floats = out / np.linalg.norm(out, axis=1, keepdims=True)
        return unit

    def _chunk(self, texts: Sequence[str]) -> Floats:
        limit = _context(self.model, self.tokenizer)
        short = _clip(self.tokenizer, set(texts), limit)
        encoded = self.tokenizer([short[text] for text in texts], truncation=True, max_length=limit)
        out = np.empty((len(texts), self.model.config.hidden_size))
        for rows in batches_by_length([len(ids) for ids in encoded["input_ids"]], self.batch_tokens):
            batch = _pad(self.tokenizer, encoded, rows).to(self.model.device)
            with torch.inference_mode():
                states = self.model(**batch).last_hidden_state.double()
            mask = batch["attention_mask"][..., None].double()
            out[rows] = ((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
        return out


def _dots(vectors: Floats, left: Sequence[int], right: Sequence[int]) -> Floats:
    """Return the dot product of each pair of rows, shape (pairs,), without a copy of all rows at once."""
    out = np.empty(len(left))
    for start in range(0, len(left), _CHUNK):
        some = slice(start, start + _CHUNK)
        out[some] = np.einsum("nd,nd->n", vectors[left[some]], vectors[right[some]])
    return out


def _clip(tokenizer: Any, texts: Iterable[str], limit: int) -> dict[str, str]:
    """Cut each text after its first `limit` tokens, which are more than a pair has room for.

    So a text of 20,000 tokens costs its length once and not in every pair. A text of fewer bytes than that is left to
    the truncation of its pairs.
    """
    short = {}
    for text in texts:
        short[text] = text
        if len(text.encode()) > limit:
            offsets = tokenizer(
                text, truncation=True, max_length=limit, add_special_tokens=False, return_offsets_mapping=True
            )["offset_mapping"]
            short[text] = text[: offsets[-1][1]] if offsets else text
    return short


def _pad(tokenizer: Any, encoded: Any, rows: Sequence[int]) -> Any:
    """Pad these rows on the right: encoders count positions from the left."""
    some = {name: [encoded[name][i] for i in rows] for name in encoded}
    return tokenizer.pad(some, return_tensors="pt", padding_side="right")


def _context(model: Any, tokenizer: Any) -> int:
    """Return the longest input in tokens."""
    return int(min(model.config.max_position_embeddings, tokenizer.model_max_length))
