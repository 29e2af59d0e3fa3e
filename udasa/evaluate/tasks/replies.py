"""A reply -> is it empty, garbled or cut, and how long is it: what is asked of every generated text.

These have rates of their own, so that no other rate has to count a broken text as a good or a bad answer.
"""

from collections.abc import Mapping
from typing import Any

from udasa.evaluate.degenerate import condition
from udasa.evaluate.language_model import Reply

STATES = ("empty", "garbled", "cut")
"""Rates of every generation task. `cut` (the reply reached the most tokens allowed) is unknown to lm-eval's command."""


def facts(reply: str) -> dict[str, float]:
    """Return the states of a reply as 1 or 0, and its length in characters; what nobody knows is left out."""
    state = condition(reply)
    found = {"empty": float(state == "empty"), "garbled": float(state == "garbled"), "num_chars": float(len(reply))}
    if isinstance(reply, Reply):
        found["cut"] = float(reply.finish_reason == "length")
    return found


def is_text(found: Mapping[str, Any]) -> bool:
    """Say whether a reply with these facts is neither empty nor garbled."""
    return not found["empty"] and not found["garbled"]


def states(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the states alone: metrics of a document."""
    return {name: found[name] for name in STATES if name in found}
