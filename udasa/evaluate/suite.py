"""A chat model -> lm-eval -> results and samples."""

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
from udasa.backends import ModelSpec, identity
from udasa.backends_hf import quiet
from udasa.errors import MissingExtraError, UserError, require
from udasa.evaluate import context, language_model, sources
from udasa.evaluate.context import Context
from udasa.evaluate.controls import subtract_controls
from udasa.evaluate.language_model import diverged
from udasa.evaluate.pairwise import Referee, appoint
from udasa.evaluate.results import (
    Evaluation,
    Metric,
    Setup,
    TaskResult,
    save,
    scores,
    sha256,
)
from udasa.evaluate.tasks import helpful
from udasa.evaluate.totals import totals
from udasa.recipe import Recipe
from udasa.release import open_data
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
    recipe: Recipe | None = None,
    judge: ModelSpec | None = None,
    baseline: Path | None = None,
    pairs: str | None = None,
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
        recipe: whose entailer and judge measure the uncertainties of sampled answers; None leaves them out.
        judge: who compares answers with those of `baseline`; never the model, nor one that built its pairs.
        baseline: an evaluation whose answers are compared with.
        pairs: the data set that the adapter was trained on; default: the one that its training.json names.
        progress: shown the requests.

    Raises:
        UserError: an unknown task or profile, a missing source, a folder that is no adapter, a judge that is not
            independent, log-likelihoods or metrics that are not finite, or log-likelihoods that are all the same.
    """
    if model.backend == "fake":
        raise UserError("A fake has no weights to evaluate. Name a model whose backend is 'hf' or 'vllm'.")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 document, got {limit}.")
    require("lm_eval", extra="eval")
    output.mkdir(parents=True, exist_ok=True)
    given = Context(recipe=recipe, referee=_referee(model, adapter, judge, baseline, pairs))
    with _quiet(output / "lm_eval.log"), sources.recording() as read, context.use(given):
        loaded = _load_tasks(tasks, data, profile)
        lm, setup = language_model.load(model, adapter, batch_size, limit, progress)
        context.change(base_nats=lm.base_nats)
        found = _harness(lm, loaded, limit)
    _refuse_constant(found["samples"])
    return _write(output, found, replace(setup, profile=profile), sources=read, skipped=loaded["skipped"])


def _referee(
    model: ModelSpec, adapter: Path | None, judge: ModelSpec | None, baseline: Path | None, pairs: str | None
) -> Referee | None:
    """Return the judge of pairs of answers, if one is asked for, having refused one that is not independent."""
    if judge is None and baseline is None:
        return None
    if judge is None or baseline is None:
        raise UserError("Answers are compared by a judge with a baseline's: give both --judge and --baseline.")
    training = adapter / "training.json" if adapter else None
    if pairs is None and training and training.is_file():
        pairs = json.loads(training.read_text(encoding="utf-8"))["data"]
    if adapter is not None and pairs is None:
        raise UserError(
            f"{adapter} has no training.json, so that it is unknown which models built its pairs, and {judge.model} "
            "may be one of them. Name the data set with --pairs."
        )
    models = open_data(pairs).facts["models"] if pairs else {}
    builders = {f"{role} that built the training pairs": models[role] for role in ("policy", "judge") if role in models}
    return appoint(judge, helpful.baseline(baseline), identity(model), builders)


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
    aggregations = {name: task.aggregation() for name, task in loaded["tasks"].items()}
    return {**found, "aggregations": aggregations}


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
    from lm_eval.utils import handle_non_serializable

    lines = []
    for sample in samples:
        arguments = {
            f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(request)}
            for i, request in enumerate(sample["arguments"])
        }
        responses = {key: _plain(sample[key]) for key in ("resps", "filtered_resps")}
        form = {**sample, **responses, "arguments": arguments, "target": str(sample["target"])}
        lines.append(json.dumps(form, default=handle_non_serializable, ensure_ascii=False) + "\n")
    return "".join(lines)


def _plain(responses: Any) -> Any:
    """Return responses as lm-eval writes them; what a filter made of them (dicts) keeps its form."""
    from lm_eval.utils import sanitize_list

    def made(value: Any) -> bool:
        return isinstance(value, dict) or (isinstance(value, list) and any(map(made, value)))

    return responses if made(responses) else sanitize_list(responses)


def _task_result(task: str, text: str, found: Mapping[str, Any]) -> TaskResult:
    """Return the metrics that are a mean over documents, with intervals; lm-eval's own value decides which are."""
    scored = scores(text)
    metrics = {}
    for name, values in scored.values.items():
        if not all(math.isfinite(value) for value in values.values()):
            raise diverged(f"values of {name} in {task}")
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
        totals=totals(task, found),
    )
