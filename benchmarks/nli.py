"""The model that every contender runs: a real encoder with a random three-way head, whose answers are then put right.

No NLI weights are to be had offline. The forward pass is that of all-MiniLM-L6-v2 with a seeded head; its logits are
then replaced by those of the workload's labels, so that every contender stops where right labels let it stop.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

LABELS = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
"""In the order that one of the peers takes for granted."""


class Counts:
    """What went through the model."""

    def __init__(self) -> None:
        self.calls = self.pairs = self.tokens = 0

    def add(self, shape: torch.Size) -> None:
        """Count one forward pass of padded inputs, shape (rows, tokens)."""
        self.calls += 1
        self.pairs += shape[0]
        self.tokens += shape[0] * shape[1]


def make(encoder: Path, folder: Path) -> None:
    """Write the encoder with a seeded random head into a folder."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    set_seed(0)
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=3, id2label=names, label2id={label: i for i, label in names.items()}
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)


def put_right(model: Any, tokenizer: Any, meanings: list[str]) -> Counts:
    """Replace a loaded model's logits by the right ones after each forward pass; returns its running counts.

    Both sides of a pair are read off the input: entailment where their meaning words are equal, or where a side (a
    sentence) has none; else contradiction.
    """
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(meanings))
    counts = Counts()
    forward = model.forward

    def replaced(*inputs: Any, **named: Any) -> Any:
        out = forward(*inputs, **named)
        tokens, sides = named["input_ids"], named["token_type_ids"]
        counts.add(tokens.shape)
        there = tokens[:, :, None] == ids
        left, right = (((sides == side)[:, :, None] & there).any(dim=1) for side in (0, 1))
        same = (left == right).all(dim=1) | ~left.any(dim=1) | ~right.any(dim=1)
        right_logits = torch.tensor([[4.0, 0.0, -4.0], [-4.0, 0.0, 4.0]])[same.long()]
        out.logits = right_logits + 0.0 * out.logits
        return out

    model.forward = replaced
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the benchmark's model.")
    parser.add_argument("encoder", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    make(arguments.encoder, arguments.folder)
