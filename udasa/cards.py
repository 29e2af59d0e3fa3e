"""manifest -> dataset card; training facts -> model card; and a check that a card says what the Hub needs.

    text = render_dataset_card(manifest, "org/udasa-pairs", [("figures/gap.svg", "The gap by stage.")])
    validate(text, "dataset")

Every value that a template prints is escaped for Markdown unless a filter of this module has made it safe.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import PurePath
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from udasa import resources, schema
from udasa.errors import UserError
from udasa.figures import Difference, reading, visible

Kind = Literal["dataset", "model"]

CONFIGS = (*schema.STAGES, "all", "responses")
"""The configurations of a published data set; `all` is the default one."""

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")
"""The Hub's size categories, in powers of ten from a thousand."""

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

MEANINGS = {
    "prompt_id": ("hash of the normalised prompt", ""),
    "prompt": ("the conversation before the answer, as role and content", ""),
    "chosen": ("the answer with the lowest u under the risk ceiling", ""),
    "rejected": ("a less certain answer to the same prompt", ""),
    "chosen_id": ("id of the chosen answer in the configuration responses", ""),
    "rejected_id": ("id of the rejected answer in the configuration responses", ""),
    "u_chosen": ("the three uncertainties of the chosen answer as one number", "rank share, 0 to 1"),
    "u_rejected": ("the three uncertainties of the rejected answer as one number", "rank share, 0 to 1"),
    "gap": ("u of the rejected answer minus u of the chosen one", "rank share, 0 to 1"),
    "gap_low": ("lower end of the gap's 95 % interval over the other answers; null if not asked for", "rank share"),
    "gap_high": ("upper end of that interval", "rank share"),
    "semantic_uncertainty": ("how far the answer's meaning is from the other answers'; 1 − semantic density", "0 to 1"),
    "factual_uncertainty": ("how little the other answers support its sentences; null without a claim", "0 to 1"),
    "value_uncertainty": ("entropy of the judge's mean verdict over the constitution", "nats"),
    "value_disagreement": ("the part of value uncertainty that comes from principles disagreeing", "nats"),
    "value_risk": ("1 − mean probability that the answer is acceptable", "probability, 0 to 1"),
    "value_position_bias": (
        "P(acceptable) with that option named first, minus the same with it named second",
        "−1 to 1",
    ),
    "stage": ("conservative, moderate or exploratory, by the gap", ""),
    "split": ("train or test, by the prompt's hash", ""),
    "task": ("what the prompt is for", ""),
    "domain": ("general, health, law or technical", ""),
    "source": ("name of the prompt's source", ""),
    "license": ("licence of the prompt, where it is known", ""),
    "semantic_entropy": ("entropy over the meanings of all answers to a prompt", "nats"),
    "num_semantic_sets": ("number of meanings among the answers to a prompt", "count"),
    "discrete_semantic_entropy": ("the same entropy with every answer weighing the same", "nats"),
    "degree_matrix": ("mean distance between the answers to a prompt, by entailment", "0 to 1"),
    "eigenvalue_laplacian": ("number of meanings, not rounded: from the graph of entailment", "1 to K"),
    "kernel_language_entropy": ("von Neumann entropy of the answers' heat kernel", "nats"),
    "sar": ("surprisal of the answers, less where others resemble them", "nats"),
    "eigenscore": ("spread of the answers' sentence embeddings; null without an embedder", "log-determinant / K"),
    "cluster": ("the meaning of the answer: answers with one number share it", ""),
    "eccentricity": ("distance of the answer from the centre of the graph of entailment", "0 to 1"),
    "degree": ("mean distance of the answer from all answers, by entailment", "0 to 1"),
    "cluster_surprisal": ("−ln of the share of the answer's meaning", "nats"),
    "selfcheck_nli": ("mean probability that another answer contradicts its sentences; null without a claim", "0 to 1"),
    "cocoa": ("mean negative log-probability times the distance from the other answers", "nats"),
    "p_true": ("1 − the policy's own probability that the answer is true; null unless asked", "probability, 0 to 1"),
    "negative_logprob_mean": ("negative log-probability of the answer's tokens, mean", "nats a token"),
    "negative_logprob_sum": ("negative log-probability of the answer", "nats"),
    "lexical_dissimilarity": ("1 − mean ROUGE-L with the other answers", "0 to 1"),
    "factual_reason": ("why the answer has no factual uncertainty", ""),
    "claims": ("the claiming sentences, each with how little the other answers support it", "0 to 1"),
    "acceptable": ("the judge's probability that the answer is acceptable, by principle", "probability, 0 to 1"),
    "agreement": ("how far every answer to the prompt, in order, means what this one means", "0 to 1"),
    "support": ("how far every answer, in order, supports this one's sentences; null for itself", "0 to 1"),
}
"""Meaning and unit of a column; `chosen_x` and `rejected_x` mean x of that side."""

