"""What was trained, and how it compares with its base -> its card, its results, and one commit on the Hub.

adapter/README.md  comparison.json  .eval_results/
"""

import json
import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from pydantic import TypeAdapter

from udasa import cards, run
from udasa.adapters import adapter_digest
from udasa.arms import ARMS
from udasa.digests import files_sha256
from udasa.errors import UserError
from udasa.evaluate import Comparison, compare, to_json
from udasa.publish.hub import Access, push

COMPARISON = "comparison.json"
"""What the card's results are made from; without the documents' texts."""
TRANSITIONS = "transitions.json"
"""What each stage changed, as `udasa.transitions` wrote it."""
_SOMETIMES = ("merged/*", "transitions.*", ".eval_results/*.yaml")
"""What is pushed only if there is any; an earlier push may have left some in the repository."""
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

    A comparison or transitions of other weights (they were trained anew since) are left out, and said to be.

    Raises:
        UserError: the folder holds no finished training, or the repository's name does not fit.
    """
    path = folder / "training.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a finished training: it lacks training.json. Run udasa train first.")
    found = _attached(folder)
    results = found.differences if found else None
    facts = json.loads(path.read_bytes())
    arm = ARMS.get(facts.get("arm", "staged"))
    card = cards.render_model_card(
        facts,
        repo,
        results,
        meaning=arm.meaning if arm else None,
        source=arm.source if arm else None,
        transitions=_transitions(folder),
    )
    for old in folder.glob(".eval_results/*.yaml"):
        old.unlink()
    for name, content in cards.eval_results(results or ()).items():
        run.write_file(folder / name, content.encode())
    run.write_file(folder / "README.md", card.encode())


def publish_model(folder: Path, repo: str, *, private: bool = True, token: str | None = None) -> str:
    """Push what was trained with its card, log, figures, transitions and results as one commit; returns the commit sha.

    Raises:
        UserError: the folder holds no finished training, or the Hub refused.
    """
    names = ["README.md", "training.json", "adapter_config.json", "adapter_model.safetensors"]
    patterns = ["steps.jsonl", "figures/*.svg", "figures/*.png", ".eval_results/*.yaml"]
    if (folder / "config.json").is_file():  # all weights were trained: a model, and no adapter
        names = ["README.md", "training.json", "config.json"]
        patterns += ["*.safetensors", "*.safetensors.index.json", "generation_config.json", "tokenizer*", "*.jinja"]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder} is not a finished training: it lacks {', '.join(missing)}. Run udasa train first.")
    if json.loads((folder / "training.json").read_bytes()).get("merged"):
        patterns.append("merged/*")
    if _transitions(folder) is not None:
        patterns += [TRANSITIONS, "transitions.md"]
    found = [folder / name for name in names]
    for pattern in patterns:
        found += sorted(folder.glob(pattern))
    with tempfile.TemporaryDirectory() as temporary:
        for path in found:
            copy = Path(temporary) / path.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        message = "Update the model and its card"
        return push(HfApi(token=token), Path(temporary), repo, "model", message, None, Access(private), _SOMETIMES)


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


def _transitions(folder: Path) -> list[dict[str, Any]] | None:
    """Return what each stage changed; None if it was not measured, or of other weights than those that are here."""
    path = folder / TRANSITIONS
    if not path.is_file():
        return None
    probed = {json.loads(values.read_bytes())["of"]["weights"] for values in folder.glob("transitions/*.json")}
    if probed and files_sha256(sorted(folder.glob("*.safetensors"))) not in probed:
        _log.warning(
            "%s is of weights that are no longer here; the card is without it. Train with a probe again.", path
        )
        return None
    rows: list[dict[str, Any]] = json.loads(path.read_bytes())
    return rows


def _named(digest: str | None) -> str:
    return "the model without an adapter" if digest == "none" else f"the adapter with the sha256 {str(digest)[:12]}"
