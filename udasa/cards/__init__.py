"""manifest -> dataset card and croissant.json; training facts -> model card; and a check of what a card says.

    text = render_dataset_card(manifest, "org/udasa-pairs", [("figures/gap.svg", "The gap by stage.")])
    validate(text, "dataset")

results      results on a benchmark of the Hub
layout       which configuration has which files     markdown     values as Markdown that does nothing else
model        the model card                           checks       what the Hub needs, and `validate`
jsonld       the data set for machines                columns      what every column means
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from udasa import schema
from udasa.cards.checks import LICENSES, Kind, validate
from udasa.cards.columns import MEANINGS, described
from udasa.cards.jsonld import croissant
from udasa.cards.layout import CONFIGS, SIZES, glob, no_pairs, num_bytes, rows, size_category
from udasa.cards.markdown import check_repo, code, escape, literal, number, public_name, render, yaml
from udasa.cards.model import render_model_card
from udasa.cards.results import eval_results
from udasa.errors import UserError

__all__ = [
    "CONFIGS", "LICENSES", "MEANINGS", "SIZES", "Kind", "code", "croissant", "escape", "eval_results", "literal",
    "number", "public_name", "render_dataset_card", "render_model_card", "rows", "size_category", "validate",
]  # fmt: skip
SEE = {
    False: "It sees each text alone, without the prompt.",
    True: "It sees the prompt before each text.",
}
"""What the entailer sees, by the recipe's `entailment.context`."""


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
        tables={"pair": list(described(schema.PAIRS)), "prompt with its answers": list(described(schema.SCORED))},
        stages=schema.STAGES,
        splits=schema.SPLITS,
        outcomes=schema.OUTCOMES,
        meanings=MEANINGS,
        empty=[no_pairs(stage) for stage in schema.STAGES if not rows(manifest, stage)],
        see=SEE[manifest["recipe"].get("entailment", {}).get("context", False)],
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
