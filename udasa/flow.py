"""The build on one page: sources -> prompts -> responses -> scored -> pairs, in a folder that can be resumed.

<folder>/recipe.json  models.json  planted.json  prompts/  dropped/  responses/  scored/  answers.sqlite  pairs/
         ledger/  build.json (written last);  log.jsonl: what it cost
"""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from udasa import __version__, calibrate, cluster, lint, log, maps, pairing, prompts, recipe, run, schema
from udasa.backends import (
    Judge,
    Remembering,
    identity,
    make_entailer,
    make_judge,
    make_sampler,
    make_trained_judge,
    make_truth_judge,
    trained_identity,
)
from udasa.costs import adopt, logged, stop_at, timed
from udasa.errors import UserError
from udasa.lint import planted
from udasa.memory import Memory
from udasa.questions import fingerprint
from udasa.recipe import Recipe
from udasa.reuse import take_prompts, take_shards
from udasa.run import Apply, Progress, Step, run_local, silent
from udasa.sample import SampleStep
from udasa.score import Scorer

PACKAGES = ("datasets", "huggingface-hub", "polars", "pyarrow", "torch", "transformers")
"""Packages whose versions a build records."""

ANSWERS = "answers.sqlite"
"""The file of a build that remembers entailment and what servers replied; it is not published, and may be deleted."""
LOCAL = (ANSWERS, log.LOG, log.PLAN)
"""Files of a build that are not published, and on which no row hangs."""

Runner = Literal["local", "ray"]
"""Where the steps run that hold models: in this process, or on a Ray cluster. The bytes are the same."""


def build(
    settings: Recipe,
    folder: Path,
    progress: Progress = silent,
    answers: Path | None = None,
    runner: Runner = "local",
    ray_address: str | None = None,
    budget: log.Budget | None = None,
    watch: Callable[[log.Line], None] = lambda _: None,
    reuse: Path | None = None,
) -> Path:
    """Build a data set into `folder`, or go on with the build that is there; returns the folder.

    Args:
        settings: the recipe.
        folder: where the build is, or will be; every node of a cluster must see it.
        progress: shows how far a step is.
        answers: the file of remembered answers; by default one inside the folder, which holds its own only.
        runner: where the steps run.
        ray_address: the cluster to join; None: Ray on this machine alone.
        budget: what the whole build may cost, the runs before this one included; it is looked at after every shard.
        watch: called with every line of the log as it is written.
        reuse: another build, from which is taken over what would come out the same (`udasa.reuse`).

    Raises:
        BudgetError: the budget is used up and shards are left; the same call goes on with a larger one.
        UserError: the folder holds another recipe's build, or the recipe's sources or models do not fit.
        LimitError: a planted question is answered too badly to begin, or the audit fails; what is done is kept.
    """
    claim(folder, settings)
    if not is_finished(settings, folder):
        pin_models(settings, folder)
        if reuse is not None:
            take_prompts(reuse, folder, settings)
        with timed(folder, "prompts", watch):
            collect_prompts(settings, folder)
        if reuse is not None:
            for done in take_shards(reuse, folder, settings):
                next(step for _, step in steps(settings, folder, answers) if step.name == done.step).check(done)
        with timed(folder, "check", watch):
            check(settings, folder)
        adopt(folder)
        if runner == "ray":
            cluster.connect(ray_address)
        for source, plain in steps(settings, folder, answers):
            step = logged(folder, plain, budget, watch)
            stop_at(budget, folder)
            if runner == "ray":
                cluster.run_ray(folder, source, step, settings.workers, progress)
            else:
                run_local(folder, source, step, progress)
        with timed(folder, "pairs", watch):
            pair_and_stage(settings, folder)
    return folder


def is_finished(settings: Recipe, folder: Path) -> bool:
    """Say whether the folder's summary is there and of this recipe."""
    path = folder / "build.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["recipe_digest"] == recipe.digest(settings)


def steps(settings: Recipe, folder: Path, answers: Path | None = None) -> list[tuple[str, Step]]:
    """Return the steps that run shard by shard, each with the table it reads."""
    file = answers or folder / ANSWERS

    def sample() -> Apply:
        sampler = make_sampler(settings.policy, settings.sampling)
        _remember(sampler, file)
        return SampleStep(sampler, settings.sampling.k, settings.seed)

    def score() -> Apply:
        entailment = settings.entailment
        entailer = make_entailer(entailment.model, entailment.kind, entailment.same_meaning, entailment.runtime)
        judge, truth = load_judges(settings)
        _remember(judge, file)
        _remember(truth, file)
        memory = Memory(file, fingerprint(entailment))
        return Scorer(entailer, judge, entailment.clustering, memory, entailment.context, truth)

    check_failures = failure_check(settings, folder)
    return [
        ("prompts", Step("responses", sample, check_failures)),
        ("responses", Step("scored", score, check_failures)),
    ]


def _remember(model: object, file: Path) -> None:
    if isinstance(model, Remembering):
        model.remember(file)


