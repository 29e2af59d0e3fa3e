"""A policy and held-out pairs -> what each item says of it: margins, KL to the base, length, refusals, a canary.

held = held_out(open_data("./dataset"), max_length=256)
probe(policy, held, adapter=Path("out/adapter"))["margin"]     # {"<prompt id>": 1.3, ...}: nats
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from udasa import backends_hf
from udasa.backends import Floats, ModelSpec, Response, Sampling
from udasa.backends_hf.batches import batches_by_length
from udasa.digests import stable_hash
from udasa.errors import DivergedError, UserError, require
from udasa.heldout import HeldOut
from udasa.refusals import OPENING
from udasa.train.preflight import pair_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Values = dict[str, dict[str, float]]
"""Metric -> item -> its value; an item is a pair's prompt id, or a text of the canary."""

Logits = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""Token ids and their mask, shape (rows, tokens), padded on the right -> logits, shape (rows, tokens, vocabulary)."""


class Metric(NamedTuple):
    """What a number of the probe is."""

    unit: str
    higher_is_better: bool | None
    """None where neither way is."""
    meaning: str
    to_base: bool = False
    """Whether the base is what it is measured by, so that the base's own value says nothing."""


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(
        "share", True, "held-out pairs whose log-ratio to the base is higher for chosen; a tie is half", True
    ),
    "margin": Metric("nats", True, "log-ratio to the base of chosen minus that of rejected", True),
    "kl": Metric("nats a response", None, "KL(policy || base), exact at every token of a sampled response", True),
    "length": Metric("tokens", None, "length of the greedy response, with its end token"),
    "refusal": Metric("share", None, "greedy responses that begin as a refusal does"),
    "canary": Metric("bits a byte", False, "cross-entropy on plain texts that no pair is about"),
}
"""What `probe` measures, in order."""

_AT_ONCE = 1024
"""Most tokens in one forward pass with logits: 0.2 GB of them at a vocabulary of 50,000 in float32."""
_GREEDY = 1e-6
"""Temperature at which sampling takes the most likely token."""


class Sequences(NamedTuple):
    """Token ids, and from which place on they are the completion."""

    ids: list[list[int]]
    starts: list[int]


class Loaded(NamedTuple):
    """A policy and its base in memory."""

    model: Any
    tokenizer: "PreTrainedTokenizerBase"
    policy: Logits
    base: Logits
    batch_tokens: int


def probe(
    policy: ModelSpec,
    held_out: HeldOut,
    *,
    adapter: Path | None = None,
    base: ModelSpec | None = None,
    base_logprobs: Floats | None = None,
) -> Values:
    """Measure a policy on held-out pairs, on generated responses to their prompts, and on the canary.

    A prompt to which no response fits the model's context has no `kl`, `length` and `refusal`.

    Args:
        policy: the model, or what the adapter belongs on.
        held_out: the items.
        adapter: a PEFT adapter folder.
        base: what the policy is compared with; None: `policy` without its adapter.
        base_logprobs: what `base_logprobs` returned for the same base and pairs, if that is known.

    Raises:
        DivergedError: a number is not finite.
        UserError: the base has another vocabulary.
    """
    with backends_hf.quiet():
        loaded = load(policy, adapter, base)
        pairs = encode(loaded.tokenizer, held_out)
        ours = completion_logprobs(loaded.policy, pairs, loaded).reshape(-1, 2)
        theirs = base_logprobs
        if theirs is None:
            theirs = completion_logprobs(loaded.base, pairs, loaded).reshape(-1, 2)
        ratio = ours - theirs
        margins = ratio[:, 0] - ratio[:, 1]
        names = [row["prompt_id"] for row in held_out.pairs]
        found = {
            "accuracy": dict(zip(names, ((np.sign(margins) + 1) / 2).tolist(), strict=True)),
            "margin": dict(zip(names, margins.tolist(), strict=True)),
            **_generated(loaded, held_out),
            "canary": _canary(loaded, held_out.canary),
        }
    for metric, values in found.items():
        if bad := [name for name, value in values.items() if not np.isfinite(value)]:
            raise DivergedError(
                f"{metric} is not finite for {len(bad)} of {len(values)} items (the first: {bad[0]}), so the policy "
                f"{adapter or policy.model} has diverged. Lower the learning rate, or use another dtype."
            )
    return found