_NO_PAIRS = "The stage `{}` has no pairs in this release"
_REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    "dataset": ("license", "pretty_name", "size_categories", "task_categories", "tags", "configs"),
    "model": ("license", "library_name", "base_model", "pipeline_tag", "tags"),
}
_LOCAL_BASE = "local-base-model"


def render_dataset_card(manifest: Mapping[str, Any], repo: str | None, figures: Sequence[tuple[str, str]] = ()) -> str:
    """Return the README.md of a published data set; every number on it is the manifest's.

    Args:
        manifest: what `udasa.publish` wrote.
        repo: Hub id that the examples load; None for a folder that is on no Hub.
        figures: (path in the repository, caption) of each image.

    Raises:
        UserError: the repository's id or a figure's path does not fit, or a number is NaN or infinite.
    """
    if repo is not None:
        _check_repo(repo)
    for path, _ in figures:
        if not re.fullmatch(r"[\w-][\w./-]*", path) or ".." in path:
            raise UserError(f"The figure path '{path}' must be a plain relative path inside the repository.")
    return _render(
        "dataset_card.md.j2",
        front_matter=_yaml(_dataset_front_matter(manifest)),
        m=manifest,
        repo=repo,
        figures=figures,
        columns=list(_columns()),
        stages=schema.STAGES,
        splits=schema.SPLITS,
        outcomes=schema.OUTCOMES,
        meanings=MEANINGS,
        empty=[_NO_PAIRS.format(stage) for stage in schema.STAGES if not rows(manifest, stage)],
        similarity=manifest["models"]["entailer"].get("kind") == "similarity",
    )


def render_model_card(facts: Mapping[str, Any], repo: str, results: Sequence[Difference] | None = None) -> str:
    """Return the README.md of a trained adapter.

    Args:
        facts: what `udasa.train` wrote; `license` may be added to it, else the card says `unknown`.
        repo: Hub id that the example loads.
        results: paired differences against the base model; None if none were measured.

    Raises:
        UserError: the repository's id does not fit, or a number is NaN or infinite.
    """
    _check_repo(repo)
    return _render(
        "model_card.md.j2",
        front_matter=_yaml(_model_front_matter(facts, repo, results or ())),
        f=facts,
        repo=repo,
        results=[(result, reading(result)) for result in results or ()],
        local_base=not _hub_id(facts["base_model"]),
    )


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


def escape(value: str) -> Markup:
    """Return one line of Markdown that shows `value` and does nothing else, in a table cell too."""
    line = " ".join(visible(value).split())
    line = re.sub(r"[\\`*_{}\[\]|~<>&$#!@\"]", lambda m: f"&#{ord(m[0])};", line)
    return Markup(re.sub(r"(?i)(?<=www)\.|:(?=//)", lambda m: f"&#{ord(m[0])};", line))


def code(value: object) -> Markup:
    """Return `value` as a code span."""
    text = str(value)
    if re.fullmatch(r"[\w./:=,+\-@()~^]+(?: [\w./:=,+\-@()~^]+)*", text, re.ASCII):
        return Markup(f"`{text}`")
    return Markup(f"<code>{escape(text)}</code>")


def literal(value: str) -> Markup:
    """Return `value` as a Python string literal that cannot close a fenced block."""
    return Markup(json.dumps(value).replace("`", "\\u0060"))


def number(value: float | None, digits: int = 4) -> Markup:
    """Return a count with its thousands apart, a float with `digits` decimals, and a dash for no value.

    Raises:
        UserError: the value is NaN or infinite.
    """
    if value is None:
        return Markup("–")
    if isinstance(value, int):
        return Markup(f"{value:,}")
    if not math.isfinite(value):
        raise UserError(f"A card must not show {value}; a missing number must be null.")
    return Markup(f"{value:.{digits}f}")


def public_name(model: str) -> str:
    """Return a Hub id as it is, and only the last part of a local path."""
    return model if _hub_id(model) else f"{PurePath(model).name} (local folder)"


def size_category(num_rows: int) -> str:
    """Return the Hub's size category of a data set."""
    return next((name for power, name in enumerate(SIZES) if num_rows < 1000 * 10**power), SIZES[-1])


