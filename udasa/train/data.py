"""A published data set -> the pairs of each stage, as they lie there.

read("org/udasa-pairs", ("conservative",), "v1.0.0", cache)  ->  {"conservative": Dataset(prompt, chosen, rejected)}
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from udasa import schema
from udasa.digests import file_sha256
from udasa.errors import UserError
from udasa.release import MANIFEST, hub_errors, is_folder

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("prompt_id", "prompt", "chosen", "rejected")


def read(
    data: str, stages: Sequence[str], revision: str | None, cache: str, split: str = "train"
) -> dict[str, "Dataset"]:
    """Return the pairs of each stage; a stage that the data set leaves out, or its split, has none.

    A folder is read through `cache`, a new one: the common cache of `datasets` knows a folder by its last name and
    its card alone, and would give the old rows of a folder that was written again.
    """
    from datasets import Dataset, get_dataset_config_names, load_dataset_builder
    from datasets.exceptions import DatasetGenerationError

    def rows(stage: str) -> Dataset:
        cache_dir = cache if Path(data).is_dir() else None
        builder = load_dataset_builder(data, stage, revision=revision, cache_dir=cache_dir)
        builder.download_and_prepare()
        found = builder.info.splits.get(split)
        # `load_dataset` refuses a split without rows
        return builder.as_dataset(split=split) if found and found.num_examples else none

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
    if split == "train" and not any(map(len, pairs.values())):
        raise UserError(f"{data} has no training pairs in {', '.join(stages)}. Build from more prompts.")
    for stage, table in pairs.items():
        if missing := [name for name in COLUMNS if name not in table.column_names]:
            raise UserError(
                f"Stage '{stage}' of {data} lacks {', '.join(missing)}; it has {', '.join(table.column_names)}. "
                "Publish a data set with `udasa publish`."
            )
    kept = (*COLUMNS, "gap")
    return {
        stage: table.select_columns([name for name in kept if name in table.column_names])
        for stage, table in pairs.items()
    }


def digest(pairs: "Dataset") -> str:
    """Return the sha256 of the rows in their order, as hex."""
    found = hashlib.sha256()
    for row in pairs:
        found.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return found.hexdigest()


def release(data: str, revision: str | None) -> tuple[str | None, str | None]:
    """Return the commit that a Hub data set has at a revision, and the sha256 of its manifest.json.

    The commit of a folder is None, and so is the digest of a data set without manifest.

    Raises:
        UserError: the data set is not there, or cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if is_folder(data):
        manifest = Path(data).expanduser() / MANIFEST
        return None, file_sha256(manifest) if manifest.is_file() else None
    with hub_errors(data, "read"):
        try:
            manifest = Path(hf_hub_download(data, MANIFEST, repo_type="dataset", revision=revision))
        except RemoteEntryNotFoundError:
            return HfApi().dataset_info(data, revision=revision).sha, None
        return manifest.parent.name, file_sha256(manifest)  # the Hub's cache is .../snapshots/<commit>/manifest.json


@contextmanager
def no_data_bars() -> Iterator[None]:
    """Keep the bars of `datasets`, and of TRL's reading of a reference, off the console; put them back after."""
    import datasets

    shown, before = not datasets.are_progress_bars_disabled(), os.environ.get("TQDM_DISABLE")
    datasets.disable_progress_bars()
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before
