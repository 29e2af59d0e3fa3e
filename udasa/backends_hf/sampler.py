"""Chat prompts -> K responses with their log-probabilities, each drawn by its own seed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from udasa.backends import Message, Report, Response, Sampling, ignore
from udasa.backends_hf.batches import batches_by_length
from udasa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SeededChoice(LogitsProcessor):
    """Choose each row's next token with that row's own random numbers, and keep its log-probability.

    Inverse-CDF sampling: the token is the first whose cumulative probability exceeds the row's uniform number of
    this step, so a row's draw does not depend on the other rows. All other scores become -inf, so that greedy
    decoding takes the chosen token.
    """

    def __init__(self, uniforms: torch.Tensor, temperature: float, top_p: float) -> None:
        """`uniforms`: shape (rows, steps), in [0, 1)."""
        self.uniforms = uniforms
        self.temperature = temperature
        self.top_p = top_p
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores in which only the chosen tokens are finite, shape (rows, vocabulary)."""
        scores = scores.float()
        probs = torch.softmax(scores / self.temperature, dim=-1)
        if self.top_p < 1:
            probs = _nucleus(probs, self.top_p)
        cdf = probs.double().cumsum(dim=-1)
        draw = self.uniforms[:, len(self.logprobs), None] * cdf[:, -1:]
        tokens = torch.searchsorted(cdf, draw, right=True).clamp_(max=scores.shape[-1] - 1)
        self.logprobs.append(torch.log_softmax(scores, dim=-1).gather(1, tokens)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)


def _nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero everything outside the smallest set of tokens whose probability reaches `top_p`."""
    ranked, order = probs.sort(dim=-1, descending=True)
    keep = ranked.cumsum(dim=-1) - ranked < top_p
    return torch.zeros_like(probs).scatter_(1, order, ranked * keep)


class HFSampler:
    """Samples from a transformers chat model in length-sorted batches."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        sampling: Sampling,
        batch_tokens: int,
    ) -> None:
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.sampling = sampling
        self.batch_tokens = batch_tokens

    def sample(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]], report: Report = ignore
    ) -> list[list[Response]]:
        """See `Sampler.sample`.

        Raises:
            UserError: a prompt leaves no room for the response in the model's context.
        """
        encoded = [self._encode(list(messages)) for messages in prompts]
        rows = [(i, k) for i, row in enumerate(seeds) for k in range(len(row))]
        widths = [len(encoded[i]) + self.sampling.max_new_tokens for i, _ in rows]
        drawn: list[list[Response | None]] = [[None] * len(row) for row in seeds]
        unfinished = [len(row) for row in seeds]
        for numbers in batches_by_length(widths, self.batch_tokens):
            batch = [rows[n] for n in numbers]
            responses = self._generate([encoded[i] for i, _ in batch], [seeds[i][k] for i, k in batch])
            for (i, k), response in zip(batch, responses, strict=True):
                drawn[i][k] = response
                unfinished[i] -= 1
            report(sum(unfinished[i] == 0 for i in {i for i, _ in batch}))
        return [[r for r in row if r is not None] for row in drawn]

    def _encode(self, messages: list[Message]) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        room = getattr(self.model.config, "max_position_embeddings", None)
        if room is not None and len(ids) + self.sampling.max_new_tokens > room:
            raise UserError(
                f"A prompt of {len(ids)} tokens with {self.sampling.max_new_tokens} new ones does not fit the model's "
                f"context of {room} tokens: {messages[-1]['content'][:80]!r}. Shorten it or lower max_new_tokens."
            )
        return ids

    def _generate(self, prompts: list[list[int]], seeds: list[int]) -> list[Response]:
        steps = self.sampling.max_new_tokens
        uniforms = np.stack([np.random.default_rng(seed).random(steps) for seed in seeds])
        choice = SeededChoice(
            torch.from_numpy(uniforms).to(self.model.device), self.sampling.temperature, self.sampling.top_p
        )
        batch = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            sequences = self.model.generate(
                **batch,
                generation_config=GenerationConfig(max_new_tokens=steps, do_sample=False, num_beams=1),
                logits_processor=LogitsProcessorList([choice]),
            )
        tokens = sequences[:, batch["input_ids"].shape[1] :].cpu()
        logprobs = torch.stack(choice.logprobs, dim=1).double().cpu()
        return [self._response(*row) for row in zip(tokens, logprobs, seeds, strict=True)]

    def _response(self, tokens: torch.Tensor, logprobs: torch.Tensor, seed: int) -> Response:
        """Cut a row at its end token; the end token counts, since it was sampled too."""
        ends = torch.isin(tokens, torch.tensor(self.model.generation_config.eos_token_id)).nonzero()
        num_tokens = int(ends[0]) + 1 if len(ends) else len(tokens)
        total = float(logprobs[:num_tokens].sum())
        text = self.tokenizer.decode(tokens[:num_tokens], skip_special_tokens=True).strip()
        return Response(text, num_tokens, total, total / num_tokens, "stop" if len(ends) else "length", seed)
