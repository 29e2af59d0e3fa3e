"""ModelSpec -> weights on disk -> a loaded transformers model.

An installed package that carries the weights comes first, then a local folder, then the Hub at the pinned revision.
A GGUF file is converted once to safetensors and kept in the cache folder (`UDASA_CACHE`, else ~/.cache/udasa).
"""

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from udasa.adapters import Adapter, find_adapter
from udasa.backends import Identity, ModelSpec
from udasa.digests import file_sha256, files_sha256
from udasa.errors import UserError, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class Weights(NamedTuple):
    """Where a model's weights are: a local folder, or a Hub id with a revision."""

    path: str
    revision: str | None
    identity: Identity


def identity(spec: ModelSpec) -> Identity:
    """Return the model's name, where its weights and its adapter come from, and their sha256 or Hub revision."""
    weights, adapter = find_weights(spec).identity, find_adapter(spec)
    return weights if adapter is None else {**weights, "adapter": adapter.identity}


@cache
def find_weights(spec: ModelSpec) -> Weights:
    """Find the weights that `spec` means on this machine, converting a packaged GGUF once.

    Raises:
        UserError: a path that is not there, or a Hub id without a pinned revision.
    """
    packaged = _packaged_file(spec.package) if spec.package else None
    if packaged is not None:
        origin = f"package {spec.package}"
        if packaged.suffix == ".gguf":
            digest = file_sha256(packaged)
            return Weights(str(_convert(packaged, digest)), None, _identity(spec, f"{origin} (dequantised)", digest))
        return Weights(str(packaged), None, _identity(spec, origin, _folder_digest(packaged)))
    if Path(spec.model).is_dir():
        return Weights(spec.model, None, _identity(spec, "local folder", _folder_digest(Path(spec.model))))
    if spec.model.count("/") != 1 or spec.model.startswith((".", "/", "~")):
        raise UserError(
            f"The model '{spec.model}' is neither a folder on this machine nor a Hub id of the form org/name."
        )
    if spec.revision is None:
        raise UserError(
            f"The Hub model {spec.model} has no revision. Pin its commit sha in the recipe, "
            "so that the build can be repeated."
        )
    return Weights(
        spec.model, spec.revision, Identity(model=spec.model, revision=spec.revision, origin="Hub", sha256=None)
    )


def placement(spec: ModelSpec) -> str:
    """Return the device, the precision and the version of torch that `spec` runs on."""
    torch = require("torch", extra="hf")
    device, dtype = _place(spec)
    return f"{device} {dtype} torch {torch.__version__}"


def _place(spec: ModelSpec) -> tuple[str, str]:
    """Return the device and the precision; `auto` is float32 on a CPU and bfloat16 on a GPU."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return device, {"auto": "bfloat16" if device == "cuda" else "float32"}.get(spec.dtype, spec.dtype)


def _identity(spec: ModelSpec, origin: str, digest: str) -> Identity:
    return Identity(model=spec.model, revision=None, origin=origin, sha256=digest)


def _packaged_file(package: str) -> Path | None:
    """Find `module:path` without importing the module (importing may load other engines)."""
    module, _, inner = package.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / inner
    if not path.exists():
        raise UserError(f"The package '{module}' is installed but holds no '{inner}'. Install the version that does.")
    return path


def _folder_digest(folder: Path) -> str:
    """Return one sha256 over the weight files of a folder, in name order."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no .safetensors file; udasa loads safetensors only.")
    if len(files) == 1:
        return file_sha256(files[0])
    return files_sha256(files)


def cache_folder() -> Path:
    """Return the folder for converted weights."""
    return Path(os.environ.get("UDASA_CACHE") or Path.home() / ".cache" / "udasa")


def _convert(gguf: Path, digest: str) -> Path:
    """Dequantise a GGUF into a plain safetensors folder, once; a half-done conversion is never seen."""
    target = cache_folder() / f"{gguf.stem}-{digest[:16]}"
    if target.is_dir():
        return target
    require("gguf", extra="gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log.info("Converting %s to safetensors, once (about a minute); kept in %s", gguf.name, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype="float32",
            trust_remote_code=False,
        )
        model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(unfinished)
        try:
            unfinished.rename(target)
        except OSError:
            if not target.is_dir():  # another process may have finished first
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def load_causal_lm(spec: ModelSpec, quantization: Any = None) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a chat model for inference or training, with its tokenizer padded on the left.

    The model's own generation defaults (repetition penalty, top-k, ...) are dropped: they would change the
    distribution that is sampled and measured. Only its end and padding tokens are kept.

    Args:
        spec: the model.
        quantization: a `BitsAndBytesConfig`; default: the weights as they are.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    transformers = require("transformers", extra="hf")
    tokenizer = load_chat_tokenizer(spec)
    model = _load(spec, transformers.AutoModelForCausalLM, quantization)
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=sorted({t for t in (*stops, tokenizer.eos_token_id) if t is not None}),
        pad_token_id=tokenizer.pad_token_id,
    )
    return model, tokenizer


