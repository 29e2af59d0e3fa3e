"""Commands about how far numbers can be trusted: audit consistency, audit stability, calibrate."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from udasa.cli.terminal import app, bars, out, quiet_libraries, table
from udasa.errors import UserError

if TYPE_CHECKING:
    from udasa.audit import PairChanges
    from udasa.statistics import Estimate

group = typer.Typer(no_args_is_help=True, help="How far a build's uncertainties and pairs come out the same again.")
app.add_typer(group, name="audit")

BuildFolder = Annotated[Path, typer.Argument(help="A finished build.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@group.command()
def consistency(
    build: BuildFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for both scorings and consistency.json.")],
    seed: Annotated[int, typer.Option(help="Seed of the second scoring.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Score the same responses twice, and with less evidence: rank correlations, pairs and stages."""
    from udasa.audit import consistency as run_consistency

    quiet_libraries()
    found = run_consistency(build, output, seed, bars)
    if as_json:
        print((output / "consistency.json").read_text(encoding="utf-8"), end="")
        return
    out.print(f"{found.prompts} prompts, {found.responses} responses, seed {found.seed}", highlight=False)
    for comparison in found.comparisons:
        out.print(f"\n{comparison.name}: {comparison.varied}", highlight=False, soft_wrap=True)
        _print_correlations(comparison.spearman, comparison.largest_difference)
        _print_changes(comparison.pairs)
    out.print(f"Audit: {output / 'consistency.json'}", highlight=False, soft_wrap=True)


@group.command()
def stability(
    build: BuildFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for stability.json, and the new build.")],
    against: Annotated[Path | None, typer.Option(help="Another finished build over the same prompts.")] = None,
    seed: Annotated[int | None, typer.Option(help="Build again with this seed, into OUTPUT/build.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the pairs of two builds over the same prompts: kept, flipped, replaced, dropped, moved."""
    from udasa.audit import resample
    from udasa.audit import stability as run_stability

    if (against is None) == (seed is None):
        raise UserError("Give either --against, a build to compare with, or --seed, to build again with another seed.")
    quiet_libraries()
    other = against if against is not None else resample(build, output / "build", seed or 0, bars)
    found = run_stability(build, other, output)
    if as_json:
        print((output / "stability.json").read_text(encoding="utf-8"), end="")
        return
    alone = f"{found.only_before} only in the first, {found.only_after} only in the second"
    out.print(f"{found.prompts} prompts in both builds; {alone}", highlight=False, soft_wrap=True)
    for difference in found.differs:
        out.print(f"differs: {difference}", highlight=False, markup=False, soft_wrap=True)
    _print_correlations(found.spearman, {})
    _print_changes(found.pairs)
    out.print(f"Audit: {output / 'stability.json'}", highlight=False, soft_wrap=True)


@app.command()
def calibrate(
    data: Annotated[Path, typer.Argument(help="Labelled responses: .jsonl, .csv or .parquet, a row a response.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON file for the maps.")],
    label: Annotated[str, typer.Option(help="Column with the label: 1 a failure, 0 none, or a rate.")] = "label",
    column: Annotated[list[str] | None, typer.Option(help="Raw uncertainty to map; repeatable. Default: all.")] = None,
    groups: Annotated[str | None, typer.Option(help="Column of rows that belong together; default prompt_id.")] = None,
) -> None:
    """Fit isotonic maps from raw uncertainty to P(failure), with their held-out calibration error."""
    from udasa import maps

    fitted = maps.fit_file(data, label, column or (), groups)
    digest = maps.save(fitted, output)
    shown = table("column", "n", "missing", "knots", "held-out ECE", "95 % interval", title="Maps")
    for name, one in fitted.maps.items():
        ends = f"{one.ece_low:.3f} to {one.ece_high:.3f}"
        shown.add_row(name, str(one.n), str(one.missing), str(len(one.x)), f"{one.ece:.3f}", ends)
    out.print(shown)
    out.print("In the recipe:", highlight=False)
    line = f'    calibration=Calibration(method="isotonic", maps="{output}", sha256="{digest}"),'
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_correlations(found: "Mapping[str, Estimate]", largest: Mapping[str, float]) -> None:
    head = ("number", "n", "Spearman", "95 % interval", *(["largest difference"] if largest else []))
    shown = table(*head, title="Rank correlation, first and second")
    for name, one in found.items():
        more = [f"{largest[name]:.2g}"] if largest else []
        shown.add_row(name, str(one.n), *_numbers(one, 3), *more)
    out.print(shown)


def _print_changes(found: "PairChanges") -> None:
    shown = table("what", "n", "share", "95 % interval", title=f"Pairs: {found.before} before, {found.after} after")
    names = ("kept", "flipped", "replaced", "dropped", "added", "reversed", "moved")
    for name in names:
        one: Estimate = getattr(found, name)
        shown.add_row({"moved": "moved stage"}.get(name, name), str(one.n), *_numbers(one, 3))
    out.print(shown)


def _numbers(one: "Estimate", digits: int) -> tuple[str, str]:
    if one.value is None:
        return "-", "-"
    return f"{one.value:.{digits}f}", f"{one.low:.{digits}f} to {one.high:.{digits}f}"
