"""The transformers engine against calls of `generate`: 64 prompts, K = 8, 48 tokens, on the demo's policy.

python benchmarks/sampling.py [--prompts 64] [--repeats 3] [--threads 2] [--profile]

Every contender draws the same number of responses, from the same loaded weights, in turns; the order rotates. The best
bare loop is the faster of two: `generate(num_return_sequences=8)` over length-sorted batches, and the same from a cache
that was filled once a prompt; each at the batch size that suits it best.
"""

import argparse
import cProfile
import dataclasses
import platform
import pstats
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, set_seed

from udasa import prompts, recipe
from udasa.backends import Sampling
from udasa.backends_hf import load_causal_lm
from udasa.backends_hf.cache import cache_argument
from udasa.backends_hf.sampler import HFSampler
from udasa.digests import stable_hash

Asked = list[list[dict[str, str]]]
"""Conversations."""
K, NEW = 8, 48


def messages(count: int) -> Asked:
    """Return prompts of the bundled sets, spread over them."""
    settings = recipe.load("demo")
    sources = tuple(dataclasses.replace(source, limit=None) for source in settings.sources)
    found = prompts.collect(dataclasses.replace(settings, sources=sources)).table["messages"].to_pylist()
    return found[:: max(1, len(found) // count)][:count]


def one_by_one(model: Any, tokenizer: Any, asked: Asked) -> int:
    """Call `generate` prompt by prompt."""
    return sum(len(_generate(model, tokenizer, _encode(tokenizer, [one]))) for one in asked)


def in_batches(model: Any, tokenizer: Any, asked: Asked, size: int) -> int:
    """Call `generate` on length-sorted batches of prompts."""
    ordered = _by_length(tokenizer, asked)
    return sum(len(_generate(model, tokenizer, _encode(tokenizer, part))) for part in _cut(ordered, size))


def from_one_prefill(model: Any, tokenizer: Any, asked: Asked, size: int) -> int:
    """Fill the cache once a prompt, copy it K times, and let `generate` go on."""
    drawn = 0
    for part in _cut(_by_length(tokenizer, asked), size):
        batch, cache = _encode(tokenizer, part), DynamicCache(config=model.config)
        with torch.inference_mode():
            heads = {name: rows[:, :-1] for name, rows in batch.items()}
            places = (heads["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
            model(**heads, position_ids=places, logits_to_keep=1, **{cache_argument(model): cache})
            cache.batch_repeat_interleave(K)
            whole = {name: rows.repeat_interleave(K, dim=0) for name, rows in batch.items()}
            drawn += len(_generate(model, tokenizer, whole | {cache_argument(model): cache}, each=1))
    return drawn


def ours(model: Any, tokenizer: Any, asked: Asked, batch_tokens: int) -> int:
    """Draw with udasa, log-probabilities and all."""
    sampler = HFSampler(model, tokenizer, Sampling(k=K, max_new_tokens=NEW), batch_tokens)
    seeds = [[stable_hash("bench", i, k) for k in range(K)] for i in range(len(asked))]
    return sum(len(row) for row in sampler.sample(asked, seeds))


def _encode(tokenizer: Any, asked: Asked) -> Any:
    return tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True
    )


def _cut(asked: Asked, size: int) -> list[Asked]:
    return [asked[start : start + size] for start in range(0, len(asked), size)]


def _by_length(tokenizer: Any, asked: Asked) -> Asked:
    return sorted(asked, key=lambda one: -len(tokenizer.apply_chat_template(one)["input_ids"]))


def _generate(model: Any, tokenizer: Any, batch: Any, each: int = K) -> Any:
    sampled = GenerationConfig(
        max_new_tokens=NEW,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        num_return_sequences=each,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.inference_mode():
        return model.generate(**batch, generation_config=sampled)


def times(contenders: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Return the least seconds of each contender over the repeats; they take turns, in an order that rotates."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            set_seed(turn)
            started = time.perf_counter()
            contenders[name]()
            found[name].append(time.perf_counter() - started)
            print(f"{name}: {found[name][-1]:.1f} s", file=sys.stderr, flush=True)
    return {name: min(seconds) for name, seconds in found.items()}


def main() -> None:
    """Print the table of docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[8, 16, 64], help="prompts in a batch of the bare loops"
    )
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[4096], help="of udasa")
    parser.add_argument("--profile", action="store_true", help="of udasa at the first of these")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, tokenizer = load_causal_lm(recipe.load("demo").policy)
    asked = messages(given.prompts)
    bare = {"generate, batches of": in_batches, "generate from one prefill, batches of": from_one_prefill}
    contenders: dict[str, Callable[[], int]] = {
        "generate, prompt by prompt": partial(one_by_one, model, tokenizer, asked)
    }
    for name, loop in bare.items():
        contenders |= {f"{name} {size}": partial(loop, model, tokenizer, asked, size) for size in given.batch}
    for tokens in given.batch_tokens:
        contenders[f"udasa, batch_tokens {tokens}"] = partial(ours, model, tokenizer, asked, tokens)
    ours(model, tokenizer, asked[:2], 4096)  # warm
    found = times(contenders, given.repeats)
    lengths = [len(tokenizer.apply_chat_template(one)["input_ids"]) for one in asked]
    print(
        f"{len(asked)} prompts of {min(lengths)} to {max(lengths)} tokens, {given.threads} threads, "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, transformers "
        f"{version('transformers')}\n\n| | s | responses/s |\n| --- | ---: | ---: |"
    )
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.1f} | {len(asked) * K / seconds:.2f} |")
    least = min(seconds for name, seconds in found.items() if name.startswith("udasa"))
    best = min(seconds for name, seconds in found.items() if "batches of" in name)
    print("\n| ratio | found | aim |\n| --- | ---: | ---: |")
    print(f"| responses/s against prompt by prompt | {found['generate, prompt by prompt'] / least:.2f} | 1.50 |")
    print(f"| time against the best bare loop | {least / best:.2f} | 1.05 |")
    if given.profile:
        watch = cProfile.Profile()
        watch.runcall(ours, model, tokenizer, asked, given.batch_tokens[0])
        pstats.Stats(watch, stream=sys.stderr).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
