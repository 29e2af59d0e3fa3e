"""What an evaluation leaves in its folder: results.json, and the samples that every figure can be made from again."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from udasa.backends import STRICT, stable_hash
from udasa.errors import UserError
from udasa.run import write_file

RESAMPLES = 10_000
"""Bootstrap resamples behind every interval."""
_Z = 1.959963984540054
"""The 97.5 percentile of the normal distribution."""
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


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Evaluation:
    """The content of results.json."""

    setup: Setup
    tasks: dict[str, TaskResult]
    """In the order in which they ran."""
    versions: dict[str, str]
    """Of the packages involved."""


class Scores(NamedTuple):
    """The samples of a task by document: metric -> document -> value, and each document's cluster and prompt."""

    values: dict[str, dict[str, float]]
    clusters: dict[str, str]
    prompts: dict[str, str]


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


def scores(text: str) -> Scores:
    """Read JSON lines of samples; a document is its hash, and identical documents are numbered."""
    found = Scores({}, {}, {})
    seen: Counter[tuple[str, str]] = Counter()
    for sample in map(json.loads, text.removesuffix("\n").split("\n")):
        which = (sample["doc_hash"], sample["filter"])
        seen[which] += 1
        key = f"{sample['doc_hash']}/{seen[which]}"
        found.clusters[key] = str(sample["doc"].get("cluster", sample["doc_hash"]))
        found.prompts[key] = sample["prompt_hash"]
        for metric in sample["metrics"]:
            if isinstance(sample[metric], Real):
                name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                found.values.setdefault(name, {})[key] = float(sample[metric])
    return found


def interval(values: Mapping[str, float], clusters: Mapping[str, str], *seed: str) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the mean when clusters of documents are drawn with replacement.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13). One cluster alone gives an interval of width 0.
    """
    keys = sorted(values)
    _, index = np.unique([clusters[key] for key in keys], return_inverse=True)
    sums, sizes = np.bincount(index, weights=[values[key] for key in keys]), np.bincount(index)
    rng = np.random.default_rng(stable_hash(*seed))
    step = max(1, 1_000_000 // len(sums))
    means = []
    for start in range(0, RESAMPLES, step):
        draw = rng.integers(len(sums), size=(min(step, RESAMPLES - start), len(sums)))
        means.append(sums[draw].sum(axis=1) / sizes[draw].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def right_or_wrong(values: Iterable[float]) -> bool:
    """Say whether every value is 0, 1, or one half (a tie): a count, for which a bootstrap can be too sure."""
    return all(value in (0.0, 0.5, 1.0) for value in values)


def proportion_interval(values: Collection[float]) -> tuple[float, float]:
    """Return the 95 % interval of a share of right answers (Agresti and Coull 1998), within 0 .. 1.

    It has a width where all answers are right, or all wrong; a bootstrap of those has none.
    """
    n = len(values) + _Z**2
    p = (math.fsum(values) + _Z**2 / 2) / n
    half = _Z * math.sqrt(p * (1 - p) / n)
    return max(0.0, p - half), min(1.0, p + half)


def paired_interval(deltas: Collection[float]) -> tuple[float, float]:
    """Return the 95 % interval of a difference of two paired shares (Bonett and Price 2012), within -1 .. 1.

    One more answer mended and one more broken are counted than were seen, so it has a width where none was.
    """
    n = len(deltas) + 2
    mended = (math.fsum(d for d in deltas if d > 0) + 1) / n
    broken = (math.fsum(-d for d in deltas if d < 0) + 1) / n
    middle = mended - broken
    half = _Z * math.sqrt((mended + broken - middle**2) / n)
    return max(-1.0, middle - half), min(1.0, middle + half)


def hull(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """Return the smallest interval that holds both: the bootstrap knows the clusters, the formula the rare events."""
    return min(a[0], b[0]), max(a[1], b[1])


def sha256(content: bytes) -> str:
    """Return the SHA-256 as hex."""
    return hashlib.sha256(content).hexdigest()
