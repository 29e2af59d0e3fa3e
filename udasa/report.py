"""A build, and what was trained and measured on it -> one HTML page that needs no network and no script.

Model texts are hostile until shown otherwise: they are escaped, their bidi and zero-width characters are made visible,
and the page's own policy forbids scripts, network and any style but its own.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from udasa import figures, maps, resources, schema
from udasa.calibrate import calibrate
from udasa.cards import number, public_name
from udasa.cards.columns import MEANINGS
from udasa.cards.layout import human_labels
from udasa.figures import Difference, reading, visible
from udasa.maps import Maps
from udasa.recipe import Measures, Weights

SCORES = (*(f"{dimension}_uncertainty" for dimension in schema.DIMENSIONS), "value_risk", "u")
"""The numbers shown for an answer, in the order of the page."""

_TOPS = {"value_uncertainty": 0.6931471805599453}
_LEDGER_ROWS = 200
_SCROLLS = 700


def render_report(
    manifest: Mapping[str, Any],
    pairs: pl.DataFrame,
    responses: pl.DataFrame,
    ledger: pl.DataFrame,
    comparison: Sequence[Difference] | None = None,
    training: Mapping[str, Any] | None = None,
    examples_per_stage: int = 4,
) -> str:
    """Return the page.

    Args:
        manifest: what `udasa.publish` wrote.
        pairs: `schema.PAIRS`.
        responses: `schema.SCORED`: a row a prompt, with all its answers.
        ledger: `schema.LEDGER`.
        comparison: paired differences after and before training, if they were measured.
        training: what `udasa.train` wrote, if a model was trained.
        examples_per_stage: pairs to show of each stage, evenly spaced by gap.
    """
    weights = Weights(**manifest["recipe"]["weights"])
    measures = Measures(**manifest["recipe"].get("measures", {}))
    answers = answers_by_prompt(responses, weights, measures, maps.recorded(manifest))
    css = (resources.shelf("cards") / "report.css").read_text(encoding="utf-8")
    return render(
        "report.html.j2",
        css=Markup(css),
        policy=policy(css),
        m=manifest,
        stages=schema.STAGES,
        outcomes=outcomes(ledger),
        dropped=ledger.filter(pl.col("outcome") != "paired").head(_LEDGER_ROWS).to_dicts(),
        num_dropped=ledger.filter(pl.col("outcome") != "paired").height,
        charts=_charts(manifest, pairs, responses, comparison or ()),
        comparison=[(d, reading(d), explain_difference(d)) for d in comparison or ()],
        summary=summarise(comparison or ()),
        training=training,
        scores=SCORES,
        examples={
            stage: [
                _example(row, answers, weights, manifest["thresholds"]) for row in _spaced(rows, examples_per_stage)
            ]
            for stage in schema.STAGES
            for rows in [pairs.filter(pl.col("stage") == stage)]
        },
    )


def explain_stage(stage: str, gap: float, thresholds: Mapping[str, float], shares: Mapping[str, float]) -> str:
    """Say why a pair is in its stage, and which dimension made most of its gap.

    Args:
        stage: the pair's stage.
        gap: u(rejected) - u(chosen).
        thresholds: the smallest gap of `moderate` and of `conservative`.
        shares: what each dimension adds to the gap; their sum is the gap.
    """
    moderate, conservative = thresholds["moderate"], thresholds["conservative"]
    why = {
        "conservative": f"is at least {conservative:.3f}, where conservative begins",
        "moderate": f"is at least {moderate:.3f}, where moderate begins, and below {conservative:.3f}",
        "exploratory": f"is below {moderate:.3f}, where moderate begins",
    }[stage]
    first, *rest = sorted(shares, key=lambda name: -shares[name])
    others = ", ".join(f"{name} {shares[name]:+.3f}" for name in rest)
    most = f"{first} uncertainty contributes most, {shares[first]:+.3f}" + (f" ({others})" if others else "")
    return f"{stage.capitalize()}, because the gap of {gap:.3f} {why}; {most}."


def explain_difference(difference: Difference) -> str:
    """Say in words what a paired difference and its interval show."""
    verdict = reading(difference)
    if verdict == "not told apart":
        return f"No difference can be told apart from noise at n = {difference.n}."
    return f"{verdict.capitalize()}: the interval leaves out 0 at n = {difference.n}."


def summarise(comparison: Sequence[Difference]) -> str:
    """Count the readings of all differences, in one sentence."""
    verdicts = [reading(d) for d in comparison]
    better, worse, same = (verdicts.count(v) for v in figures.READING_COLOURS)
    return (
        f"Of {len(verdicts)} comparison{'' if len(verdicts) == 1 else 's'}, {better} {_are(better)} better, "
        f"{worse} {_are(worse)} worse, "
        f"and {same} cannot be told apart from noise."
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def rank_shares(
    responses: pl.DataFrame, weights: Weights, measures: Measures | None = None, fitted: Maps | None = None
) -> pl.DataFrame:
    """Return one row per answer with `u` and, as the column of each weighted dimension, its share by `calibrate`."""
    answers = calibrate(responses.select(schema.SCORED.names).to_arrow(), weights, measures, fitted)
    return answers.rename({f"{d}_share": d for d in schema.DIMENSIONS if f"{d}_share" in answers.columns})


def contributions(chosen: Mapping[str, Any], rejected: Mapping[str, Any], weights: Weights) -> dict[str, float]:
    """Return what each dimension adds to the gap of two answers of `rank_shares`; the sum is the gap."""

    def parts(answer: Mapping[str, Any]) -> dict[str, float]:
        present = {d: getattr(weights, d) for d in schema.DIMENSIONS if answer.get(d) is not None}
        return {d: weight * answer[d] / sum(present.values()) for d, weight in present.items()}

    low, high = parts(chosen), parts(rejected)
    return {d: high.get(d, 0.0) - low.get(d, 0.0) for d in schema.DIMENSIONS if d in low or d in high}


def answers_by_prompt(
    responses: pl.DataFrame, weights: Weights, measures: Measures | None = None, fitted: Maps | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return prompt id -> response id -> the answer with its scores, rank shares and u."""
    answers: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rank_shares(responses, weights, measures, fitted).iter_rows(named=True):
        answers.setdefault(row["prompt_id"], {})[row["response_id"]] = row
    return answers


