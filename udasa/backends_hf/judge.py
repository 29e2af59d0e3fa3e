"""Exchanges x principles -> P(acceptable), read from the next token's probabilities in both option orders.

The questions about one response differ only in their last lines, so prompt and response run through the model once,
and their key-value cache is shared by all questions.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from udasa.backends import (
    Exchange,
    Floats,
    Principle,
    Report,
    ignore,
    judge_context,
    judge_questions,
)
from udasa.backends_hf.batches import batches
from udasa.backends_hf.cache import cache_argument, positions
from udasa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MARK = "\u241e"
"""Stands where the question goes, to find the place in the rendered template."""
_CACHE_FACTOR = 4
"""Cached tokens allowed in a batch, as a multiple of the tokens of one forward pass."""


class HFJudge:
    """A chat model that reads a constitution."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        principles: Sequence[Principle],
        batch_tokens: int,
        options: tuple[str, str],
    ) -> None:
        """Tokenise the questions; the first of the two options is the one whose probability is returned.

        Raises:
            UserError: an option is not one token of the model.
        """
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.batch_tokens = batch_tokens
        self.options = [self._option(word, options) for word in options]
        tail = self._template("")[1]
        self.questions = [self._ids(question + tail) for question in judge_questions(principles, options)]

    def judge(self, exchanges: Sequence[Exchange], report: Report = ignore) -> Floats:
        """See `Judge.judge`."""
        contexts = [self._ids(self._template(judge_context(exchange))[0]) for exchange in exchanges]
        yes = np.empty((len(exchanges), len(self.questions)))
        for rows in self._batches([len(ids) for ids in contexts]):
            yes[rows] = self._yes([contexts[i] for i in rows])
            report(len(rows))
        return yes.reshape(len(exchanges), -1, 2)

    def _yes(self, contexts: list[list[int]]) -> Floats:
        """Return the first option's share of both options' probability, shape (contexts, questions)."""
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
        probability: Floats = torch.softmax(logits.double().to(device), dim=-1)[:, 0].cpu().numpy()
        return probability.reshape(rows, num_questions)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Group contexts, longest first, within the token budgets of the forward pass and of the cache."""
        num_questions, width = len(self.questions), max(len(q) for q in self.questions)

        def capacity(longest: int) -> int:
            forward = self.batch_tokens // max(longest, num_questions * width)
            cached = _CACHE_FACTOR * self.batch_tokens // (num_questions * (longest + width))
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

    def _option(self, word: str, options: tuple[str, str]) -> int:
        ids = self._ids(word)
        if len(ids) != 1:
            raise UserError(
                f"The judge's tokenizer splits the option '{word}' into {len(ids)} tokens, so its probability cannot "
                f"be read. Use a judge model whose vocabulary has {' and '.join(options)} as single tokens."
            )
        return ids[0]