def by_stage(values: Values, held_out: HeldOut) -> Values:
    """Return the values with accuracy and margin of each stage's pairs as metrics of their own."""
    found = dict(values)
    for stage in sorted({row["stage"] for row in held_out.pairs}):
        names = [row["prompt_id"] for row in held_out.pairs if row["stage"] == stage]
        for metric in ("accuracy", "margin"):
            found[f"{metric} {stage}"] = {name: values[metric][name] for name in names}
    return found


def base_logprobs(base: ModelSpec, held_out: HeldOut) -> Floats:
    """Return log-probabilities in nats of chosen and rejected under the base, shape (pairs, 2)."""
    with backends_hf.quiet():
        loaded = load(base, None, None)
        return completion_logprobs(loaded.base, encode(loaded.tokenizer, held_out), loaded).reshape(-1, 2)


def load(policy: ModelSpec, adapter: Path | None, base: ModelSpec | None) -> Loaded:
    """Load a policy and its base; with an adapter, they share their weights.

    Raises:
        UserError: the base has another vocabulary.
    """
    require("torch", extra="hf")
    model, tokenizer = backends_hf.load_causal_lm(policy)
    batch_tokens = min(policy.batch_tokens, _AT_ONCE)
    if base is not None:
        other, its_tokenizer = backends_hf.load_causal_lm(base)
        if its_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"The base {base.model} has another vocabulary than the policy {policy.model}, so their probabilities "
                "cannot be compared. Name the model that the policy was trained from."
            )
    else:
        other = model
    if adapter is None:
        return Loaded(model, tokenizer, _logits(model), _logits(other), batch_tokens)
    require("peft", extra="train")
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(model, str(adapter)).eval()
    off = _logits(tuned, adapter_off=True) if base is None else _logits(other)
    return Loaded(tuned.get_base_model(), tokenizer, _logits(tuned), off, batch_tokens)


