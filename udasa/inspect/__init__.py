"""A build or a release -> one HTML page to look at it: figures, and every pair with all its answers and why.

    page = render_page(open_target("org/udasa-pairs@v1.0.0"), against=open_target("org/udasa-pairs@v0.9.0"))

The page opens from disk and asks the network for nothing. Model texts are hostile until shown otherwise: they stand in
a JSON island that cannot end its element, they enter the document as text only, and the page's policy runs no script
but its own two, by their hashes.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup

from udasa import figures, report, resources
from udasa.inspect.correlations import COLUMNS, Correlation, correlate
from udasa.inspect.rows import BUDGET, OTHER_SCORES, Context, choose, island, shown
from udasa.inspect.targets import Target, open_target
from udasa.inspect.versions import Versions, compare
from udasa.recipe import Pairing, Weights

__all__ = ["Target", "open_target", "render_page"]

POINTS = 1500
"""Answers drawn as points in the scatter plots."""

_DROPPED = 200


def render_page(target: Target, against: Target | None = None, budget: int = BUDGET) -> str:
    """Return the page.

    Args:
        target: what is looked at.
        against: an older version to compare with.
        budget: bytes of pairs that the page may hold, roughly; the rest is left out, and said to be.
    """
    manifest = target.manifest
    weights = Weights(**manifest["recipe"]["weights"])
    answers = report.rank_shares(target.responses, weights)
    versions = compare(target.opened, against.opened) if against else None
    findings = {found["name"]: set(found["examples"]) for found in manifest.get("findings", ())}
    held = choose(target.pairs, answers, _named(answers, findings), budget)
    context = Context(
        weights, Pairing(**manifest["recipe"]["pairing"]), manifest["thresholds"], findings,
        versions.by_prompt if versions else {},
    )  # fmt: skip
    data = {
        "pairs": list(shown(held, answers, context)),
        "num_main": len(report.SCORES),
        "scores": [[name, report.words(name), report.unit(name)] for name in (*report.SCORES, *OTHER_SCORES)],
        "principles": [figures.visible(p["id"]) for p in manifest["recipe"].get("judging", {}).get("constitution", ())],
        "thresholds": manifest["thresholds"],
        "risk_ceiling": context.pairing.risk_ceiling,
        "charts": _charts(target, answers, against),
    }
    correlations = correlate(answers)
    data["charts"]["correlations"] = _scatter(target.pairs, answers, correlations)
    return _page(target, against, versions, correlations, held, data)


def _page(
    target: Target,
    against: Target | None,
    versions: Versions | None,
    correlations: list[Correlation],
    held: pl.DataFrame,
    data: Mapping[str, Any],
) -> str:
    import vl_convert

    shelf = resources.shelf("cards")
    css = "".join((shelf / name).read_text(encoding="utf-8") for name in ("report.css", "inspect.css"))
    library: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    script = (shelf / "inspect.js").read_text(encoding="utf-8")
    ledger = target.ledger
    dropped = ledger.filter(pl.col("outcome") != "paired")
    return report.render(
        "inspect.html.j2",
        css=Markup(css),
        library=Markup(library),
        script=Markup(script),
        policy=report.policy(css, library, script),
        island=Markup(island(data)),
        m=target.manifest,
        name=target.name,
        against=against,
        versions=versions,
        correlations=correlations,
        num_held=held.height,
        num_points=min(POINTS, target.manifest["counts"]["responses"]),
        outcomes=report.outcomes(ledger),
        dropped=dropped.head(_DROPPED).to_dicts(),
        num_dropped=dropped.height,
    )


def _named(answers: pl.DataFrame, findings: Mapping[str, set[str]]) -> set[str]:
    """Return the prompts of the pairs that a finding names, by the prompt's id or a response's."""
    ids = pl.Series(sorted(set().union(*findings.values())), dtype=pl.String).implode()
    found = answers.filter(pl.col("prompt_id").is_in(ids) | pl.col("response_id").is_in(ids))
    return set(found["prompt_id"])


def _charts(target: Target, answers: pl.DataFrame, against: Target | None) -> dict[str, Any]:
    """Return the Vega-Lite specifications by name; histograms are counted here, over everything."""
    gap = figures.gap_chart(target.pairs, target.manifest["thresholds"]).to_dict()
    gap["layer"][0]["params"] = [{"name": "brush", "select": {"type": "interval", "encodings": ["x"]}}]
    charts = {
        "uncertainties": figures.uncertainty_chart(target.responses).to_dict(),
        "gap": gap,
        "stages": figures.stage_chart(target.manifest["tasks"]).to_dict(),
    }
    if against:
        charts["against"] = figures.gap_chart(against.pairs, against.manifest["thresholds"]).to_dict()
    return charts


def _scatter(pairs: pl.DataFrame, answers: pl.DataFrame, correlations: list[Correlation]) -> dict[str, Any]:
    """Draw the answers of the prompts with the smallest hashes, up to `POINTS`."""
    roles = pl.concat(
        [pairs.select(response_id=f"{side}_id").with_columns(role=pl.lit(side)) for side in ("chosen", "rejected")]
    )
    points = (
        answers.sort(pl.col("response_id").hash(0), "response_id")
        .head(POINTS)
        .join(roles, on="response_id", how="left", maintain_order="left")
        .select(*(pl.col(name).round(4) for name in COLUMNS), pl.col("role").fill_null("other"))
    )
    labels = {
        (c.x, c.y): f"rank correlation {_signed(c.rho)} ({_signed(c.low)} to {_signed(c.high)})" for c in correlations
    }
    return figures.scatter_chart(points.to_dicts(), labels).to_dict()


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"
