"""The folder of an evaluation, ours or of `lm_eval --log_samples --output_path` -> a run: its setup, and its values.

read(Path("runs/before"))                 # results.json beside samples_<task>.jsonl
read(Path("out"))                         # out/<model>/results_<date>.json beside samples_<task>_<date>.jsonl
-> Run(path=…, model="org/model", facts={"batch size": "8", "dtype": "float32", …}, tasks={"xstest": …})
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from udasa.errors import UserError
from udasa.evaluate.results import RESULTS, Scores, load, read_samples, scores

_DATED = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
"""How lm-eval ends the name of a results file; its samples end alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a run logged of one task."""

    facts: dict[str, str]
    """What the values hang on, by name: version, number of shots."""
    scores: Scores
    """By document; `values` holds the metrics that are a mean over documents, and no NaN."""
    higher_is_better: dict[str, bool]
    """By metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One evaluation of one model."""

    path: Path
    model: str
    adapter: str | None
    """sha256 of the adapter, or `none`; None where it was not recorded."""
    facts: dict[str, str]
    """What the values hang on, by name; what was not recorded is not there."""
    files: dict[str, str]
    """sha256 of every file of a public data set that was read, by name."""
    tasks: dict[str, Task]


def read(path: Path, cluster: str = "cluster") -> Run:
    """Return the evaluation that is in a folder, or that a results file of lm-eval names.

    Args:
        path: our folder, lm-eval's output folder, or one of its results files.
        cluster: the documents' field that says which belong together.

    Raises:
        UserError: there is none, there are several, samples are missing, or a metric is NaN or infinite.
    """
    if path.is_file():
        return _stock([path], cluster)
    if (path / RESULTS).is_file():
        return _ours(path, cluster)
    files = sorted(file for file in path.rglob("*.json") if _DATED.search(file.name))
    if not files:
        raise UserError(
            f"{path} holds no {RESULTS} and no results_<date>.json of lm-eval: no evaluation was finished there. Run "
            "`udasa eval` first, or lm_eval with --output_path and --log_samples."
        )
    if len({file.parent for file in files}) > 1:
        raise UserError(
            f"{path} holds evaluations of several models: {', '.join(str(file.parent) for file in files)}. Name one of "
            "these folders; join several seeds of one side by commas."
        )
    return _stock(files, cluster)


def _ours(folder: Path, cluster: str) -> Run:
    found = load(folder)
    setup = found.setup
    facts = {
        "chat template": setup.chat_template, "batch size": str(setup.batch_size), "dtype": setup.dtype,
        "device": setup.device, "profile": setup.profile,
    }  # fmt: skip
    tasks = {}
    for name, result in found.tasks.items():
        read = scores(read_samples(folder, result), cluster)
        means = [metric for metric in read.values if metric in result.metrics]
        up = {metric: result.metrics[metric].higher_is_better for metric in means}
        tasks[name] = Task(
            facts={"version": result.version}, scores=_only(read, means, name, folder), higher_is_better=up
        )
    return Run(
        path=folder,
        model=str(setup.model.get("model")),
        adapter=setup.adapter or "none",
        facts=facts,
        files=found.sources,
        tasks=tasks,
    )


def _stock(files: Iterable[Path], cluster: str) -> Run:
    """Read the results files of one model; they may hold different tasks, but no task twice."""
    run: Run | None = None
    for file in files:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            facts = _facts(found)
            names = [name for name in found["configs"] if name in found["n-samples"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is not a results file of lm-eval: {error!r}.") from error
        dated = _DATED.search(file.name)
        tasks = {name: _task(found, name, file, dated[1] if dated else "", cluster) for name in names}
        if run is None:
            model = str(found.get("model_name"))
            run = Run(path=file.parent, model=model, adapter=None, facts=facts, files={}, tasks={})
        if twice := [name for name in tasks if name in run.tasks]:
            raise UserError(
                f"{file.parent} holds more than one evaluation of {', '.join(twice)}. Name the results file that you "
                "mean, or keep each run in a folder of its own."
            )
        if facts != run.facts:
            raise UserError(f"The results files in {file.parent} are of different setups. Name the one that you mean.")
        run.tasks.update(tasks)
    assert run is not None
    return run


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what the values hang on, in our words; the templates' hashes are lm-eval's sha256, as ours are."""
    config = found["config"]
    batch = str(config.get("batch_size") or "")
    sizes = config.get("batch_sizes") or []
    facts = {
        "chat template": found.get("chat_template_sha") or "none",
        "system prompt": found.get("system_instruction_sha") or "none",
        "batch size": f"{batch} ({', '.join(map(str, sizes))})" if batch.startswith("auto") else batch,
        "dtype": str(config.get("model_dtype") or "").removeprefix("torch."),
        "device": str(config.get("device") or "").partition(":")[0],
        "generation settings": json.dumps(config["gen_kwargs"], sort_keys=True)
        if config.get("gen_kwargs")
        else "the task's own",
    }
    return {name: value for name, value in facts.items() if value}


def _task(found: Mapping[str, Any], name: str, file: Path, date: str, cluster: str) -> Task:
    path = file.with_name(f"samples_{name}_{date}.jsonl")
    if not path.is_file():
        raise UserError(
            f"{path} is missing: {file.name} has results of {name} but no samples. Run lm_eval with --log_samples."
        )
    read = scores(path.read_text(encoding="utf-8"), cluster)
    if (count := found["n-samples"][name]["effective"]) != len(read.samples):
        raise UserError(f"{path} holds {len(read.samples)} documents, and {file.name} says {count}. Evaluate again.")
    means = [metric for metric in read.values if _is_mean(read.values[metric], found["results"][name], metric)]
    up = found.get("higher_is_better", {}).get(name, {})
    facts = {"version": str(found["versions"].get(name)), "number of shots": str(found.get("n-shot", {}).get(name, 0))}
    return Task(
        facts=facts,
        scores=_only(read, means, name, file.parent),
        higher_is_better={metric: up.get(metric.partition(",")[0]) is not False for metric in means},
    )


def _is_mean(values: Mapping[str, float], results: Mapping[str, Any], metric: str) -> bool:
    """Say whether a metric is the mean of its documents' values, as lm-eval reports it; a NaN is left to `_only`."""
    base, _, name = metric.partition(",")
    theirs = results.get(f"{base},{name or 'none'}")
    if not all(map(math.isfinite, values.values())):
        return True
    mean = math.fsum(values.values()) / len(values)
    return isinstance(theirs, Real) and math.isclose(mean, float(theirs), rel_tol=1e-6, abs_tol=1e-9)


def _only(read: Scores, metrics: Iterable[str], task: str, folder: Path) -> Scores:
    """Keep these metrics, and let no value that is not a number through."""
    kept = {metric: read.values[metric] for metric in metrics}
    for metric, values in kept.items():
        if bad := [key for key, value in values.items() if not math.isfinite(value)]:
            raise UserError(
                f"{len(bad)} of {len(values)} values of {metric} in {task} are NaN or infinite in {folder}: the model "
                "has diverged, or the metric could not be computed. Evaluate again, or leave the task out with --tasks."
            )
    return read._replace(values=kept)