def load_judges(settings: Recipe) -> tuple[Judge, Judge | None]:
    """Return the judge, and the policy as the judge of its own truth if the recipe asks for it."""
    judging, spec = settings.judging, settings.judge_model
    judge = make_trained_judge(spec) if judging.kind == "trained" else make_judge(spec, judging.constitution)
    if not judging.ask_p_true:
        return judge, None
    return judge, make_truth_judge(settings.policy, judge if spec == settings.policy else None)


def claim(folder: Path, settings: Recipe) -> None:
    """Take the folder for this recipe.

    Raises:
        UserError: another recipe's build is there, or something else is.
    """
    refuse_other(folder, settings)
    for leftover in folder.rglob(run.UNFINISHED + "*"):
        leftover.unlink()
    run.write_file(folder / "recipe.json", recipe.to_json(settings).encode())


def refuse_other(folder: Path, settings: Recipe) -> None:
    """Refuse a folder that is another's; settings of training, workers and the audit may differ: no row hangs on them.

    Raises:
        UserError: another recipe's build is there (the fields that differ are named), or something else is.
    """
    path = folder / "recipe.json"
    if path.is_file():
        found = recipe.from_json(path.read_text(encoding="utf-8"), origin=str(path))
        kept = {name: getattr(settings, name) for name in ("training", "workers", "lint", "planted")}
        found = dataclasses.replace(found, **kept)
        if changed := recipe.differences(found, settings):
            raise UserError(
                f"{folder} holds a build of another recipe; these fields differ: {'; '.join(changed)}. "
                "Build into a new folder, or use the recipe that began this one."
            )
    elif folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
        raise UserError(f"{folder} is not empty and not a build (it has no recipe.json). Give a new or empty folder.")


def _is_foreign(path: Path) -> bool:
    """Say whether a file in a folder without a recipe shows that the folder is no build to be."""
    return not run.is_unfinished(path) and path.name != log.PLAN


def pin_models(settings: Recipe, folder: Path) -> None:
    """Write down which weights this build is made with, before any of them runs.

    Raises:
        UserError: the build was begun with others, so that its rows would be of two models.
    """
    judge, path = settings.judge_model, folder / "models.json"
    models = {
        "policy": identity(settings.policy),
        "entailer": {**identity(settings.entailment.model), "kind": settings.entailment.kind},
        "judge": {
            **(trained_identity(judge) if settings.judging.kind == "trained" else identity(judge)),
            "same_as_policy": judge == settings.policy,
            "kind": settings.judging.kind,
            "answers": list(settings.judge_answers),
        },
    }
    begun = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else models
    if changed := [f"{role}: {begun[role]} -> {found}" for role, found in models.items() if begun[role] != found]:
        raise UserError(
            f"{folder} was begun with other weights: {'; '.join(changed)}. "
            "Go on where those are installed, or build into a new folder."
        )
    run.write_file(path, _json(models))


def collect_prompts(settings: Recipe, folder: Path) -> None:
    """Read the sources into prompt shards, once; the dropped rows are written last."""
    dropped = folder / "dropped" / "00000.parquet"
    if run.is_done(dropped):
        return
    shutil.rmtree(folder / "prompts", ignore_errors=True)
    found = prompts.collect(settings)
    for number, start in enumerate(range(0, found.table.num_rows, settings.shard_size)):
        shard = found.table.slice(start, settings.shard_size)
        run.write_shard(folder / "prompts" / f"{number:05d}.parquet", shard)
    run.write_shard(dropped, found.dropped)


def check(settings: Recipe, folder: Path) -> None:
    """Fail before hours go into sampling: on prompts of the evaluation, or on models that planted questions find out.

    Raises:
        LimitError: a prompt is an evaluation's, where none may be; or the entailer or the judge is below its floor.
    """
    lint.fail_on_limits(
        lint.audit_prompts(run.read_frame(folder, "prompts"), settings),
        "Nothing was sampled. Take these prompts out of the sources and build into a new folder.",
    )
    if settings.planted.path is None:
        return
    questions, path = planted.read_questions(settings.planted.path), folder / planted.FILE
    asked = planted.digest(settings.planted.path)
    answers = planted.read_answers(path, asked)
    if answers is None:
        score = next(step for _, step in steps(settings, folder) if step.name == "scored").make()
        answers = planted.ask(questions, score)
        run.write_file(path, planted.to_bytes(asked, answers))
    lint.fail_on_limits(
        planted.planted_findings(answers, settings.planted),
        "Nothing was sampled. Use better models in a new folder, or set planted.entailer_floor and planted.judge_floor "
        "to what you accept and run it again.",
    )


def failure_check(settings: Recipe, folder: Path) -> Callable[[run.Done], None]:
    """Return what stops a build as soon as it is certain that too many prompts will have no responses or judgements.

    The check raises a UserError when the failures so far are above the recipe's share of all prompts. It reads every
    shard once.
    """
    found: dict[Path, list[tuple[str, str]]] = {}

    def check(done: run.Done) -> None:
        last = folder / done.step / done.shard
        known = [shard for step in ("responses", "scored") for shard in run.shard_paths(folder, step)]
        for shard in [last] if found else known:
            found[shard] = failures(shard)
        if not found[last]:
            return
        failed = [failure for some in found.values() for failure in some]
        total = sum(run.num_rows(shard) for shard in run.shard_paths(folder, "prompts"))
        if len(failed) > settings.max_failed * total:
            reasons = dict(sorted(Counter(reason for reason, _ in failed).items()))
            raise UserError(
                f"{len(failed)} of {total} prompts have no responses or no judgement of them, above the recipe's "
                f"max_failed of {settings.max_failed:.0%}: {reasons}; the first: {failed[0][1]}. What is done is kept. "
                "Mend the cause and build with --retry-failed, or raise max_failed."
            )

    return check


def failures(shard: Path) -> list[tuple[str, str]]:
    """Return the outcome, and what the engine said, of each prompt of a shard that an engine failed."""
    if shard.parent.name == "responses":
        rows = pl.DataFrame(pl.from_arrow(run.read_parquet(shard, ["failure", "failure_detail"])))
        return rows.drop_nulls("failure").rows()
    table = run.read_parquet(shard, ["prompt_id", "responses.list.element.judge_failure"])
    responses = pl.DataFrame(pl.from_arrow(table)).explode("responses").unnest("responses")
    failed = responses.drop_nulls("judge_failure").unique("prompt_id", maintain_order=True)
    return [("judge-error", detail) for detail in failed["judge_failure"]]


def forget_failures(folder: Path) -> None:
    """Take the shards back in which an engine gave no answer, so that they are sampled or scored again."""
    for shard in run.shard_paths(folder, "responses"):
        again = ["scored", "responses"] if "engine-error" in dict(failures(shard)) else []
        scored = folder / "scored" / shard.name
        if not again and run.is_done(scored) and failures(scored):
            again = ["scored"]
        for name in again:
            (folder / "build.json").unlink(missing_ok=True)
            (folder / name / shard.name).with_suffix(".done").unlink(missing_ok=True)


def pair_and_stage(settings: Recipe, folder: Path) -> None:
    """Pair and stage the whole build from its stored scores, audit it, and write the summary that completes it.

    Raises:
        LimitError: the audit fails; the rows are kept, without a summary.
    """
    (folder / "build.json").unlink(missing_ok=True)
    fitted = maps.load(settings.calibration, settings.measures, settings.weights)
    staged = write_staged(settings, folder, fitted)
    findings = lint.audit_build(settings, folder)
    lint.fail_on_limits(
        findings,
        f"Every row is kept: `udasa lint {folder}` shows all findings. Build from better sources into a new folder, or "
        "change the recipe's `lint` and run it again; no model runs anew.",
    )
    summary = {
        "findings": [finding.to_json() for finding in findings],
        "recipe_digest": recipe.digest(settings),
        "thresholds": staged.thresholds._asdict(),
        "calibration": calibrate.facts(settings.calibration, fitted),
        "models": json.loads((folder / "models.json").read_text(encoding="utf-8")),
        "udasa": __version__,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }
    run.write_file(folder / "build.json", _json(summary))


def write_staged(settings: Recipe, folder: Path, fitted: maps.Maps | None) -> pairing.Staged:
    """Write the pairs of a build, and its ledger from the prompts and dropped rows that are there."""

    def write(number: int, table: pa.Table) -> None:
        run.write_shard(folder / "pairs" / f"{number:05d}.parquet", table)

    staged = pairing.pair_and_stage(pairing.of_build(folder), settings, fitted, write, folder)
    run.write_shard(folder / "ledger" / "00000.parquet", _ledger(folder, staged.outcomes))
    return staged


def _ledger(folder: Path, outcomes: pl.DataFrame) -> pa.Table:
    """Return one line per source row: dropped before sampling, without responses, dropped at pairing, or paired.

    Raises:
        ValueError: a prompt has no outcome, or more than one.
    """
    asked = run.read_frame(folder, "prompts", ["source", "source_row", "prompt_id"])
    failed = run.read_frame(folder, "responses", ["prompt_id", "failure", "failure_detail"]).drop_nulls("failure")
    known = pl.concat(
        [
            outcomes,
            failed.rename({"failure": "outcome", "failure_detail": "detail"}),
        ]
    )
    lines = asked.join(known, on="prompt_id", how="left", validate="1:1")
    dropped = run.read_frame(folder, "dropped")
    ledger = pl.concat([lines.cast(dropped.schema), dropped]).sort("source", "source_row")
    unknown = set(ledger["outcome"]) - set(schema.OUTCOMES)
    if unknown:
        raise ValueError(f"Prompts without a known outcome: {unknown}.")
    return schema.conform(ledger.to_arrow(compat_level=pl.CompatLevel.oldest()), schema.LEDGER)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
