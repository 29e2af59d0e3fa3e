"""Pairs, a reference policy -> the reference's log-probabilities of both sides, once for all runs that need the same.

with_log_probs(pairs, [pairs, others], Reference(policy, start=None), policy, training, progress)
-> Dataset(prompt, chosen, rejected, content, tokens, ref_chosen_logps, ref_rejected_logps)

A stage's reference does not move, so TRL reads it once over all pairs and not at every step. The answers are kept in
the cache folder (`UDASA_CACHE`, else ~/.cache/udasa) by what they hang on: the reference's weights, the tokens of the
pairs, how they are batched, and what runs the model. So seeds, arms and epochs share them, and a run that goes on, or
is made again, reads the same bytes.
"""

import hashlib
import importlib.metadata
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from udasa import backends_hf
from udasa.backends import ModelSpec, Report
from udasa.backends_hf.weights import cache_folder
from udasa.digests import files_sha256
from udasa.errors import UserError
from udasa.recipe import Training
from udasa.run import Progress, write_file
from udasa.train import processes
from udasa.train.models import check_kept, load_base, make_lora, precision

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
"""What TRL calls the log-probabilities: of the tokens of a reply, in nats, summed."""

PACKAGES = ("torch", "transformers", "trl", "peft")
"""Packages whose versions a stored answer hangs on."""


class Reference(NamedTuple):
    """A policy that does not move while a stage is trained."""

    spec: ModelSpec
    start: Path | None
    """The folder of what an earlier stage wrote; None: the model of `spec` itself."""


def reference_of(policy: ModelSpec, training: Training, start: Path | None) -> Reference:
    """Return the reference of a stage that begins with what is in `start`; `training` is the stage's own."""
    if training.reference == "fixed":
        assert training.fixed_reference is not None
        return Reference(training.fixed_reference, None)
    return Reference(policy, start if training.reference == "previous" else None)


def with_log_probs(
    rows: "Dataset",
    among: "Sequence[Dataset]",
    reference: Reference,
    policy: ModelSpec,
    training: Training,
    progress: Progress,
) -> "Dataset":
    """Return the pairs of a stage with the reference's log-probabilities as columns.

    Args:
        rows: the pairs, as `udasa.train.preflight` gives them.
        among: all pairs of the run that may have the same reference, `rows` among them: they are read together, from
            the longest to the shortest, so that runs that cut the same pairs into other stages find them in the cache.
        reference: whose log-probabilities.
        policy: the model that is trained; its tokenizer reads the pairs.
        training: the length that pairs are cut to, and the batch size.
        progress: shown the pairs that are read.
    """
    from datasets import concatenate_datasets

    union = concatenate_datasets(
        [data.select_columns(["prompt", "chosen", "rejected", "content", "tokens"]) for data in among]
    )
    first: dict[str, int] = {}
    for index, content in enumerate(union["content"]):
        first.setdefault(content, index)
    tokens = list(union["tokens"])
    ordered = sorted(first, key=lambda content: (-tokens[first[content]], content))
    path = cache_folder() / "references" / f"{_key(reference, policy, training, ordered)}.parquet"
    if not processes.from_main(path.is_file):
        wanted = union.select([first[content] for content in ordered])
        with progress("reference log-probabilities", len(ordered)) as report, _shared_folder(path.parent) as folder:
            _write(path, _compute(wanted, reference, policy, training, report, folder))
    found = pl.read_parquet(path).rows_by_key("content", unique=True)
    for index, name in enumerate(COLUMNS):
        rows = rows.add_column(name, [found[content][index] for content in rows["content"]])
    return rows


def _key(reference: Reference, policy: ModelSpec, training: Training, contents: Sequence[str]) -> str:
    """Return what the answers hang on, as one sha256."""
    facts = {
        "weights": backends_hf.identity(reference.spec),
        "start": reference.start and _digest(reference.start),
        "tuning": training.tuning if reference.spec == policy else None,
        "place": backends_hf.placement(reference.spec),
        "batch": training.device_batch_size,
        "max_length": training.max_length,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "pairs": contents,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(folder: Path) -> str:
    """Return a sha256 of the weights in a folder and of their settings."""
    return files_sha256(sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")]))


@contextmanager
def _shared_folder(parent: Path) -> Iterator[Path]:
    """Make a folder that every process sees, and take it away when all are done with it."""

    def make() -> str:
        parent.mkdir(parents=True, exist_ok=True)
        return mkdtemp(prefix="udasa-", dir=parent)

    folder = Path(processes.from_main(make))
    try:
        yield folder
        processes.wait()
    finally:
        if processes.is_main():
            shutil.rmtree(folder)


def _compute(
    rows: "Dataset", reference: Reference, policy: ModelSpec, training: Training, report: Report, folder: Path
) -> pl.DataFrame:
    """Let TRL read the pairs with the reference as its model.

    TRL's first process writes the answers beside the file of the pairs, and the others read them there. So the pairs
    are put into a file in `folder`, which all of them see; of pairs in memory, each process would look elsewhere.
    """
    from datasets import load_from_disk
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    tokenizer = backends_hf.load_chat_tokenizer(policy)
    model = _load(reference, policy, training, tokenizer)
    collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id, max_length=training.max_length)

    def collate_and_report(examples: list[dict[str, Any]]) -> dict[str, Any]:
        report(len(examples))
        batch: dict[str, Any] = collate(examples)
        return batch

    if processes.is_main():
        rows.save_to_disk(str(folder / "pairs"))
    processes.wait()
    config = DPOConfig(
        output_dir=str(folder),
        max_length=training.max_length,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=training.device_batch_size,
        activation_checkpointing=False,
        report_to="none",
        **precision(model, training),
    )
    trainer: Any = DPOTrainer(
        model=model,
        args=config,
        train_dataset=load_from_disk(str(folder / "pairs")),
        processing_class=tokenizer,
        data_collator=collate_and_report,
        # transformers takes no trainer for a bare model of 4 bits; TRL reads it with the adapter off
        peft_config=make_lora(model, training) if training.tuning == "qlora" and reference == (policy, None) else None,
    )
    check_kept(trainer, len(rows), training)
    return pl.DataFrame({name: list(trainer.train_dataset[name]) for name in ("content", *COLUMNS)})


def _load(reference: Reference, policy: ModelSpec, training: Training, tokenizer: Any) -> Any:
    from peft import PeftModel

    if reference.spec != policy:
        model, its_tokenizer = backends_hf.load_causal_lm(reference.spec)
        if its_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"The fixed reference {reference.spec.model} has another vocabulary than the policy, so their "
                "log-probabilities cannot be compared. Name a model with the policy's tokenizer."
            )
        return model
    if reference.start is None or training.tuning == "full":
        return load_base(policy, training, reference.start)[0]
    return PeftModel.from_pretrained(load_base(policy, training)[0], str(reference.start))


def _write(path: Path, found: pl.DataFrame) -> None:
    if processes.is_main():
        payload = io.BytesIO()
        found.write_parquet(payload)
        write_file(path, payload.getvalue())
