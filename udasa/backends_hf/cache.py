"""What the sampler and the judge share of a key-value cache."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch


def cache_argument(model: Any) -> str:
    """Return what a model's `forward` calls its cache: transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def positions(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return position ids that skip padding on the left, shape like `attention_mask`."""
    return (batch["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
