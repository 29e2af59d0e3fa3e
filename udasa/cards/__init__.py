"""manifest -> dataset card and croissant.json; training facts -> model card; and a check of what a card says.

    text = render_dataset_card(manifest, "org/udasa-pairs", [("figures/gap.svg", "The gap by stage.")])
    validate(text, "dataset")

layout       which configuration has which files     markdown     values as Markdown that does nothing else
model        the model card and its results          checks       what the Hub needs, and `validate`
croissant    the data set for machines
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from udasa import schema
from udasa.cards.checks import LICENSES, Kind, validate
from udasa.cards.layout import CONFIGS, SIZES, glob, no_pairs, num_bytes, rows, size_category
from udasa.cards.markdown import check_repo, code, escape, literal, number, public_name, render, yaml
from udasa.cards.model import render_model_card
from udasa.errors import UserError

__all__ = [
    "CONFIGS", "LICENSES", "MEANINGS", "SIZES", "Kind", "code", "escape", "literal", "number", "public_name",
    "render_dataset_card", "render_model_card", "rows", "size_category", "validate",
]  # fmt: skip

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
        check_repo(repo)
    for path, _ in figures:
        if not re.fullmatch(r"[\w-][\w./-]*", path) or ".." in path:
            raise UserError(f"The figure path '{path}' must be a plain relative path inside the repository.")
    return render(
        "dataset_card.md.j2",
        front_matter=yaml(_dataset_front_matter(manifest)),
        m=manifest,
        repo=repo,
        figures=figures,
        columns=list(_columns()),
        stages=schema.STAGES,
        splits=schema.SPLITS,
        outcomes=schema.OUTCOMES,
        meanings=MEANINGS,
        empty=[no_pairs(stage) for stage in schema.STAGES if not rows(manifest, stage)],
        similarity=manifest["models"]["entailer"].get("kind") == "similarity",
    )


def _dataset_front_matter(manifest: Mapping[str, Any]) -> dict[str, Any]:
    from datasets import Features

    configs: list[dict[str, Any]] = []
    infos: list[dict[str, Any]] = []
    for name in CONFIGS:
        counts = rows(manifest, name)
        if not counts:
            continue
        table = schema.SCORED if name == "responses" else schema.PAIRS
        files = [{"split": split, "path": glob(name, split)} for split in counts]
        configs.append({"config_name": name, "data_files": files} | ({"default": True} if name == "all" else {}))
        infos.append(
            {
                "config_name": name,
                "features": Features.from_arrow_schema(table)._to_yaml_list(),
                "splits": [
                    {"name": split, "num_bytes": num_bytes(manifest, name, split), "num_examples": count}
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


def _columns() -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, meaning and unit of each column of a pairs table."""
    for field in schema.PAIRS:
        side, _, rest = field.name.partition("_")
        meaning, unit = MEANINGS[field.name] if field.name in MEANINGS else MEANINGS[rest]
        if field.name not in MEANINGS:
            meaning = f"{side} answer: {meaning}"
        kind = "list of messages" if field.type == schema.MESSAGES else str(field.type).replace("double", "float64")
        yield field.name, kind, meaning, unit
