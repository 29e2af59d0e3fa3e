"""A language model's answers, read from the next token's probabilities: as a judge, and as an entailer.

exchanges x principles -> P(acceptable), in both option orders
pairs of texts -> P(entailment), P(neutral), P(contradiction)

The questions about one text differ only in their last lines, so the text runs through the model once, and its
key-value cache is shared by all questions.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from udasa.backends import (
    NLI_OPTIONS,
    NLI_QUESTION,
    Exchange,
    Floats,
    Principle,
    Report,
    ignore,
    judge_context,
    judge_questions,
    nli_context,
)
from udasa.backends_hf.batches import CACHE_FACTOR, batches
from udasa.backends_hf.cache import cache_argument, positions
from udasa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MARK = "\u241e"
"""Stands where the question goes, to find the place in the rendered template."""


class _Reader:
    """A chat model that is asked the same questions about every text."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        questions: Sequence[str],
        batch_tokens: int,
        options: Sequence[str],
    ) -> None:
        """Tokenise the questions.

        Raises:
            UserError: an option is not one token of the model.
        """
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.batch_tokens = batch_tokens
        self.options = [self._option(word, options) for word in options]
        tail = self._template("")[1]
        self.questions = [self._ids(question + tail) for question in questions]

    def shares(self, texts: Sequence[str], report: Report) -> Floats:
        """Return each option's share of the options' probability, shape (texts, questions, options)."""
        contexts = [self._ids(self._template(text)[0]) for text in texts]
        found = np.empty((len(texts), len(self.questions), len(self.options)))
        for rows in self._batches([len(ids) for ids in contexts]):
            found[rows] = self._shares([contexts[i] for i in rows])
            report(len(rows))
        return found

    def _shares(self, contexts: list[list[int]]) -> Floats:
        """Do what `shares` does, in one batch of tokens."""
        device = self.model.device
        heads = self._pad(contexts)
        tails = self._pad(self.questions)
        rows, num_questions = len(contexts), len(self.questions)
        with torch.inference_mode():
            cache = DynamicCache(config=self.model.config)
            self.model(**heads, position_ids=positions(heads), logits_to_keep=1, **{cache_argument(self.model): cache})
            cache.batch_repeat_interleave(num_questions)
            mask = torch.cat(
                [
                    heads["attention_mask"].repeat_interleave(num_questions, dim=0),
                    tails["attention_mask"].repeat(rows, 1),
                ],
                dim=1,
            )
            width = tails["input_ids"].shape[1]
            logits = self.model(
                input_ids=tails["input_ids"].repeat(rows, 1),
                attention_mask=mask,
                position_ids=positions({"attention_mask": mask})[:, -width:],
                logits_to_keep=1,
                **{cache_argument(self.model): cache},
            ).logits[:, -1, self.options]
        probability: Floats = torch.softmax(logits.double().to(device), dim=-1).cpu().numpy()
        return probability.reshape(rows, num_questions, -1)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Group contexts, longest first, within the token budgets of the forward pass and of the cache."""
        num_questions, width = len(self.questions), max(len(q) for q in self.questions)

        def capacity(longest: int) -> int:
            forward = self.batch_tokens // max(longest, num_questions * width)
            cached = CACHE_FACTOR * self.batch_tokens // (num_questions * (longest + width))
            return min(forward, cached)

        return batches(lengths, capacity)

    def _template(self, context: str) -> tuple[str, str]:
        """Return the rendered conversation before and after the place of the question."""
        messages = [{"role": "user", "content": context + _MARK}]
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        head, _, tail = text.rpartition(_MARK)
        return head, tail

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _pad(self, rows: list[list[int]]) -> Any:
        """Pad on the left, so that the last column is every row's last token."""
        return self.tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="left").to(self.model.device)

    def _option(self, word: str, options: Sequence[str]) -> int:
        ids = self._ids(word)
        if len(ids) != 1:
            raise UserError(
                f"The model's tokenizer splits the option '{word}' into {len(ids)} tokens, so its probability cannot "
                f"be read. Use a model whose vocabulary has {' and '.join(options)} as single tokens."
            )
        return ids[0]


class HFJudge(_Reader):
    """Reads a constitution."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        principles: Sequence[Principle],
        batch_tokens: int,
        options: tuple[str, str],
    ) -> None:
        """See `_Reader`; the first of the two options is the one whose probability is returned."""
        super().__init__(model, tokenizer, judge_questions(principles, options), batch_tokens, options)

    def judge(self, exchanges: Sequence[Exchange], report: Report = ignore) -> Floats:
        """See `Judge.judge`."""
        shares = self.shares([judge_context(exchange) for exchange in exchanges], report)
        return shares[..., 0].reshape(len(exchanges), -1, 2)


class HFPromptedEntailer(_Reader):
    """Asks whether one text follows from another."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch_tokens: int) -> None:
        super().__init__(model, tokenizer, [NLI_QUESTION], batch_tokens, NLI_OPTIONS)

    def entail(self, pairs: Sequence[tuple[str, str]], report: Report = ignore) -> Floats:
        """See `Entailer.entail`."""
        return self.shares([nli_context(*pair) for pair in pairs], report)[:, 0]