def _logits(model: Any, adapter_off: bool = False) -> Logits:
    def run(ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        import torch

        with torch.inference_mode(), model.disable_adapter() if adapter_off else nullcontext():
            logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits.float()

    return run


def encode(tokenizer: "PreTrainedTokenizerBase", held_out: HeldOut) -> Sequences:
    """Return chosen and rejected of every pair in turn, cut as TRL's DPOTrainer cuts them."""
    found = Sequences([], [])
    for row in held_out.pairs:
        read = pair_tokens(tokenizer, row)
        found.ids.extend(side[: held_out.max_length] for side in (read.chosen, read.rejected))
        found.starts.extend([read.prompt, read.prompt])
    return found


def completion_logprobs(logits: Logits, sequences: Sequences, loaded: Loaded) -> Floats:
    """Return the log-probability in nats of every completion after what comes before it, shape (sequences,)."""
    total = np.zeros(len(sequences.ids))
    for rows, ids, mask, place in _batches(sequences, loaded):
        scores = logits(ids, mask)[:, :-1]
        chosen = scores.gather(2, ids[:, 1:, None])[..., 0] - scores.logsumexp(dim=2)
        total[rows] = (chosen.double() * place[:, 1:]).sum(dim=1).cpu().numpy()
    return total


def _batches(
    sequences: Sequences, loaded: Loaded
) -> Iterator[tuple[list[int], "torch.Tensor", "torch.Tensor", "torch.Tensor"]]:
    """Yield row numbers, token ids and attention mask padded on the right, and where the completion is."""
    import torch

    for rows in batches_by_length([len(ids) for ids in sequences.ids], loaded.batch_tokens):
        width = max(len(sequences.ids[row]) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask, place = torch.zeros_like(ids), torch.zeros(len(rows), width, dtype=torch.float64)
        for n, row in enumerate(rows):
            length = len(sequences.ids[row])
            ids[n, :length] = torch.tensor(sequences.ids[row])
            mask[n, :length] = 1
            place[n, sequences.starts[row] : length] = 1
        device = loaded.model.device
        yield rows, ids.to(device), mask.to(device), place.to(device)


def _generated(loaded: Loaded, held_out: HeldOut) -> Values:
    """Answer every prompt greedily, for length and refusals, and once by sampling at temperature 1, for the KL."""
    found: Values = {"kl": {}, "length": {}, "refusal": {}}
    sequences, names = Sequences([], []), []
    for row, greedy, drawn in zip(
        held_out.pairs, _answers(loaded, held_out, _GREEDY), _answers(loaded, held_out, 1.0), strict=True
    ):
        if greedy is None or drawn is None:
            continue
        name = row["prompt_id"]
        found["length"][name] = float(greedy.num_tokens)
        found["refusal"][name] = float(bool(OPENING.match(greedy.text)))
        prompt = backends_hf.chat_tokens(loaded.tokenizer, row["prompt"], prompt=True)
        said: Any = loaded.tokenizer(drawn.text, add_special_tokens=False)
        ids = said["input_ids"] if drawn.finish_reason == "stop" else said["input_ids"][:-1]
        sequences.ids.append([*prompt, *ids])
        sequences.starts.append(len(prompt))
        names.append(name)
    found["kl"] = dict(zip(names, _kl(loaded, sequences).tolist(), strict=True))
    return found


def _answers(loaded: Loaded, held_out: HeldOut, temperature: float) -> list[Response | None]:
    """Return one response a prompt, drawn by the seed of its id; None where none fits the context."""
    from udasa.backends_hf.sampler import HFSampler

    sampling = Sampling(temperature=temperature, max_new_tokens=held_out.max_new_tokens)
    sampler = HFSampler(loaded.model, loaded.tokenizer, sampling, loaded.batch_tokens)
    seeds = [[stable_hash(held_out.seed, "probe", row["prompt_id"])] for row in held_out.pairs]
    drawn = sampler.sample([row["prompt"] for row in held_out.pairs], seeds)
    return [found[0] if isinstance(found, list) else None for found in drawn]


def _kl(loaded: Loaded, sequences: Sequences) -> Floats:
    """Return the sum over a response's places of KL(policy || base) of the next token, in nats, shape (sequences,).

    Its mean over responses that the policy sampled at temperature 1 is an unbiased estimate of the KL between the two
    distributions of responses (Amini et al. 2025, arXiv 2504.10637). A sequence is without the last token that was
    drawn, the end or the one at the limit: the place before it is the last that counts.
    """
    total = np.zeros(len(sequences.ids))
    for rows, ids, mask, place in _batches(Sequences(sequences.ids, [n - 1 for n in sequences.starts]), loaded):
        ours, theirs = (logits(ids, mask).log_softmax(dim=2) for logits in (loaded.policy, loaded.base))
        each = (ours.exp() * (ours - theirs)).sum(dim=2).double()
        total[rows] = (each * place).sum(dim=1).cpu().numpy()
    return total


def _canary(loaded: Loaded, texts: Mapping[str, str]) -> dict[str, float]:
    """Return bits a byte of each text, after the token that begins or ends a text."""
    tokenizer: Any = loaded.tokenizer
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = [[first, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts.values()]
    nats = completion_logprobs(loaded.policy, Sequences(ids, [1] * len(ids)), loaded)
    sizes = [len(text.encode()) for text in texts.values()]
    return dict(zip(texts, (-nats / np.log(2) / sizes).tolist(), strict=True))
