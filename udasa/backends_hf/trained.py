"""A judge trained on people's harm scores: a frozen encoder's states and a kernel head of several members.

Exchanges -> P(acceptable) of each member, as a `Judge` whose members stand in the place of principles. A member is the
same head fitted under other weights of the training groups (Bayesian bootstrap), so that the split of the predictive
entropy says: within = what every member finds uncertain (aleatoric), disagreement = what the training data leave open
(epistemic).
It names no options, so both option orders are equal and there is no position bias.

folder/head.safetensors  everything that judging needs; its sha256 is the judge's identity
folder/judge.json        how it was trained and how good it is, to read
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from udasa.backends import MEMBERS, Exchange, Floats, ModelSpec, Report, ignore
from udasa.backends_hf.batches import batches_by_length
from udasa.backends_hf.weights import load_encoder, parameters_digest
from udasa.errors import UserError

HEAD = "head.safetensors"

Text = Literal["response", "joint"]
"""What the encoder reads: the response alone, or the prompt and the response as a pair."""
TEXTS: tuple[Text, ...] = get_args(Text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One vector a response: the mean state of one layer over the tokens of one text, at unit length."""

    text: Text
    layer: int
    """0: the word embeddings; the number of layers: the last states."""


class Features:
    """The encoder, and the blocks read from it."""

    def __init__(self, spec: ModelSpec) -> None:
        """Load the encoder in float32, so that its states do not depend on the machine's default."""
        self.spec = spec
        model, tokenizer = load_encoder(spec)
        self.model: Any = model.float()
        self.tokenizer: Any = tokenizer
        self.digest = parameters_digest(model)

    @property
    def num_layers(self) -> int:
        """Layers above the word embeddings."""
        return int(self.model.config.num_hidden_layers)

    def __call__(self, exchanges: Sequence[Exchange], blocks: Sequence[Block], report: Report = ignore) -> Floats:
        """Return the blocks of each exchange, shape (n, blocks, width); float32 values. A long text is cut at the end.

        The prompt is the last user's turn.
        """
        out = np.empty((len(exchanges), len(blocks), self.model.config.hidden_size))
        places = {text: [i for i, block in enumerate(blocks) if block.text == text] for text in TEXTS}
        encoded = {text: [self._encode(e, text) for e in exchanges] for text, columns in places.items() if columns}
        lengths = [max(len(e["input_ids"]) for e in row) for row in zip(*encoded.values(), strict=True)]
        for rows in batches_by_length(lengths, self.spec.batch_tokens):
            for text, rendered in encoded.items():
                layers = [blocks[i].layer for i in places[text]]
                out[np.ix_(rows, places[text])] = self._states([rendered[i] for i in rows], layers)
            report(len(rows))
        unit: Floats = (out / np.linalg.norm(out, axis=2, keepdims=True)).astype(np.float32).astype(np.float64)
        return unit

    def _encode(self, exchange: Exchange, text: Text) -> Any:
        limit = int(min(self.model.config.max_position_embeddings, self.tokenizer.model_max_length))
        encode = partial(self.tokenizer, truncation=True, max_length=limit)
        if text == "response":
            return encode(exchange.response)
        return encode(next(m["content"] for m in reversed(exchange.messages) if m["role"] == "user"), exchange.response)

    def _states(self, encoded: list[Any], layers: Sequence[int]) -> Floats:
        """Return the mean states over the tokens, shape (rows, layers, width)."""
        import torch

        batch = self.tokenizer.pad(encoded, return_tensors="pt", padding_side="right").to(self.model.device)
        mask = batch["attention_mask"][..., None].double()
        with torch.inference_mode():
            states = self.model(**batch, output_hidden_states=True).hidden_states
            means = [(states[layer].double() * mask).sum(1) / mask.sum(1) for layer in layers]
        stacked: Floats = torch.stack(means, dim=1).cpu().numpy()
        return stacked


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Kernel ridge regressions on the same responses, one a member, and one logistic map to an expected score.

    k(x, z) = exp(-gamma * mean over blocks b of |x_b - z_b|^2 / scale_b); a member's score is offset + sum_i dual_i
    k(x, z_i); the expected harm score, which stands as P(harmful), is sigmoid(slope * score + intercept). Raters whose
    scores lie in [0, 1] with mean p differ by at most p (1 - p) in variance, so its entropy bounds their disagreement.
    """

    blocks: tuple[Block, ...]
    support: Floats
    """The training responses' blocks, shape (n, blocks, width); float32 values."""
    scale: Floats
    """Half the mean squared distance within each block, shape (blocks,)."""
    gamma: float
    dual: Floats
    """Shape (members, n)."""
    offset: Floats
    """Shape (members,)."""
    slope: float
    intercept: float

    def harm(self, features: Floats) -> Floats:
        """Return the harm each member expects, 0 .. 1, shape (n, members). `features`: shape (n, blocks, width)."""
        distance = sum(
            squared_distances(features[:, b], self.support[:, b]) / self.scale[b] for b in range(len(self.blocks))
        ) / len(self.blocks)
        return sigmoid(self.slope * (self.offset + np.exp(-self.gamma * distance) @ self.dual.T) + self.intercept)


