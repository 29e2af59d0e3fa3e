"""Chat prompts -> K responses with their log-probabilities, each drawn by its own seed."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from udasa.backends import Failure, Message, Report, Response, Sampling, ignore, make_response, stop_place
from udasa.backends_hf.batches import CACHE_FACTOR, batches_by_length
from udasa.backends_hf.cache import cache_argument, positions

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


class StopTexts(StoppingCriteria):
    """Ends a row whose new text has a stop text; transformers' own criterion would read the prompt's end too."""

    def __init__(self, text: Callable[[torch.Tensor], str], stop: Sequence[str], start: int) -> None:
        """Read new text after the first `start` tokens, the prompts."""
        self.text = text
        self.stop = stop
        self.start = start
        self.reach = max(len(one.encode()) for one in stop) + 1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Say which rows have ended, shape (rows,); only as many tokens are read as a stop text can have."""
        tails = input_ids[:, max(self.start, input_ids.shape[1] - self.reach) :]
        ended = [stop_place(self.text(row), self.stop) is not None for row in tails]
        return torch.tensor(ended, device=input_ids.device)


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
        self.room: int | None = getattr(model.config, "max_position_embeddings", None)

    def sample(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]], report: Report = ignore
    ) -> list[list[Response] | Failure]:
        """See `Sampler.sample`."""
        return self.draw([self._encode(list(messages)) for messages in prompts], seeds, report)

    def draw(
        self, encoded: Sequence[list[int]], seeds: Sequence[Sequence[int]], report: Report = ignore
    ) -> list[list[Response] | Failure]:
        """Do what `sample` does for prompts that are tokens already."""
        drawn: list[dict[int, Response]] = [{} for _ in encoded]
        lengths = [len(ids) for ids in encoded]
        fitting = [i for i, length in enumerate(lengths) if self._fits(length)]
        parts = [part for i in fitting for part in self._parts(i, lengths[i], len(seeds[i]))]
        report(len(encoded) - len(fitting))
        for numbers in batches_by_length([self._cost(lengths[i], len(ks)) for i, ks in parts], self.batch_tokens):
            batch = [parts[n] for n in numbers]
            rows = [(i, k) for i, ks in batch for k in ks]
            responses = self._generate(
                [encoded[i] for i, _ in batch], [len(ks) for _, ks in batch], [seeds[i][k] for i, k in rows]
            )
            for (i, k), response in zip(rows, responses, strict=True):
                drawn[i][k] = response
            report(sum(len(drawn[i]) == len(seeds[i]) for i in {i for i, _ in batch}))
        return [
            [found[k] for k in range(len(found))] if self._fits(length) else self._too_long(length)
            for found, length in zip(drawn, lengths, strict=True)
        ]

    def _parts(self, prompt: int, length: int, count: int) -> Iterator[tuple[int, range]]:
        """Yield a prompt's responses in parts that fit the token budget, as (prompt, numbers); mostly all in one."""
        size = max(1, min(count, CACHE_FACTOR * self.batch_tokens // (length + self.sampling.max_new_tokens)))
        for start in range(0, count, size):
            yield prompt, range(start, min(start + size, count))

    def _cost(self, length: int, count: int) -> int:
        """Return what a prompt's responses take of the token budget: the prefill's forward pass, or the cache."""
        cached = (length + self.sampling.max_new_tokens) * count
        return max(length, math.ceil(cached / CACHE_FACTOR))

    def _encode(self, messages: list[Message]) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        return ids

    def _fits(self, length: int) -> bool:
        return self.room is None or length + self.sampling.max_new_tokens <= self.room

    def _too_long(self, length: int) -> Failure:
        new = self.sampling.max_new_tokens
        return Failure("context-too-long", f"{length} tokens and {new} new ones, in a context of {self.room} tokens")

    def _generate(self, prompts: list[list[int]], counts: list[int], seeds: list[int]) -> list[Response]:
        """Draw `counts[i]` responses to prompt i, whose tokens run through the model once."""
        steps = self.sampling.max_new_tokens
        uniforms = np.stack([np.random.default_rng(seed).random(steps) for seed in seeds])
        choice = SeededChoice(
            torch.from_numpy(uniforms).to(self.model.device), self.sampling.temperature, self.sampling.top_p
        )
        batch = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.model.device)
        copies = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(counts)).to(self.model.device)
        with torch.inference_mode():
            cache = self._prefill(batch)
            cache.batch_select_indices(copies)
            sequences = self.model.generate(
                **{name: rows[copies] for name, rows in batch.items()},
                **{cache_argument(self.model): cache},
                generation_config=GenerationConfig(max_new_tokens=steps, do_sample=False, num_beams=1),
                logits_processor=LogitsProcessorList([choice]),
                stopping_criteria=self._stopping(batch["input_ids"].shape[1]),
            )
        tokens = sequences[:, batch["input_ids"].shape[1] :].cpu()
        logprobs = torch.stack(choice.logprobs, dim=1).double().cpu()
        return [self._response(*row) for row in zip(tokens, logprobs, seeds, strict=True)]

    def _prefill(self, batch: Any) -> DynamicCache:
        """Run all but the last token of each prompt, which `generate` runs to get its first logits."""
        cache = DynamicCache(config=self.model.config)
        heads = {name: rows[:, :-1] for name, rows in batch.items()}
        self.model(**heads, position_ids=positions(heads), logits_to_keep=1, **{cache_argument(self.model): cache})
        return cache

    def _stopping(self, start: int) -> StoppingCriteriaList:
        stop = self.sampling.stop
        return StoppingCriteriaList([StopTexts(self._text, stop, start)] if stop else [])

    def _response(self, tokens: torch.Tensor, logprobs: torch.Tensor, seed: int) -> Response:
        """Cut a row at its end token, which counts, since it was sampled too; or before a stop text."""
        ends = torch.isin(tokens, torch.tensor(self.model.generation_config.eos_token_id)).nonzero()
        num_tokens = int(ends[0]) + 1 if len(ends) else len(tokens)
        text = self._text(tokens[:num_tokens])
        place = stop_place(text, self.sampling.stop)
        if place is None:
            return make_response(text, logprobs[:num_tokens].tolist(), seed, cut=not len(ends))
        kept = next(n for n in range(num_tokens + 1) if self._text(tokens[:n]).startswith(text[:place]))
        return make_response(text[:place], logprobs[:kept].tolist(), seed)

    def _text(self, tokens: torch.Tensor) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text