def _render(template: str, **values: Any) -> str:
    env = Environment(
        loader=FileSystemLoader(resources.shelf("cards")),
        undefined=StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters |= {"code": code, "literal": literal, "number": number, "public_name": public_name}
    env.filters |= {"exact": lambda value: code(repr(value)), "trusted": Markup}
    return re.sub(r"\n{3,}", "\n\n", env.get_template(template).render(**values))


def _printed(value: Any) -> Any:
    """Escape what a template prints, unless it is safe already."""
    if isinstance(value, str):
        return value if isinstance(value, Markup) else escape(value)
    return number(value) if value is None or isinstance(value, int | float) else value


def _yaml(data: Mapping[str, Any]) -> Markup:
    from huggingface_hub.repocard_data import CardData

    return Markup(CardData(**data).to_yaml().strip())


def _dataset_front_matter(manifest: Mapping[str, Any]) -> dict[str, Any]:
    from datasets import Features

    configs: list[dict[str, Any]] = []
    infos: list[dict[str, Any]] = []
    for name in CONFIGS:
        counts = rows(manifest, name)
        if not counts:
            continue
        table = schema.SCORED if name == "responses" else schema.PAIRS
        files = [{"split": split, "path": _glob(name, split)} for split in counts]
        configs.append({"config_name": name, "data_files": files} | ({"default": True} if name == "all" else {}))
        infos.append(
            {
                "config_name": name,
                "features": Features.from_arrow_schema(table)._to_yaml_list(),
                "splits": [
                    {"name": split, "num_bytes": _num_bytes(manifest, name, split), "num_examples": count}
                    for split, count in counts.items()
                ],
            }
        )
    return {
        "license": manifest["license"],
        "pretty_name": manifest["name"],
        "size_categories": [size_category(manifest["counts"]["pairs"])],
        "task_categories": ["text-generation"],
        "annotations_creators": ["machine-generated"],
        "tags": ["udasa", "preference", "dpo", "rlaif", "uncertainty", "synthetic"],
        "configs": configs,
        "dataset_info": infos,
    }


def rows(manifest: Mapping[str, Any], config: str) -> dict[str, int]:
    """Return the rows of each split of a configuration that has any: `datasets` cannot load a split without rows."""
    if config == "responses":
        files = manifest["files"].items()
        counts = {s: sum(f["rows"] for path, f in files if path.startswith(f"responses/{s}-")) for s in schema.SPLITS}
    else:
        stages = manifest["counts"]["stages"]
        parts = [stages.get(stage, {}) for stage in (schema.STAGES if config == "all" else (config,))]
        counts = {split: sum(part.get(split, 0) for part in parts) for split in schema.SPLITS}
    return {split: count for split, count in counts.items() if count}


def _num_bytes(manifest: Mapping[str, Any], config: str, split: str) -> int:
    """Return the size of a split's parquet files."""
    files = manifest["files"].items()
    return sum(facts["bytes"] for path, facts in files if fnmatch(path, _glob(config, split)))


def _glob(config: str, split: str) -> str:
    if config == "responses":
        return f"responses/{split}-*.parquet"
    return f"data/{'*' if config == 'all' else config}/{split}-*.parquet"


def _columns() -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, meaning and unit of each column of a pairs table."""
    for field in schema.PAIRS:
        side, _, rest = field.name.partition("_")
        meaning, unit = MEANINGS[field.name] if field.name in MEANINGS else MEANINGS[rest]
        if field.name not in MEANINGS:
            meaning = f"{side} answer: {meaning}"
        kind = "list of messages" if field.type == schema.MESSAGES else str(field.type).replace("double", "float64")
        yield field.name, kind, meaning, unit


def _model_front_matter(facts: Mapping[str, Any], repo: str, results: Sequence[Difference]) -> dict[str, Any]:
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    base, data = facts["base_model"], facts["data"]
    front: dict[str, Any] = {"license": facts.get("license", "unknown"), "library_name": "peft"}
    if _hub_id(base):
        front |= {"base_model": base, "base_model_relation": "adapter"}
    if _hub_id(data):
        front["datasets"] = [data]
    tags = ["udasa", "dpo", "lora", "trl", "uncertainty"] + ([] if _hub_id(base) else [_LOCAL_BASE])
    front |= {"pipeline_tag": "text-generation", "tags": tags}
    measured = [
        EvalResult(
            task_type="text-generation", dataset_type=r.task, dataset_name=r.task, metric_type=r.metric,
            metric_value=r.after,
        )
        for r in results
    ]  # fmt: skip
    if measured:
        front["model-index"] = eval_results_to_model_index(repo.rpartition("/")[2], measured)
    return front


def _hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"(?:\w[\w.-]*/)?\w[\w.-]*", name, re.ASCII)) and not name.startswith(("/", "."))


def _check_repo(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"'{repo}' is not a Hub repository id of the form org/name: {error}") from error


def _missing(data: Mapping[str, Any], kind: Kind) -> Iterator[str]:
    local = _LOCAL_BASE in (data.get("tags") or ())
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
    absent = [n for n in CONFIGS if n not in named and _NO_PAIRS.format(n) not in body]
    if absent or named.keys() - set(CONFIGS):
        yield f"'configs' must name {', '.join(CONFIGS)}; found {', '.join(map(str, named)) or 'none'}"
    if [n for n, c in named.items() if c.get("default")] != ["all"]:
        yield "exactly the configuration 'all' must have default: true"
    for name, config in named.items():
        files = config.get("data_files")
        found = {f.get("split"): f.get("path") for f in files or () if isinstance(f, dict)}
        if not found or found != {split: _glob(name, split) for split in schema.SPLITS if split in found}:
            expected = {split: _glob(name, split) for split in schema.SPLITS}
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
