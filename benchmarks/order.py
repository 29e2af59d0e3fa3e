"""What another batch size changes with a real model: responses and log-probabilities of the demo's policy.

python benchmarks/order.py [--prompts 16] [--batch-tokens 8192 128]
"""

import argparse

import numpy as np
from sampling import messages

from udasa import recipe
from udasa.backends import Sampling
from udasa.backends_hf import load_causal_lm
from udasa.backends_hf.sampler import HFSampler
from udasa.digests import stable_hash


def main() -> None:
    """Print the figures of docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch-tokens", type=int, nargs=2, default=[8192, 128])
    given = parser.parse_args()
    model, tokenizer = load_causal_lm(recipe.load("demo").policy)
    asked, sampling = messages(given.prompts), Sampling(k=given.k, max_new_tokens=given.tokens)
    seeds = [[stable_hash("order", i, k) for k in range(given.k)] for i in range(len(asked))]
    drawn = [
        [r for row in HFSampler(model, tokenizer, sampling, budget).sample(asked, seeds) for r in row]
        for budget in given.batch_tokens
    ]
    same = [(one, other) for one, other in zip(*drawn, strict=True) if one.text == other.text]
    apart = np.abs([one.logprob_sum - other.logprob_sum for one, other in same])
    print(
        f"{len(same)} of {len(drawn[0])} responses have the same text; the log-probabilities of these differ by at "
        f"most {apart.max():.2g} nats, {apart.mean():.2g} on average; {int((apart == 0).sum())} are the same to the bit"
    )


if __name__ == "__main__":
    main()
