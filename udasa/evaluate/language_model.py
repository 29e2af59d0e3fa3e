"""A chat model in lm-eval's wrapper that also says how each reply ended, and draws sampled replies by seed.

Greedy replies are lm-eval's own, token for token. A sampled request (`do_sample: true`) is drawn by the seeds of its
document and repeat, so it does not hang on batches or on what else is evaluated.
"""

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from udasa.adapters import find_adapter
from udasa.backends import ModelSpec, Report, Response, Sampling, ignore
from udasa.backends_hf import load_causal_lm
from udasa.backends_hf.weights import find_weights
from udasa.digests import stable_hash
from udasa.errors import UserError, require
from udasa.evaluate.results import Setup, sha256
from udasa.run import Progress

if TYPE_CHECKING:
    from lm_eval.api.model import LM


class Reply(str):
    """A reply with what lm-eval's plain text does not say."""

    finish_reason: Literal["stop", "length"]
    """`length`: it reached the most tokens allowed, and so was cut."""
    response: Response | None
    """For a sampled reply: its tokens and log-probabilities."""

    def __new__(cls, text: str, finish_reason: Literal["stop", "length"], response: Response | None = None) -> "Reply":
        """Return the text with its ending."""
        reply = super().__new__(cls, text)
        reply.finish_reason, reply.response = finish_reason, response
        return reply


def diverged(what: str) -> UserError:
    """Return the error for numbers that are not finite."""
    return UserError(
        f"Some {what} are NaN or infinite: the model has diverged, or its weights or dtype are broken. "
        "Evaluate an earlier checkpoint, or train with a smaller learning rate."
    )


def load(
    spec: ModelSpec, adapter: Path | None, batch_size: int, limit: int | None, progress: Progress
) -> tuple["LM", Setup]:
    """Load the model into lm-eval's wrapper, with progress and a check for divergence."""
    if adapter is not None:
        spec = replace(spec, backend="hf", server=None, adapter=str(adapter), adapter_revision=None)
    found = find_adapter(spec)
    network, tokenizer = load_causal_lm(spec)
    setup = Setup(
        model={field: None if value is None else str(value) for field, value in find_weights(spec).identity.items()},
        adapter=None if found is None else found.identity["sha256"],
        chat_template=sha256(str(tokenizer.get_chat_template()).encode()),
        dtype=str(network.dtype).removeprefix("torch."),
        device=network.device.type,
        batch_size=batch_size,
        limit=limit,
    )
    return wrap(network, tokenizer, batch_size, spec.batch_tokens, progress), setup