def _spaced(pairs: pl.DataFrame, count: int) -> Iterator[dict[str, Any]]:
    """Yield up to `count` pairs, evenly spaced from the largest gap to the smallest: nobody picks them."""
    rows = pairs.sort(-pl.col("gap"), "prompt_id")
    count = min(count, rows.height)
    for index in range(count):
        yield rows.row(index * (rows.height - 1) // max(count - 1, 1), named=True)


def _example(
    pair: Mapping[str, Any],
    answers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    weights: Weights,
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """Gather what the page shows of one pair."""
    mine = answers[pair["prompt_id"]]
    chosen, rejected = mine[pair["chosen_id"]], mine[pair["rejected_id"]]
    shares = contributions(chosen, rejected, weights)
    sides = {"chosen": {**chosen, "u": pair["u_chosen"]}, "rejected": {**rejected, "u": pair["u_rejected"]}}
    others = [a for key, a in mine.items() if key not in (pair["chosen_id"], pair["rejected_id"])]
    return {
        "pair": pair,
        "sides": sides,
        "shares": {f"{name}_uncertainty": share for name, share in shares.items()} | {"u": pair["gap"]},
        "why": explain_stage(pair["stage"], pair["gap"], thresholds, shares),
        "others": sorted(others, key=lambda a: (a["u"] is None, a["u"])),
    }


def outcomes(ledger: pl.DataFrame) -> list[tuple[str, int, str]]:
    """Return each outcome that occurs, its count and its meaning, in the order of `schema.OUTCOMES`."""
    counts = dict(ledger.group_by("outcome").len().iter_rows())
    return [(name, counts[name], meaning) for name, meaning in schema.OUTCOMES.items() if name in counts]


def _charts(
    manifest: Mapping[str, Any], pairs: pl.DataFrame, responses: pl.DataFrame, comparison: Sequence[Difference]
) -> dict[str, Markup]:
    charts: dict[str, Any] = {
        "stages": figures.stage_chart(manifest["tasks"]),
        "uncertainties": figures.uncertainty_chart(responses),
        "gap": figures.gap_chart(pairs, manifest["thresholds"]),
    }
    if comparison:
        charts["forest"] = figures.forest_chart(comparison)
    return {name: Markup(figures.to_svg(chart)) for name, chart in charts.items()}


def policy(css: str, *scripts: str) -> str:
    """Return a page's content security policy: nothing but this one style sheet and these scripts, by their hashes."""
    run = f"script-src {' '.join(map(_hash, scripts))}; " if scripts else ""
    return f"default-src 'none'; {run}style-src {_hash(css)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(template: str, **values: Any) -> str:
    """Return a page of the shelf `cards`: every value escaped, its hidden characters made visible."""
    env = Environment(
        loader=FileSystemLoader(resources.shelf("cards")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals |= {"STAGES": schema.STAGES, "SPLITS": schema.SPLITS}
    env.filters |= {"bar": _bar, "first_line": _first_line, "focusable": _focusable, "number": number}
    env.filters |= {
        "public_name": public_name,
        "human_labels": human_labels,
        "signed": "{:+.3f}".format,
        "unit": unit,
        "words": words,
    }
    return env.get_template(template).render(**values) + "\n"


def _printed(value: Any) -> Any:
    """Make hidden characters visible in whatever the page prints."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return number(value) if value is None or isinstance(value, float) else value


def words(name: str) -> str:
    """Return a column's name as a reader says it."""
    return name.replace("_", " ")


def _first_line(text: str) -> str:
    """Return the first line of a text that has words in it, cut to what fits a heading."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or ["(empty)"])[0][:120]


def _focusable(text: str) -> Markup:
    """Let the keyboard reach a box whose text is long enough to scroll."""
    return Markup(' tabindex="0"' if len(text) > _SCROLLS or text.count("\n") > _SCROLLS // 100 else "")


def unit(name: str) -> str:
    """Return the unit of a measured column, or nothing for a count or a name."""
    return MEANINGS["u_chosen" if name == "u" else name][1]


def _bar(value: float | None, column: str) -> Markup:
    """Return a bar as long as the value is large; nothing for no value. It repeats the number beside it."""
    if value is None:
        return Markup()
    width = round(100 * min(max(value / _TOPS.get(column, 1.0), 0.0), 1.0), 1)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="6"/><rect class="fill" width="{width}" height="6"/></svg>'
    )
