"""What an evaluation leaves in its folder: results.json, and the samples that every figure can be made from again."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import field
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from udasa.backends import STRICT
from udasa.errors import UserError
from udasa.run import write_file

RESULTS = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Metric:
    """The mean of one metric over the documents that have it."""

    value: float
    """The mean."""
    n: int
    """Documents that have the metric: fewer than the task's for a metric of a subset, such as `refusal`."""
    low: float
    """Lower end of the 95 % interval: percentile bootstrap over clusters of documents; of a share of right answers, its
    hull with Agresti and Coull's."""
    high: float
    """Upper end."""
    higher_is_better: bool
    """Which way is up."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class TaskResult:
    """One task: its metrics, and the file with its samples."""

    version: str
    """The version in the task's YAML; results of two versions are not comparable."""
    samples: str
    """Name of the samples file in the same folder."""
    sha256: str
    """Digest of the samples file."""
    metrics: dict[str, Metric]
    """By name; a metric behind a named filter is `metric,filter`, as lm-eval writes it."""
    totals: dict[str, Metric] = field(default_factory=dict)
    """Numbers of the whole task that are no mean over documents, such as an AUROC; n is in documents."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Setup:
    """What was evaluated, and what else the figures hang on."""

    model: dict[str, str | None]
    """Name, origin and digest or revision of the weights."""
    adapter: str | None
    """sha256 of the PEFT adapter's weights and configuration."""
    chat_template: str
    """sha256 of the chat template."""
    dtype: str
    device: str
    batch_size: int
    limit: int | None
    """Only the first documents of each task: for trying out, not for reporting."""
    profile: str = "full"
    """`cpu`: a sample of the documents of each of our tasks, by hash."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Evaluation:
    """The content of results.json."""

    setup: Setup
    tasks: dict[str, TaskResult]
    """In the order in which they ran."""
    versions: dict[str, str]
    """Of the packages involved."""
    sources: dict[str, str] = field(default_factory=dict)
    """sha256 of every file of a public data set that was read."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Tasks of a group that could not run, and why."""


class Scores(NamedTuple):
    """The samples of a task by document: metric -> document -> value, and each document's facts."""

    values: dict[str, dict[str, float]]
    clusters: dict[str, str]
    prompts: dict[str, str]
    samples: dict[str, dict[str, Any]]
    """As lm-eval logged it, behind the document's first filter."""


_EVALUATION = TypeAdapter(Evaluation)


def save(folder: Path, evaluation: Evaluation, samples: Mapping[str, str]) -> None:
    """Write the samples (task -> JSON lines), then results.json; what an earlier evaluation left is removed first."""
    for old in (folder / RESULTS, *folder.glob("samples_*.jsonl")):
        old.unlink(missing_ok=True)
    for task, result in evaluation.tasks.items():
        write_file(folder / result.samples, samples[task].encode())
    write_file(folder / RESULTS, _EVALUATION.dump_json(evaluation, indent=2) + b"\n")


def load(folder: Path) -> Evaluation:
    """Read the results.json of an evaluation.

    Raises:
        UserError: there is none, or it is not one of ours.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise UserError(f"{folder} holds no {RESULTS}: no evaluation was finished there. Run `udasa eval` first.")
    try:
        return _EVALUATION.validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UserError(f"{path} is not a result of this version of udasa: {error}") from error


def read_samples(folder: Path, result: TaskResult) -> str:
    """Return the JSON lines of a task.

    Raises:
        UserError: the file is missing, or is not the one that results.json was written with.
    """
    path = folder / result.samples
    if not path.is_file() or sha256(path.read_bytes()) != result.sha256:
        raise UserError(f"{path} is missing or is not the file that {RESULTS} was written with. Evaluate again.")
    return path.read_text(encoding="utf-8")


def scores(text: str, cluster: str = "cluster") -> Scores:
    """Read JSON lines of samples; a document is its hash, and identical documents are numbered.

    `cluster`: the document's field that says what it shares with others; without it a document is its own cluster.
    """
    found = Scores({}, {}, {}, {})
    seen: Counter[tuple[str, str]] = Counter()
    for sample in map(json.loads, text.removesuffix("\n").split("\n")):
        which = (sample["doc_hash"], sample["filter"])
        seen[which] += 1
        key = f"{sample['doc_hash']}/{seen[which]}"
        found.clusters[key] = str(sample["doc"].get(cluster, sample["doc_hash"]))
        found.prompts[key] = sample["prompt_hash"]
        found.samples.setdefault(key, sample)
        for metric in sample["metrics"]:
            if isinstance(sample[metric], Real):
                name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                found.values.setdefault(name, {})[key] = float(sample[metric])
    return found


def sha256(content: bytes) -> str:
    """Return the SHA-256 as hex."""
    return hashlib.sha256(content).hexdigest()
