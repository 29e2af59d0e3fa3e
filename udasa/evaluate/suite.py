"""A chat model -> lm-eval -> results and samples."""

import dataclasses
import importlib.metadata
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any

from udasa import resources
from udasa.adapters import find_adapter
from udasa.backends import ModelSpec, Report, ignore
from udasa.backends_hf import load_causal_lm, quiet
from udasa.backends_hf.weights import find_weights
from udasa.errors import MissingExtraError, UserError, require
from udasa.evaluate import sources
from udasa.evaluate.controls import subtract_controls
from udasa.evaluate.results import (
    Evaluation,
    Metric,
    Setup,
    TaskResult,
    save,
    scores,
    sha256,
)
from udasa.run import Progress, silent
from udasa.statistics import hull, interval, proportion_interval, right_or_wrong

log = logging.getLogger(__name__)

SEED = 1234
"""lm-eval's own default, for few-shot examples and for tasks that sample."""


def evaluate(
    model: ModelSpec,
    output: Path,
    *,
    adapter: Path | None = None,
    tasks: Sequence[str] = ("udasa_smoke",),
    data: Path | None = None,
    profile: str = "full",
    limit: int | None = None,
    batch_size: int = 8,
    progress: Progress = silent,
) -> Evaluation:
    """Run lm-eval tasks on a chat model and write results.json and the samples to `output`.

    Args:
        model: the weights, run on transformers whatever engine sampled from them; their own chat template is
            applied to every document.
        output: a folder; an earlier evaluation in it is replaced.
        adapter: a PEFT adapter folder, put on the model in the place of the one that `model` names.
        tasks: names of tasks or groups on our shelf, else of lm-eval's own.
        data: the mirror of the public data sets; default: the one that UDASA_EVAL_DATA names, else the Hub.
        profile: `full`, or `cpu` for a sample of each of our tasks by the hash of its documents.
        limit: take only the first documents of each task.
        batch_size: sequences in one forward pass; it is fixed, since it changes the last digits.
        progress: shown the requests.

    Raises:
        UserError: an unknown task or profile, a missing source, a folder that is no adapter, log-likelihoods or metrics
            that are not finite, or log-likelihoods that are all the same.
    """
    if model.backend == "fake":
        raise UserError("A fake has no weights to evaluate. Name a model whose backend is 'hf' or 'vllm'.")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 document, got {limit}.")
    require("lm_eval", extra="eval")
    output.mkdir(parents=True, exist_ok=True)
    with _quiet(output / "lm_eval.log"), sources.recording() as read:
        loaded = _load_tasks(tasks, data, profile)
        lm, setup = _language_model(model, adapter, batch_size, limit, progress)
        found = _harness(lm, loaded, limit)
    _refuse_constant(found["samples"])
    return _write(output, found, replace(setup, profile=profile), sources=read, skipped=loaded["skipped"])


@contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Send lm-eval's warnings to a file, and keep off the console the bars that nobody asked for."""
    import lm_eval.api.task
    import lm_eval.models.huggingface

    logger, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    with_bars = (lm_eval.api.task, lm_eval.models.huggingface)  # one a task over its documents, one a batch of prose
    handler = logging.FileHandler(log, mode="w", encoding="utf-8")
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    for module in with_bars:  # lm-eval has no argument for it
        module.tqdm = lambda *args, **options: bar(*args, **{**options, "disable": True})
    try:
        with quiet():
            yield
    finally:
        for module in with_bars:
            module.tqdm = bar
        logger.removeHandler(handler)
        handler.close()


def _load_tasks(names: Sequence[str], data: Path | None = None, profile: str = "full") -> dict[str, Any]:
    """Load tasks from our shelf; index lm-eval's own (half a minute) only if a name is not there.

    A task of a group is skipped, with the reason, where an optional dependency of it is missing.
    """
    from lm_eval.tasks import TaskManager

    shelf = str(resources.shelf("eval") / "tasks")
    given = {"profile": profile, **({"data": str(data)} if data else {})}
    ours = TaskManager(include_path=shelf, include_defaults=False, metadata=given)
    theirs = TaskManager() if any(name not in ours.all_tasks for name in names) else ours
    if unknown := [name for name in names if name not in {*ours.all_tasks, *theirs.all_tasks}]:
        raise UserError(
            f"There is no task {', '.join(unknown)}. Give one or more of: {', '.join(ours.all_tasks)}; "
            "or a name that `lm-eval ls tasks` lists."
        )
    if not names:
        raise UserError(f"No task was given. Give one or more of: {', '.join(ours.all_tasks)}.")
    tasks: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in names:
        if name not in ours.all_tasks:
            tasks |= theirs.load([name])["tasks"]
            continue
        for member in _members(ours, name):
            try:
                tasks |= ours.load([member])["tasks"]
            except MissingExtraError as error:
                if member == name:
                    raise
                skipped[member] = str(error)
                log.warning("%s is skipped: %s", member, error)
    for task in tasks.values():
        task.set_fewshot_seed(SEED)
    return {"tasks": tasks, "skipped": skipped}


def _members(manager: Any, name: str) -> Iterator[str]:
    """Return the tasks of a group of our shelf, whose groups hold names and groups without overrides; or the task."""
    if name not in manager.all_groups:
        yield name
        return
    queue = list(manager.task_index[name].cfg["task"])
    while queue:
        item = queue.pop(0)
        if isinstance(item, dict):
            queue[:0] = item["task"]
        else:
            yield from _members(manager, item)