def squared_distances(left: Floats, right: Floats) -> Floats:
    """Return the squared Euclidean distances, shape (left, right)."""
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None]
    distances: Floats = np.maximum(0.0, squares - 2.0 * left @ right.T)
    return distances


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + e^-x) without overflow."""
    value: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return value


class TrainedJudge:
    """The encoder with its head; see `Judge`."""

    def __init__(self, features: Features, head: Head) -> None:
        self.features = features
        self.head = head

    def judge(self, exchanges: Sequence[Exchange], report: Report = ignore) -> Floats:
        """Return P(acceptable) of each member, shape (n, members, 2); both orders are equal.

        Raises:
            UserError: a response is empty; there is nothing to judge.
        """
        if any(not exchange.response for exchange in exchanges):
            raise UserError("A response is empty; a trained judge judges texts only. Leave empty responses out.")
        acceptable = 1.0 - self.head.harm(self.features(exchanges, self.head.blocks, report))
        return np.repeat(acceptable[..., None], 2, axis=2)


def dump(head: Head, spec: ModelSpec, digest: str) -> bytes:
    """Return the head as safetensors, with its encoder in the header: the same head gives the same bytes."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {
        "support": head.support.astype(np.float32),
        "scale": head.scale,
        "dual": head.dual,
        "offset": head.offset,
        "kernel": np.array([head.gamma, head.slope, head.intercept]),
        "layers": np.array([block.layer for block in head.blocks], dtype=np.int64),
        "joint": np.array([block.text == "joint" for block in head.blocks]),
    }
    encoder = {"spec": TypeAdapter(ModelSpec).dump_python(spec), "parameters_sha256": digest}
    payload: bytes = save(tensors, metadata={"encoder": json.dumps(encoder, sort_keys=True)})
    return payload


class Stored(NamedTuple):
    """What head.safetensors says: the head, and the encoder that it was trained on."""

    head: Head
    encoder: ModelSpec
    parameters_sha256: str


def read(folder: Path) -> Stored:
    """Read a trained judge without loading its encoder.

    Raises:
        UserError: the folder holds none.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / HEAD
    refusal = f"{folder} is not a trained judge (`udasa judge train` writes {HEAD}): "
    if not path.is_file():
        raise UserError(refusal + f"there is no {HEAD}.")
    try:
        with safe_open(path, framework="np") as file:
            encoder = json.loads((file.metadata() or {})["encoder"])
            head = _head({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - it is no dict
        spec = TypeAdapter(ModelSpec).validate_json(json.dumps(encoder["spec"]))
        stored = Stored(head, spec, encoder["parameters_sha256"])
    except (SafetensorError, KeyError, ValidationError) as error:
        raise UserError(refusal + f"{HEAD} holds something else ({error}).") from error
    if head.dual.shape != (len(MEMBERS), len(head.support)):
        raise UserError(refusal + f"the head has {len(head.dual)} members, expected {len(MEMBERS)}.")
    return stored


def load(folder: Path) -> TrainedJudge:
    """Load a trained judge with its encoder.

    Raises:
        UserError: the folder holds none, or the encoder here has other weights than the head was trained on.
    """
    head, spec, digest = read(folder)
    features = Features(spec)
    if features.digest != digest:
        raise UserError(
            f"The judge in {folder} was trained on an encoder {spec.model} with other weights (parameters sha256 "
            f"{digest}, here {features.digest}). Install that encoder, or train the judge again."
        )
    return TrainedJudge(features, head)


def _head(tensors: dict[str, Any]) -> Head:
    gamma, slope, intercept = (float(x) for x in tensors["kernel"])
    texts: list[Text] = ["joint" if joint else "response" for joint in tensors["joint"]]
    layers = [int(layer) for layer in tensors["layers"]]
    return Head(
        blocks=tuple(Block(text=text, layer=layer) for text, layer in zip(texts, layers, strict=True)),
        support=tensors["support"].astype(np.float64),
        scale=tensors["scale"],
        gamma=gamma,
        dual=tensors["dual"],
        offset=tensors["offset"],
        slope=slope,
        intercept=intercept,
    )
