"""A published data set -> the pairs of each stage that a trainer can use.

read("org/udasa-pairs", ("conservative",), "v1.0.0", cache)  ->  {"conservative": Dataset(prompt, chosen, rejected)}
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from udasa import schema
from udasa.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("prompt_id", "prompt", "chosen", "rejected")


class Fit(NamedTuple):
    """The pairs of a stage that fit the trainer: how many of them are cut, and how many were left out."""

    pairs: "Dataset"
    truncated: int
    dropped: int


def read(data: str, stages: Sequence[str], revision: str | None, cache: str) -> dict[str, "Dataset"]:
    """Return the pairs of each stage; a stage that the data set leaves out, or its split 'train', has none.

    A folder is read through `cache`, a new one: the common cache of `datasets` knows a folder by its last name and
    its card alone, and would give the old rows of a folder that was written again.
    """
    from datasets import Dataset, get_dataset_config_names, load_dataset_builder
    from datasets.exceptions import DatasetGenerationError

    def rows(stage: str) -> Dataset:
        cache_dir = cache if Path(data).is_dir() else None
        builder = load_dataset_builder(data, stage, revision=revision, cache_dir=cache_dir)
        builder.download_and_prepare()
        split = builder.info.splits.get("train")
        # `load_dataset` refuses a split without rows
        return builder.as_dataset(split="train") if split and split.num_examples else none

    none = Dataset.from_dict({name: [] for name in COLUMNS})
    try:
        configs = get_dataset_config_names(data, revision=revision)
        pairs = {stage: rows(stage) if stage in configs else none for stage in stages}
    except (ValueError, FileNotFoundError, DatasetGenerationError) as error:
        why = str(error.__cause__ or error).rstrip(".")
        raise UserError(f"{data} cannot be read: {why}. Check the name and the revision.") from error
    if not set(configs) & set(schema.STAGES):
        raise UserError(
            f"{data} is not a udasa data set: its configs are {', '.join(configs)}; expected the stages "
            f"{', '.join(schema.STAGES)}. Publish one with `udasa publish`."
        )
    if not any(map(len, pairs.values())):
        raise UserError(f"{data} has no training pairs in {', '.join(stages)}. Build from more prompts.")
    for stage, table in pairs.items():
        if missing := [name for name in COLUMNS if name not in table.column_names]:
            raise UserError(
                f"Stage '{stage}' of {data} lacks {', '.join(missing)}; it has {', '.join(table.column_names)}. "
                "Publish a data set with `udasa publish`."
            )
    return {stage: table.select_columns(list(COLUMNS)) for stage, table in pairs.items()}


def digest(pairs: "Dataset") -> str:
    """Return the sha256 of the rows in their order, as hex."""
    found = hashlib.sha256()
    for row in pairs:
        found.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return found.hexdigest()


def release(data: str, revision: str | None) -> tuple[str | None, str | None]:
    """Return the data set's commit on the Hub and the sha256 of its manifest.json, each None where there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    commit, manifest = revision, Path(data) / "manifest.json"
    if not Path(data).is_dir():
        try:
            manifest = Path(hf_hub_download(data, "manifest.json", repo_type="dataset", revision=revision))
            commit = manifest.parent.name  # the Hub's cache is .../snapshots/<commit>/manifest.json
        except EntryNotFoundError:
            return revision, None
    return commit, hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None


def preflight(name: str, pairs: "Dataset", tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Fit:
    """Leave out the pairs without a difference in the first `max_length` tokens; TRL drops some of them silently.

    Raises:
        UserError: the two sides of a pair are the same tokens, or no pair is left.
    """

    def tokens(messages: list[dict[str, str]]) -> list[int]:
        encoded: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        return list(encoded["input_ids"])

    kept, truncated = [], 0
    for index, row in enumerate(pairs):
        chosen, rejected = (tokens(row["prompt"] + row[side]) for side in ("chosen", "rejected"))
        if chosen == rejected:
            raise UserError(
                f"Pair {row['prompt_id']} of stage '{name}' has the same {len(chosen)} tokens as chosen and as "
                "rejected once the chat template is applied. Remove it, or build the pairs again."
            )
        if chosen[:max_length] != rejected[:max_length]:
            kept.append(index)
            truncated += max(len(chosen), len(rejected)) > max_length
    if not kept:
        raise UserError(
            f"No pair of stage '{name}' shows a difference within max_length={max_length} tokens "
            f"({len(pairs)} pairs). Raise max_length."
        )
    return Fit(pairs.select(kept), truncated, len(pairs) - len(kept))


@contextmanager
def no_data_bars() -> Iterator[None]:
    """Keep the bars of `datasets` off the console; put them back after."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
