"""A seeded workload: prompts with K answers of 20 to 60 words, some of them exact repeats, in a few meanings.

Each text holds one of a few meaning words. Two texts of a prompt mean the same just when that word is the same, so
every contender can be given the same right labels, whatever model runs.
"""

import random
from pathlib import Path
from typing import NamedTuple

FILLERS = 3000
"""Words without a meaning."""
MEANINGS = 8
"""Meaning words in all; a prompt uses the first few of them."""
MEANINGS_OF_A_PROMPT = {1: 0.23, 2: 0.30, 3: 0.30, 4: 0.17}
"""Share of prompts whose answers have that many meanings to choose from; few answers leave some unused."""


class Workload(NamedTuple):
    """The answers of each prompt, and the words that carry a meaning."""

    prompts: list[list[str]]
    meanings: list[str]

    def meaning(self, text: str) -> str:
        """Return the one meaning word of a text."""
        (found,) = {word.strip(".").lower() for word in text.split()} & set(self.meanings)
        return found

    def shape(self) -> dict[str, float]:
        """Return what the workload is like, to be printed beside its times."""
        k = len(self.prompts[0])
        texts = [text for prompt in self.prompts for text in prompt]
        unique = [len(set(prompt)) for prompt in self.prompts]
        words = [len(text.split()) for text in texts]
        meanings = [len({self.meaning(text) for text in prompt}) for prompt in self.prompts]
        return {
            "prompts": len(self.prompts),
            "answers a prompt": k,
            "exact duplicates": 1 - sum(unique) / len(texts),
            "unique answers a prompt": sum(unique) / len(unique),
            "meanings a prompt": sum(meanings) / len(meanings),
            "words an answer": sum(words) / len(words),
        }


def words_of(folder: Path) -> list[str]:
    """Return the plain words of a WordPiece vocabulary, so that a word is a token."""
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return [word for word in lines if word.isascii() and word.isalpha() and 3 <= len(word) <= 8]


def make(words: list[str], prompts: int = 100, k: int = 10, duplicates: float = 0.30, seed: int = 7) -> Workload:
    """Return a workload; `duplicates` is the chance of a repeat of an earlier answer, from the second answer on."""
    rng = random.Random(f"{seed} {k} {duplicates}")
    fillers, meanings = words[:FILLERS], words[FILLERS : FILLERS + MEANINGS]
    return Workload([_prompt(rng, meanings, fillers, k, duplicates) for _ in range(prompts)], meanings)


def _prompt(rng: random.Random, meanings: list[str], fillers: list[str], k: int, duplicates: float) -> list[str]:
    (count,) = rng.choices(list(MEANINGS_OF_A_PROMPT), list(MEANINGS_OF_A_PROMPT.values()))
    weights = [1 / (i + 1) for i in range(count)]
    texts: list[str] = []
    for _ in range(k):
        if texts and rng.random() < duplicates:
            texts.append(rng.choice(texts))
        else:
            (meaning,) = rng.choices(meanings[:count], weights)
            texts.append(_text(rng, meaning, fillers))
    return texts


def _text(rng: random.Random, meaning: str, fillers: list[str]) -> str:
    """Return two sentences of 20 to 60 words together."""
    words = rng.choices(fillers, k=rng.randint(20, 60))
    words[rng.randrange(len(words))] = meaning
    half = len(words) // 2
    return " ".join(" ".join(part).capitalize() + "." for part in (words[:half], words[half:]))
