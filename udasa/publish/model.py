"""A trained adapter, and how it compares with its base -> its card, its results, and one commit on the Hub.

adapter/README.md  comparison.json  .eval_results/
"""

import json
import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi
from pydantic import TypeAdapter

from udasa import cards, run
from udasa.adapters import adapter_digest
from udasa.errors import UserError
from udasa.evaluate import Comparison, compare, to_json
from udasa.publish.hub import Access, push

COMPARISON = "comparison.json"
"""What the card's results are made from; without the documents' texts."""
_COMPARISON = TypeAdapter(Comparison)
_log = logging.getLogger(__name__)


def attach(folder: Path, before: Path, after: Path) -> Comparison:
    """Compare an adapter's evaluation with its base's, and keep that beside the adapter for its card.

    Raises:
        UserError: the evaluations are not comparable, or `after` is of another adapter.
    """
    found = compare(before, after)
    (evaluated,) = found.runs[1].adapters
    if evaluated not in (None, here := adapter_digest(folder)):
        raise UserError(
            f"{after} is an evaluation of {_named(evaluated)}, and {folder} holds {_named(here)}. Evaluate this "
            "adapter, or name its own evaluation."
        )
    run.write_file(folder / COMPARISON, to_json(replace(found, items=())).encode())
    return found


def write_card(folder: Path, repo: str) -> None:
    """Write the card of a finished training and its `.eval_results`, with the comparison that was attached, if any.

    A comparison of another adapter (it was trained anew since) is left out, and said to be.

    Raises:
        UserError: the folder holds no finished training, or the repository's name does not fit.
    """
    path = folder / "training.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a finished training: it lacks training.json. Run udasa train first.")
    found = _attached(folder)
    results = found.differences if found else None
    card = cards.render_model_card(json.loads(path.read_text(encoding="utf-8")), repo, results)
    for old in folder.glob(".eval_results/*.yaml"):
        old.unlink()
    for name, content in cards.eval_results(results or ()).items():
        run.write_file(folder / name, content.encode())
    run.write_file(folder / "README.md", card.encode())


def publish_model(folder: Path, repo: str, *, private: bool = True, token: str | None = None) -> str:
    """Push what was trained with its card, log, figures and results as one commit; returns the commit sha.

    Raises:
        UserError: the folder holds no finished training, or the Hub refused.
    """
    names = ["README.md", "training.json", "adapter_config.json", "adapter_model.safetensors"]
    patterns = ["steps.jsonl", "figures/*.svg", "figures/*.png", ".eval_results/*.yaml", "merged/*"]
    if (folder / "config.json").is_file():  # all weights were trained: a model, and no adapter
        names = ["README.md", "training.json", "config.json"]
        patterns += ["*.safetensors", "*.safetensors.index.json", "generation_config.json", "tokenizer*", "*.jinja"]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder} is not a finished training: it lacks {', '.join(missing)}. Run udasa train first.")
    found = [folder / name for name in names]
    for pattern in patterns:
        found += sorted(folder.glob(pattern))
    with tempfile.TemporaryDirectory() as temporary:
        for path in found:
            copy = Path(temporary) / path.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        message = "Update the adapter and its card"
        return push(HfApi(token=token), Path(temporary), repo, "model", message, None, Access(private))


def _attached(folder: Path) -> Comparison | None:
    path = folder / COMPARISON
    if not path.is_file():
        return None
    found = _COMPARISON.validate_json(path.read_bytes())
    (evaluated,) = found.runs[1].adapters
    if evaluated in (None, adapter_digest(folder)):
        return found
    _log.warning("%s is of an adapter that is no longer here; the card is without results. Evaluate again.", path)
    return None


def _named(digest: str | None) -> str:
    return "the model without an adapter" if digest == "none" else f"the adapter with the sha256 {str(digest)[:12]}"