def _language_model(
    spec: ModelSpec, adapter: Path | None, batch_size: int, limit: int | None, progress: Progress
) -> tuple[Any, Setup]:
    """Load the model into lm-eval's wrapper, with progress and a check for divergence."""
    from lm_eval.models.huggingface import HFLM

    class Reporting(HFLM):  # type: ignore[misc]
        report: Report = staticmethod(ignore)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            with progress("evaluate", len(requests)) as self.report:
                pairs: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
            if bad := sum(not math.isfinite(value) for value, _ in pairs):
                raise _diverged(f"{bad} of {len(pairs)} log-likelihoods")
            return pairs

        def _model_call(self, inps: Any, **options: Any) -> Any:
            logits = super()._model_call(inps, **options)
            self.report(len(inps))
            return logits

    if adapter is not None:
        spec = dataclasses.replace(spec, backend="hf", server=None, adapter=str(adapter), adapter_revision=None)
    found = find_adapter(spec)
    network, tokenizer = load_causal_lm(spec)
    setup = Setup(
        model={field: None if value is None else str(value) for field, value in find_weights(spec).identity.items()},
        adapter=None if found is None else found.identity["sha256"],
        chat_template=sha256(str(tokenizer.get_chat_template()).encode()),
        dtype=str(network.dtype).removeprefix("torch."),
        device=network.device.type,
        batch_size=batch_size,
        limit=limit,
    )
    # Without the logits cache one request is one row of a batch, so rows can be counted.
    return Reporting(pretrained=network, tokenizer=tokenizer, batch_size=batch_size, logits_cache=False), setup


def _harness(lm: Any, loaded: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Run lm-eval's `evaluate`; its `simple_evaluate` starts git and pip as well, which takes seconds and prints."""
    import torch
    from lm_eval import evaluate as lm_evaluate

    torch.manual_seed(SEED)
    found: dict[str, Any] = lm_evaluate(
        lm=lm,
        task_dict=loaded,
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    return found


def _refuse_constant(samples: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Refuse a model whose log-likelihoods are all one number: it answers nothing, though ties give it chance."""
    found = [
        response[0]
        for sample in chain.from_iterable(samples.values())
        for responses in sample["resps"]
        for response in responses
        if isinstance(response, tuple)
    ]
    if len(found) > 1 and len(set(found)) == 1:
        raise UserError(
            f"All {len(found)} log-likelihoods are {found[0]}: the model gives every text the same probability. "
            "Its weights or dtype are broken. Evaluate an earlier checkpoint."
        )


def _write(
    output: Path,
    found: dict[str, Any],
    setup: Setup,
    *,
    sources: Mapping[str, str] | None = None,
    skipped: Mapping[str, str] | None = None,
) -> Evaluation:
    """Turn what lm-eval found into our results, and write them with the samples."""
    subtract_controls(found)
    texts = {task: _samples_text(samples) for task, samples in found["samples"].items()}
    tasks = {task: _task_result(task, text, found) for task, text in texts.items()}
    packages = ("udasa", "lm_eval", "transformers", "torch", *(("peft",) if setup.adapter else ()))
    versions = {package: importlib.metadata.version(package) for package in packages}
    evaluation = Evaluation(
        setup=setup, tasks=tasks, versions=versions, sources=dict(sources or {}), skipped=dict(skipped or {})
    )
    save(output, evaluation, texts)
    return evaluation


def _samples_text(samples: Iterable[Mapping[str, Any]]) -> str:
    """Return the samples as JSON lines, as `lm_eval --log_samples` writes them."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    lines = []
    for sample in samples:
        arguments = {
            f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(request)}
            for i, request in enumerate(sample["arguments"])
        }
        responses = {key: sanitize_list(sample[key]) for key in ("resps", "filtered_resps")}
        form = {**sample, **responses, "arguments": arguments, "target": str(sample["target"])}
        lines.append(json.dumps(form, default=handle_non_serializable, ensure_ascii=False) + "\n")
    return "".join(lines)


def _task_result(task: str, text: str, found: Mapping[str, Any]) -> TaskResult:
    """Return the metrics that are a mean over documents, with intervals; lm-eval's own value decides which are."""
    scored = scores(text)
    metrics = {}
    for name, values in scored.values.items():
        if not all(math.isfinite(value) for value in values.values()):
            raise _diverged(f"values of {name} in {task}")
        mean = math.fsum(values.values()) / len(values)
        base, _, filter_name = name.partition(",")
        theirs = found["results"][task][f"{base},{filter_name or 'none'}"]
        if not isinstance(theirs, Real) or not math.isclose(mean, float(theirs), rel_tol=1e-9, abs_tol=1e-12):
            continue
        low, high = interval(values, scored.clusters, task, name)
        if right_or_wrong(values.values()):
            low, high = hull((low, high), proportion_interval(values.values()))
        up = found["higher_is_better"][task].get(base) is not False
        metrics[name] = Metric(value=mean, n=len(values), low=low, high=high, higher_is_better=up)
    if not metrics:
        raise UserError(f"The task {task} has no metric that is a mean over documents, so nothing can be paired.")
    return TaskResult(
        version=str(found["versions"][task]),
        samples=f"samples_{task}.jsonl",
        sha256=sha256(text.encode()),
        metrics=metrics,
    )


def _diverged(what: str) -> UserError:
    return UserError(
        f"Some {what} are NaN or infinite: the model has diverged, or its weights or dtype are broken. "
        "Evaluate an earlier checkpoint, or train with a smaller learning rate."
    )
