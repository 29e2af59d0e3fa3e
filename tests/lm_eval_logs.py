"""Results and samples as stock lm-eval writes them, by its own tracker, from values that a test makes up."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def sample(
    doc: Mapping[str, Any], metrics: Mapping[str, Any], *, prompt: str = "", answer: str = "", filter: str = "none"
) -> dict[str, Any]:
    """Return what lm-eval keeps of one generated answer to one document."""
    from lm_eval.utils import hash_string

    asked = prompt or str(doc.get("prompt", doc))
    return {
        "doc_id": 0, "doc": dict(doc), "target": "", "arguments": [(asked, {"until": []})], "resps": [[answer]],
        "filtered_resps": [answer], "filter": filter, "metrics": list(metrics),
        "doc_hash": hash_string(json.dumps(doc, indent=2, ensure_ascii=False)), "prompt_hash": hash_string(asked),
        "target_hash": hash_string(""), **metrics,
    }  # fmt: skip


def log_run(
    folder: Path,
    model: str,
    tasks: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    lower_is_better: Iterable[str] = (),
    version: Any = 1.0,
    batch_size: Any = 8,
    dtype: str = "torch.float32",
    chat_template: str | None = "{{ messages }}",
) -> Path:
    """Write a run to `folder` as `lm_eval --output_path folder --log_samples` does; returns the results file."""
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.log_experiment_args("hf", f"pretrained={model}", None, chat_template, False)
    results: dict[str, dict[str, Any]] = {}
    up: dict[str, dict[str, bool]] = {}
    for task, samples in tasks.items():
        names = dict.fromkeys((metric, one["filter"]) for one in samples for metric in one["metrics"])
        values = {
            name: [s[name[0]] for s in samples if name[1] == s["filter"] and name[0] in s["metrics"]] for name in names
        }
        plain = {name: found for name, found in values.items() if not isinstance(found[0], list)}
        results[task] = {f"{metric},{which}": sum(found) / len(found) for (metric, which), found in plain.items()}
        up[task] = {metric: metric not in lower_is_better for metric, _ in names}
    counts = {task: len({one["doc_hash"] for one in samples}) for task, samples in tasks.items()}
    found = {
        "results": results, "configs": {task: {"task": task} for task in tasks},
        "versions": dict.fromkeys(tasks, version), "n-shot": dict.fromkeys(tasks, 0), "higher_is_better": up,
        "n-samples": {task: {"original": n, "effective": n} for task, n in counts.items()},
        "config": {"model": "hf", "model_dtype": dtype, "batch_size": batch_size, "batch_sizes": [], "device": "cpu"},
    }  # fmt: skip
    before = set(folder.rglob("results_*.json"))
    tracker.save_results_aggregated(results=found, samples={name: list(rows) for name, rows in tasks.items()})
    for task, samples in tasks.items():
        tracker.save_results_samples(task_name=task, samples=[dict(one) for one in samples])
    (made,) = set(folder.rglob("results_*.json")) - before
    return made
