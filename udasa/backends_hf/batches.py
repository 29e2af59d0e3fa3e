"""Lengths -> batches of row numbers, longest first, so that little is padded."""

from collections.abc import Callable, Iterator, Sequence

CACHE_FACTOR = 4
"""Cached tokens allowed in a batch, as a multiple of the tokens of one forward pass: a token takes less room there."""


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group row numbers, longest first, so that rows x longest stays within the budget (at least one row)."""
    return batches(lengths, lambda longest: batch_tokens // max(1, longest))


def batches(lengths: Sequence[int], capacity: Callable[[int], int]) -> Iterator[list[int]]:
    """Group row numbers, longest first; `capacity` says how many rows fit beside one of that length (at least one)."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, capacity(lengths[order[start]]))
        yield order[start : start + size]
        start += size
