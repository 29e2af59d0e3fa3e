"""card -> nothing, or an error that lists what the Hub would not take or a reader should not see."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from udasa import schema
from udasa.cards.layout import CONFIGS, SIZES, glob, no_pairs, size_category
from udasa.errors import UserError

Kind = Literal["dataset", "model"]

_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
other
"""
LICENSES = frozenset(_LICENSES.split())
"""The licence identifiers that the Hub accepts in a card."""

_REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    "dataset": ("license", "pretty_name", "size_categories", "task_categories", "tags", "configs"),
    "model": ("license", "library_name", "base_model", "pipeline_tag", "tags"),
}
LOCAL_BASE = "local-base-model"
"""The tag of an adapter whose base model is a local folder, and so has no `base_model`."""


def validate(text: str, kind: Kind) -> None:
    """Check a card: its front matter, its configurations, its licence, and that nothing was left unrendered.

    Raises:
        UserError: something is missing or wrong; the message lists all of it.
    """
    from huggingface_hub import DatasetCard, ModelCard

    if not text.startswith("---"):
        raise UserError(f"The {kind} card is not valid: it does not begin with front matter (a line of ---).")
    try:
        card = (DatasetCard if kind == "dataset" else ModelCard)(text)
        data: dict[str, Any] = card.data.to_dict()
    except Exception as error:  # YAML's errors have no common base with the ones of huggingface_hub
        raise UserError(f"The {kind} card's front matter cannot be read: {error}") from error
    problems = [*_missing(data, kind), *_license(data), *_leftovers(card.text), *_not_numbers(text)]
    if kind == "dataset":
        problems += [*_configs(data.get("configs"), card.text), *_size(data)]
    if problems:
        raise UserError(f"The {kind} card is not valid: {'; '.join(problems)}.")


def _missing(data: Mapping[str, Any], kind: Kind) -> Iterator[str]:
    local = LOCAL_BASE in (data.get("tags") or ())
    for key in _REQUIRED[kind]:
        if not data.get(key) and not (key == "base_model" and local):
            yield f"the front matter has no '{key}'"


def _license(data: Mapping[str, Any]) -> Iterator[str]:
    name = data.get("license")
    if name and name not in LICENSES:
        yield f"'{name}' is not a licence identifier of the Hub; use one of its list, or 'other' with license_name"
    if name == "other" and not data.get("license_name"):
        yield "the licence 'other' needs a license_name"


def _leftovers(body: str) -> Iterator[str]:
    for mark in ("{{", "{%", "{#"):
        if mark in body:
            yield f"an unrendered template mark '{mark}' is left"


def _not_numbers(text: str) -> Iterator[str]:
    for word in sorted(set(re.findall(r"(?<![\w-])(?:NaN|nan|inf|Infinity)(?![\w-])", text))):
        yield f"it shows the number '{word}'"
    if re.search(r"\|\s*None\s*\|", text):
        yield "a table shows 'None' for a missing value"


def _configs(configs: Any, body: str) -> Iterator[str]:
    if not isinstance(configs, list) or not all(isinstance(c, dict) and "config_name" in c for c in configs):
        yield "'configs' must be a list of {config_name, data_files}"
        return
    named = {c["config_name"]: c for c in configs}
    absent = [n for n in CONFIGS if n not in named and no_pairs(n) not in body]
    if absent or named.keys() - set(CONFIGS):
        yield f"'configs' must name {', '.join(CONFIGS)}; found {', '.join(map(str, named)) or 'none'}"
    if [n for n, c in named.items() if c.get("default")] != ["all"]:
        yield "exactly the configuration 'all' must have default: true"
    for name, config in named.items():
        files = config.get("data_files")
        found = {f.get("split"): f.get("path") for f in files or () if isinstance(f, dict)}
        if not found or found != {split: glob(name, split) for split in schema.SPLITS if split in found}:
            expected = {split: glob(name, split) for split in schema.SPLITS}
            yield f"data_files of '{name}' must be among {expected}, got {files}"


def _size(data: Mapping[str, Any]) -> Iterator[str]:
    found = data.get("size_categories") or []
    counts = [
        sum(split["num_examples"] for split in info.get("splits", ()))
        for info in _list(data.get("dataset_info"))
        if info.get("config_name") == "all"
    ]
    expected = [size_category(counts[0])] if counts else None
    if (expected is None and not set(found) <= set(SIZES)) or (expected and found != expected):
        yield f"size_categories must be {expected or f'among {SIZES}'}, got {found}"


def _list(value: Any) -> Iterable[Mapping[str, Any]]:
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []
