"""Commands about the evaluation's own judges: judge refusal, judge sentiment, judge correct."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from udasa.cli.judge import judge
from udasa.cli.terminal import bars, out, table
from udasa.errors import UserError

if TYPE_CHECKING:
    from udasa.agreement import Estimate

Mirror = Annotated[
    Path | None, typer.Option("--data", help="The mirror of the evaluation's data; default: UDASA_EVAL_DATA.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the figures as JSON.")]


@judge.command()
def refusal(data: Mirror = None, output: Output = None) -> None:
    """Hold the refusal judge against people's labels of XSTest's replies, leaving one model out each time."""
    from udasa.evaluate import refusal as judging

    rows = judging.read(data)
    with bars("judge", 1) as report:
        found = judging.agreements(rows)
        report(1)
    shown = table(
        "judge",
        "accuracy",
        "95 % interval",
        "kappa",
        "95 % interval",
        "worst model",
        "its kappa",
        title="Refusal judges against people, the classifier leaving one model out",
    )
    for name, agreed in found.items():
        worst = agreed.by_model[agreed.worst]
        shown.add_row(name, *_cells(agreed.accuracy), *_cells(agreed.kappa), agreed.worst, " ".join(_cells(worst)))
    out.print(shown)
    shown = table(
        "judge", "model", "n", "kappa", "95 % interval", "refused by the judge", "by people", title="By model"
    )
    for name, agreed in found.items():
        for model, estimate in agreed.by_model.items():
            said, truth = agreed.rates[model]
            shown.add_row(name, model, str(estimate.n), *_cells(estimate), f"{said:.3f}", f"{truth:.3f}")
    out.print(shown)
    out.print(f"{len(rows)} replies of {len(judging.MODELS)} models to {len({r.prompt_id for r in rows})} prompts")
    _save(output, {name: agreed._asdict() for name, agreed in found.items()})


@judge.command()
def sentiment(data: Mirror = None, output: Output = None) -> None:
    """Hold the sentiment classifier against the labels of texts that it has not seen."""
    from udasa.evaluate import sentiment as judging

    with bars("judge", 2) as report:
        sentences = judging.sentences(data)
        found = {"sentences, five folds": judging.held_out(sentences)}
        report(1)
        found |= judging.on_windows(judging.load(data), judging.reviews(data))
        report(1)
    shown = table(
        "texts",
        "n",
        "accuracy",
        "95 % interval",
        "AUC",
        "95 % interval",
        "ECE",
        "95 % interval",
        title="Sentiment classifier on texts that it has not seen",
    )
    for name, figures in found.items():
        shown.add_row(name, str(figures.auc.n), *(cell for estimate in figures for cell in _cells(estimate)))
    out.print(shown)
    _save(output, {name: figures._asdict() for name, figures in found.items()})


@judge.command()
def correct(
    run: Annotated[Path, typer.Argument(help="An evaluation.")],
    labels: Annotated[Path, typer.Argument(help="CSV with columns id (of the document) and label (0 or 1).")],
    task: Annotated[str, typer.Option(help="The task that the labelled documents are of.")] = "udasa_overrefusal",
    metric: Annotated[str, typer.Option(help="The metric that the labels say the truth of.")] = "safe_refusal",
) -> None:
    """Take the judge's bias out of a rate with people's labels of some replies of this very model, drawn at random."""
    from udasa.evaluate import load
    from udasa.evaluate.ppi import corrected
    from udasa.evaluate.results import read_samples

    evaluation = load(run)
    if task not in evaluation.tasks or metric not in evaluation.tasks[task].metrics:
        known = ", ".join(f"{t}/{m}" for t, found in evaluation.tasks.items() for m in found.metrics)
        raise UserError(f"{run} has no {metric} of {task}. Give one of: {known}.")
    samples = [json.loads(line) for line in read_samples(run, evaluation.tasks[task]).splitlines()]
    judged = {sample["doc"]["id"]: float(sample[metric]) for sample in samples if metric in sample}
    clusters = {sample["doc"]["id"]: str(sample["doc"].get("cluster", sample["doc"]["id"])) for sample in samples}
    found = corrected(judged, _labels(labels), clusters, task, metric)
    out.print(
        f"{task} {metric}: {found.value:.3f} ({found.low:.3f} to {found.high:.3f}) by {found.n} verdicts and "
        f"{found.labelled} labels; judge alone {found.judge:.3f}, labels alone {found.labels:.3f}",
        highlight=False,
        soft_wrap=True,
    )


def _labels(path: Path) -> dict[str, float]:
    if not path.is_file():
        raise UserError(f"There is no file at {path}. Give a CSV file with the columns id and label.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if bad := [i for i, row in enumerate(rows, 1) if not row.get("id") or row.get("label") not in ("0", "1")]:
        raise UserError(f"Row {bad[0]} of {path} has no id, or a label other than 0 and 1: {rows[bad[0] - 1]}.")
    return {row["id"]: float(row["label"]) for row in rows}


def _cells(estimate: "Estimate") -> tuple[str, str]:
    if estimate.value is None or estimate.low is None:
        return "not defined", ""
    return f"{estimate.value:.3f}", f"{estimate.low:.3f} to {estimate.high:.3f}"


def _save(output: Path | None, facts: dict[str, Any]) -> None:
    from udasa import run
    from udasa.judge_audit import to_dict

    if output:
        run.write_file(output, (json.dumps(to_dict(facts), indent=2, sort_keys=True, allow_nan=False) + "\n").encode())
