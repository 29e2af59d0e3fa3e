"""The transformers engine: sampler, entailers and judge on a CPU or a GPU."""

from collections.abc import Sequence
from pathlib import Path

from udasa.backends import (
    OPTIONS,
    TRUTH,
    TRUTH_OPTIONS,
    Entailer,
    Identity,
    Judge,
    Kind,
    ModelSpec,
    Principle,
    Runtime,
    Sampler,
    Sampling,
)
from udasa.backends_hf.weights import (
    chat_tokens,
    identity,
    load_causal_lm,
    load_chat_tokenizer,
    load_classifier,
    load_encoder,
    placement,
    quiet,
)

__all__ = [
    "chat_tokens",
    "identity",
    "load_causal_lm",
    "load_chat_tokenizer",
    "make_entailer",
    "make_judge",
    "make_sampler",
    "make_trained_judge",
    "make_truth_judge",
    "placement",
    "quiet",
    "trained_identity",
]


def make_sampler(spec: ModelSpec, sampling: Sampling) -> Sampler:
    """Load a causal language model and return its sampler."""
    from udasa.backends_hf.sampler import HFSampler

    return HFSampler(*load_causal_lm(spec), sampling, spec.batch_tokens)


def make_entailer(spec: ModelSpec, kind: Kind, same_meaning: float, runtime: Runtime = "torch") -> Entailer:
    """Load a three-way NLI cross-encoder, a sentence embedder as a similarity kernel, or a language model to ask."""
    if kind == "prompted":
        from udasa.backends_hf.judge import HFPromptedEntailer

        return HFPromptedEntailer(*load_causal_lm(spec), spec.batch_tokens)
    from udasa.backends_hf.entailers import NLIEntailer, SimilarityEntailer

    if runtime == "onnx-int8":
        from udasa.backends_hf.onnx import int8_logits

        model, tokenizer = load_classifier(spec)
        return NLIEntailer(model, tokenizer, batch_tokens=1, logits=int8_logits(model, tokenizer))
    if kind == "nli":
        return NLIEntailer(*load_classifier(spec), spec.batch_tokens)
    return SimilarityEntailer(*load_encoder(spec), spec.batch_tokens, same_meaning)


def make_judge(spec: ModelSpec, principles: Sequence[Principle]) -> Judge:
    """Load a causal language model and return the judge that reads its token probabilities."""
    from udasa.backends_hf.judge import HFJudge

    return HFJudge(*load_causal_lm(spec), principles, spec.batch_tokens, OPTIONS)


def make_truth_judge(spec: ModelSpec, share: Judge | None) -> Judge:
    """Return the judge that answers true or false, on the weights of `share` if it is a language model."""
    from udasa.backends_hf.judge import HFJudge

    model, tokenizer = (share.model, share.tokenizer) if isinstance(share, HFJudge) else load_causal_lm(spec)
    return HFJudge(model, tokenizer, (TRUTH,), spec.batch_tokens, TRUTH_OPTIONS)


def make_trained_judge(spec: ModelSpec) -> Judge:
    """Load the judge that `udasa judge train` wrote into a folder."""
    from udasa.backends_hf.trained import load

    return load(Path(spec.model))


def trained_identity(spec: ModelSpec) -> Identity:
    """Return the identity of a trained judge, having read its head."""
    from udasa.backends_hf.trained import read

    read(Path(spec.model))
    return identity(spec)
