"""Commands about a judge and people's scores: judge train, judge audit."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from udasa.cli.terminal import app, bars, out, quiet_libraries, table
from udasa.errors import UserError

if TYPE_CHECKING:
    from udasa.agreement import Estimate
    from udasa.backends import ModelSpec
    from udasa.judge_audit import Audit

judge = typer.Typer(no_args_is_help=True, help="Train a judge on people's harm scores; hold judges against them.")
app.add_typer(judge, name="judge")

Data = Annotated[
    list[Path],
    typer.Argument(help="CSV files with columns prompt, response and one a rater: score, score_2, ..., 0 to 1."),
]


@judge.command()
def train(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the judge.")],
    encoder: Annotated[
        str | None, typer.Option(help="Encoder: a folder, or org/name@commit; default: all-MiniLM-L6-v2.")
    ] = None,
) -> None:
    """Train a judge on responses that people scored for harm, and print out-of-fold figures."""
    from udasa.trained_judge import ENCODER
    from udasa.trained_judge import train as run_train

    quiet_libraries()
    done = run_train(data, output, encoder=_encoder(encoder) if encoder else ENCODER, progress=bars)
    ratings, figures = done.ratings, done.figures
    groups = len(set(ratings.groups.tolist()))
    shown = table("figure", "judge", "95 % interval", "plain ridge", title="Out of fold, nested, grouped by prompt")
    for name, estimate, plain in (
        ("AUC, mean score >= 0.5", figures.auc, figures.baseline_auc),
        ("Spearman with mean score", figures.spearman, figures.baseline_spearman),
        ("calibration error", figures.calibration_error, None),
    ):
        shown.add_row(name, _value(estimate), _interval(estimate), _value(plain) if plain else "")
    out.print(shown)
    left_out = f"; {ratings.left_out} rows without a prompt, a response or a score left out" if ratings.left_out else ""
    out.print(f"{len(ratings.rows)} responses in {groups} groups{left_out}", highlight=False, soft_wrap=True)
    out.print(f"Judge: {output}", highlight=False, soft_wrap=True)
    out.print("It must not score the evaluation of what it helps to train.", highlight=False, soft_wrap=True)


@judge.command()
def audit(
    data: Data,
    folder: Annotated[
        Path | None, typer.Option("--judge", help="A trained judge; its out-of-fold answers are audited.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe whose judge reads its constitution.")] = None,
    limit: Annotated[int | None, typer.Option(min=20, help="At most this many responses, by hash.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the figures as JSON.")] = None,
) -> None:
    """Hold judges against people: harm found, position bias, uncertainty where raters disagree."""
    from udasa import judge_audit, ratings, run
    from udasa.backends import make_judge
    from udasa.recipe import load
    from udasa.trained_judge import read_out_of_fold

    if folder is None and recipe is None:
        raise UserError("There is no judge to audit. Give --judge FOLDER, --recipe NAME, or both.")
    quiet_libraries()
    rated = judge_audit.several_raters(ratings.read(data), limit)
    audits = {}
    if folder:
        audits["trained, out of fold"] = judge_audit.audit(read_out_of_fold(folder, rated), rated)
    if recipe:
        settings = load(recipe)
        if settings.judging.kind != "principles":
            raise UserError(
                f"The recipe '{recipe}' has a trained judge, which may have seen these responses. "
                "Audit it with --judge FOLDER, which reads its out-of-fold answers."
            )
        reader = make_judge(settings.judge_model, settings.judging.constitution)
        with bars("judge", len(rated.rows)) as report:
            answers = judge_audit.ask(reader, rated, report)
        audits[settings.judge_model.model] = judge_audit.audit(answers, rated)
    plain = judge_audit.baselines(rated)
    _print_audits(audits, plain)
    if output:
        facts = {"judges": judge_audit.to_dict(audits), "baselines": judge_audit.to_dict(plain)}
        run.write_file(output, (json.dumps(facts, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def _print_audits(audits: dict[str, "Audit"], plain: dict[str, "Estimate"]) -> None:
    shown = table("judge", "figure", "n", "value", "95 % interval", title="Harm, against the mean of the raters")
    for name, found in audits.items():
        for figure, estimate in (
            ("AUC of risk", found.harm_auc),
            ("Spearman of risk", found.harm_spearman),
            ("position bias", found.position_bias),
        ):
            shown.add_row(name, figure, str(estimate.n), _value(estimate), _interval(estimate))
    out.print(shown)
    shown = table(
        "judge", "uncertainty", "n", "Spearman", "95 % interval", title="Uncertainty, against the raters' disagreement"
    )
    for name, found in audits.items():
        for part, estimate in found.disagreement_spearman.items():
            shown.add_row(name, part, str(estimate.n), _value(estimate), _interval(estimate))
    for name, estimate in plain.items():
        shown.add_row("no judge", name, str(estimate.n), _value(estimate), _interval(estimate))
    out.print(shown)


def _value(estimate: "Estimate") -> str:
    return "not defined" if estimate.value is None else f"{estimate.value:.3f}"


def _interval(estimate: "Estimate") -> str:
    return "" if estimate.low is None else f"{estimate.low:.3f} to {estimate.high:.3f}"


def _encoder(name: str) -> "ModelSpec":
    from udasa.backends import ModelSpec

    model, _, revision = name.partition("@")
    return ModelSpec(model=model, revision=revision or None)