def load_chat_tokenizer(spec: ModelSpec) -> "PreTrainedTokenizerBase":
    """Load a chat model's tokenizer, padded on the left.

    Raises:
        UserError: it has no chat template.
    """
    tokenizer: PreTrainedTokenizerBase = _load_tokenizer(spec)
    if tokenizer.chat_template is None:
        raise UserError(
            f"{spec.model} has no chat template, so prompts cannot be put to it as a conversation. "
            "Use an instruction-tuned model, or save a chat template with its tokenizer."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    tokenizer.padding_side = "left"
    return tokenizer


def chat_tokens(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, str]], prompt: bool = False
) -> list[int]:
    """Return a conversation's tokens as TRL makes them: by the chat template, a `prompt` up to where a reply begins."""
    given: Any = messages
    encoded: Any = tokenizer.apply_chat_template(given, tokenize=True, return_dict=True, add_generation_prompt=prompt)
    return list(encoded["input_ids"])


def load_classifier(spec: ModelSpec) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a sequence classifier with its tokenizer."""
    model = _load(spec, require("transformers", extra="hf").AutoModelForSequenceClassification)
    return model, _load_tokenizer(spec)


def load_encoder(spec: ModelSpec) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a bare encoder with its tokenizer."""
    return _load(spec, require("transformers", extra="hf").AutoModel), _load_tokenizer(spec)


def parameters_digest(model: "PreTrainedModel") -> str:
    """Return one sha256 over a loaded model's parameters in name order, wherever its files came from."""
    digest = hashlib.sha256()
    for name, values in sorted(model.named_parameters()):
        digest.update(f"{name}:{tuple(values.shape)}\n".encode())
        digest.update(values.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep loading bars, and a deprecation that PEFT and TRL cause, off the console; put the bars back after."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 and TRL 1.16 read the old name from transformers 5.23.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _load_tokenizer(spec: ModelSpec) -> Any:
    from transformers import AutoTokenizer

    weights = find_weights(spec)
    return AutoTokenizer.from_pretrained(weights.path, revision=weights.revision, trust_remote_code=False)


def _load(spec: ModelSpec, auto_class: Any, quantization: Any = None) -> Any:
    weights = find_weights(spec)
    device, dtype = _place(spec)
    options: dict[str, Any] = {
        "revision": weights.revision,
        "trust_remote_code": False,
        "use_safetensors": True,
        "dtype": dtype,
    }
    if quantization is not None:  # such weights are made on their device, and do not move
        options |= {"quantization_config": quantization, "device_map": {"": device}}
        return auto_class.from_pretrained(weights.path, **options).eval()
    model = auto_class.from_pretrained(weights.path, **options)
    if (adapter := find_adapter(spec)) is not None:
        _put_on(model, adapter, spec)
    return model.to(device).eval()


def _put_on(model: Any, adapter: Adapter, spec: ModelSpec) -> None:
    """Put an adapter's layers into a model; they stay apart from its weights, as in training.

    Raises:
        UserError: the adapter was made for a model with other layers.
    """
    require("peft", extra="train")
    try:
        with quiet():
            loaded = model.load_adapter(str(adapter.folder))
    except ValueError as error:
        raise _unfit(spec, str(error)) from error
    except RuntimeError as error:  # transformers has logged which
        raise _unfit(spec, "its matrices have other sizes than the model's layers") from error
    if strange := sorted(loaded.missing_keys | loaded.unexpected_keys):
        raise _unfit(spec, f"{len(strange)} of its layers are missing or not the model's, such as {strange[0]}")


def _unfit(spec: ModelSpec, why: str) -> UserError:
    return UserError(f"The adapter {spec.adapter} does not fit {spec.model}: {why}. Name the model it was trained on.")