def wrap(network: Any, tokenizer: Any, batch_size: int, batch_tokens: int, progress: Progress) -> Any:
    """Return lm-eval's wrapper of a loaded model; importing it takes seconds, so the class is made here."""
    from lm_eval.models.huggingface import HFLM

    class ChatModel(HFLM):  # type: ignore[misc]
        report: Report = staticmethod(ignore)
        cache_hook: Any

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            with progress("evaluate", len(requests)) as self.report:
                pairs: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
            if bad := sum(not math.isfinite(value) for value, _ in pairs):
                raise diverged(f"{bad} of {len(pairs)} log-likelihoods")
            return pairs

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
            self.report = ignore  # a text may be several rows of a batch, which are not known before
            found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
            if bad := sum(not math.isfinite(value) for value in found):
                raise diverged(f"{bad} of {len(found)} log-likelihoods")
            return found

        def _model_call(self, inps: Any, **options: Any) -> Any:
            logits = super()._model_call(inps, **options)
            self.report(len(inps))
            return logits

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            sampled = [i for i, request in enumerate(requests) if request.args[1].get("do_sample")]
            greedy = [i for i in range(len(requests)) if i not in set(sampled)]
            replies: list[str] = [""] * len(requests)
            with progress("generate", len(requests)) as self.report:
                for places, found in (
                    (greedy, self._greedy([requests[i] for i in greedy])),
                    (sampled, self._sampled([requests[i] for i in sampled])),
                ):
                    for i, reply in zip(places, found, strict=True):
                        replies[i] = reply
            return replies

        def _greedy(self, requests: list[Any]) -> list[str]:
            """Let lm-eval generate, and note which rows were cut; its cache hook sees the rows in their order."""
            if not requests:
                return []
            self.cut: deque[bool] = deque()
            endings: dict[tuple[str, str], Literal["stop", "length"]] = {}
            hook = self.cache_hook

            class Noting:
                def add_partial(_, kind: str, request: tuple[str, Any], reply: str) -> None:
                    endings[request[0], str(request[1])] = "length" if self.cut.popleft() else "stop"
                    hook.add_partial(kind, request, reply)

            self.cache_hook = Noting()
            try:
                texts = super().generate_until(requests, disable_tqdm=True)
            finally:
                self.cache_hook = hook
            keys = [(request.args[0], str(request.args[1])) for request in requests]
            return [Reply(text, endings[key]) for text, key in zip(texts, keys, strict=True)]

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
            rows = super()._model_generate(context, max_length, stop, **options)
            ends = set(self.model.generation_config.eos_token_id)
            new = rows[:, context.shape[1] :].tolist()
            complete = len(new[0]) + context.shape[1] >= max_length
            texts = self.tokenizer.batch_decode(new)
            self.cut.extend(
                complete and not ends.intersection(row) and not any(s and s in text for s in stop)
                for row, text in zip(new, texts, strict=True)
            )
            self.report(len(rows))
            return rows

        def _sampled(self, requests: list[Any]) -> list[str]:
            """Draw the repeats of each request together, each by its own seed."""
            from udasa.backends_hf.sampler import HFSampler

            groups: dict[str, list[int]] = {}
            for i, request in enumerate(requests):
                groups.setdefault(str(request.args[1]), []).append(i)
            replies: dict[int, str] = {}
            for places in groups.values():
                options = requests[places[0]].args[1]
                sampler = HFSampler(self.model, self.tokenizer, _sampling(options), batch_tokens)
                seen: Counter[str] = Counter()
                rows: dict[str, list[tuple[int, int]]] = {}
                for i in places:
                    context = requests[i].args[0]
                    rows.setdefault(context, []).append((i, stable_hash("sample", context, seen[context])))
                    seen[context] += 1
                tokens = [self.tok_encode(context) for context in rows]
                seeds = [[seed for _, seed in row] for row in rows.values()]
                drawn = sampler.draw(tokens, seeds, _times(self.report, len(places) // len(rows)))
                for row, responses in zip(rows.values(), drawn, strict=True):
                    for (i, _), response in zip(row, _drawn(responses), strict=True):
                        replies[i] = Reply(response.text, response.finish_reason, response)
            return [replies[i] for i in range(len(requests))]

        def base_nats(self, texts: Sequence[tuple[str, str]]) -> list[float]:
            """Return the nats per token of each (beginning, continuation) under the model without its adapter."""
            encoded = [(pair, *self._encode_pair(*pair)) for pair in texts]
            with _without_adapter(self.model):
                found = self._loglikelihood_tokens(encoded, disable_tqdm=True)
            return [-value / len(tokens) for (value, _), (_, _, tokens) in zip(found, encoded, strict=True)]

    # Without the logits cache one request is one row of a batch, so rows can be counted.
    return ChatModel(pretrained=network, tokenizer=tokenizer, batch_size=batch_size, logits_cache=False)


@contextmanager
def _without_adapter(model: Any) -> Iterator[None]:
    """Take the adapter off for a while, if there is one."""
    layers: Any = require("peft.tuners.tuners_utils", extra="eval")
    adapted = [module for module in model.modules() if isinstance(module, layers.BaseTunerLayer)]
    for module in adapted:
        module.enable_adapters(False)
    try:
        yield
    finally:
        for module in adapted:
            module.enable_adapters(True)


def _times(report: Report, repeats: int) -> Report:
    return lambda done: report(done * repeats)


def _sampling(options: dict[str, Any]) -> Sampling:
    return Sampling(
        temperature=float(options.get("temperature", 1.0)),
        top_p=float(options.get("top_p", 1.0)),
        max_new_tokens=int(options["max_gen_toks"]),
    )


def _drawn(responses: Any) -> list[Response]:
    if not isinstance(responses, list):
        raise UserError(f"A prompt of the evaluation is too long for the model: {responses.detail}.")
    return responses
