"""A classifier -> ONNX Runtime with weights of 8 bits, on a CPU.

Dynamic quantisation takes one scale for all activations of a tensor, so in a batch a row's logits would hang on the
other rows. Each pair therefore runs alone, and its answer is the same in any company.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from udasa.backends_hf.entailers import Logits
from udasa.errors import require


def int8_logits(model: Any, tokenizer: Any) -> Logits:
    """Export a loaded classifier, quantise its matrix products, and return its forward pass for one row.

    The torch weights are let go.
    """
    onnxruntime = require("onnxruntime", extra="onnx")
    require("onnxscript", extra="onnx")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    names = [name for name in tokenizer.model_input_names if name in tokenizer("a", "b")]
    with tempfile.TemporaryDirectory(prefix="udasa-onnx-") as folder, _quiet():
        whole, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        _export(model.float().cpu(), tokenizer, names, whole)
        quantize_dynamic(
            whole, small, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"]
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    model.to("meta")

    def logits(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found = session.run(["logits"], {name: batch[name].numpy() for name in names})[0]
        return torch.from_numpy(found)

    return logits


class _Plain(torch.nn.Module):
    """The model with its inputs by position and its logits alone, as the exporter wants it."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (rows, labels)."""
        logits: torch.Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def _export(model: torch.nn.Module, tokenizer: Any, names: list[str], path: Path) -> None:
    example = tokenizer("A cat is here.", "No, it is not.", return_tensors="pt")
    torch.onnx.export(
        _Plain(model, names).eval(),
        tuple(example[name] for name in names),
        path,
        input_names=names,
        output_names=["logits"],
        dynamic_shapes={"inputs": tuple({1: torch.export.Dim.DYNAMIC} for _ in names)},
        dynamo=True,
        verbose=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter and the quantiser say about their own parts off the console."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
