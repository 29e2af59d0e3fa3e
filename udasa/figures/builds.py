"""A build's tables -> charts: distributions, gaps, stages, the three uncertainties against each other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from udasa.figures.style import INK, ROLE_COLOURS, STAGE_COLOURS, WIDTH, layered, of_rows, styled, visible, x_axis
from udasa.schema import STAGES

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

UNITS = {"semantic_uncertainty": "0 to 1", "factual_uncertainty": "0 to 1", "value_uncertainty": "nats"}
"""Unit of each response-level uncertainty."""

_TOP = {"semantic_uncertainty": 1.0, "factual_uncertainty": 1.0, "value_uncertainty": float(np.log(2))}

_BINS = 24


def uncertainty_chart(responses: "pl.DataFrame") -> "alt.VConcatChart":
    """Return the distribution of the three uncertainties over all responses, the median marked.

    Args:
        responses: `schema.SCORED`: a row a prompt, its responses a list of structs.
    """
    import altair as alt
    import polars as pl

    scored = responses.select(pl.col("responses").explode()).unnest("responses").drop_nulls("response_id")
    panels = [_panel(scored[column], _TOP[column], UNITS[column]) for column in UNITS]
    charts: Sequence[Any] = panels
    return styled(alt.vconcat(*charts, spacing=24), "Distributions of the three uncertainties over the responses")


def _panel(values: "pl.Series", top: float, unit: str) -> "alt.LayerChart":
    import altair as alt

    name = values.name.replace("_", " ")
    present = values.drop_nulls()
    title = f"{name.capitalize()}, n = {len(present)} responses"
    if values.null_count():
        title += f", {values.null_count()} null"
    domain = [0, max(top, _most(present))]
    bars = of_rows(_histogram({name: present}, domain[1])).mark_rect(color=STAGE_COLOURS["conservative"])
    middle = [float(np.median(present.to_numpy()))] if len(present) else []
    rule = of_rows([{"low": median, "label": f"median {median:.2f}"} for median in middle])
    layers = (
        bars.encode(
            x=x_axis(f"{name} ({unit})", domain), x2="high:Q", y=_counts("responses", 3), y2="end:Q",
            tooltip=_bin("responses"),
        ),
        rule.mark_rule(color=INK, strokeDash=[4, 3], strokeWidth=1.5).encode(x="low:Q"),
        rule.mark_text(align="left", dx=5, y=-7).encode(x="low:Q", text="label:N"),
    )  # fmt: skip
    return layered(*layers).properties(title=alt.Title(title, offset=14), width=WIDTH, height=80)


def gap_chart(pairs: "pl.DataFrame", thresholds: Mapping[str, float]) -> "alt.LayerChart":
    """Return the distribution of the gap over the pairs, coloured by stage, a rule at each threshold.

    Args:
        pairs: `schema.PAIRS`.
        thresholds: the smallest gap of `moderate` and of `conservative`.
    """
    import altair as alt

    top = max([_most(pairs["gap"]), *thresholds.values(), 1e-9])
    rows = _histogram({stage: pairs.filter(pairs["stage"] == stage)["gap"] for stage in STAGES}, top)
    highest = max([row["end"] for row in rows], default=1)
    rules: list[dict[str, Any]] = [
        {
            "low": thresholds[stage],
            "label": f"{stage} from {thresholds[stage]:.3f}",
            "row": highest * (1.36 - 0.14 * row),
        }
        for row, stage in enumerate(("conservative", "moderate"))
    ]
    title = "gap: u(rejected) − u(chosen), 0 to 1"
    y = _counts("pairs", 5, [0, highest * 1.42])
    layers = [
        of_rows(rows)
        .mark_rect()
        .encode(
            x=x_axis(title, [0, top]), x2="high:Q", y=y, y2="end:Q", color=_stage_colour(),
            tooltip=[alt.Tooltip("stage:N"), *_bin("pairs")],
        ),
        of_rows(rules).mark_rule(color=INK, strokeDash=[4, 3], strokeWidth=1.5).encode(x="low:Q"),
    ]  # fmt: skip
    for rule, limit in zip(rules, (0.6 * top, 0.4 * top), strict=True):
        mark = of_rows([rule])
        right_of_it = rule["low"] < limit
        text = mark.mark_text(align="left", dx=5) if right_of_it else mark.mark_text(align="right", dx=-5)
        layers.append(text.encode(x="low:Q", y=alt.Y("row:Q", title="pairs"), text="label:N"))
    chart = layered(*layers).properties(width=WIDTH, height=190)
    named = chart.properties(title=f"Uncertainty gap by stage, n = {pairs.height} pairs")
    return styled(named, "Distribution of the uncertainty gap over the pairs, by stage")


def stage_chart(tasks: Mapping[str, Mapping[str, int]]) -> "alt.LayerChart":
    """Return how many pairs of each task are in each stage.

    Args:
        tasks: task -> stage -> pairs, as the manifest has it.
    """
    import altair as alt

    rows: list[dict[str, Any]] = []
    for task, counts in sorted(tasks.items()):
        end = 0
        for order, stage in enumerate(STAGES):
            start, end = end, end + counts.get(stage, 0)
            if end > start:
                values = {"task": visible(task), "stage": stage, "pairs": end - start, "order": order}
                rows.append({**values, "start": start, "end": end, "middle": (start + end) / 2})
    x = alt.X("start:Q", title="pairs", axis=alt.Axis(tickCount=5, tickMinStep=1, format="d"))
    y = alt.Y("task:N", title=None, sort=None)
    count = sum(row["pairs"] for row in rows)
    layers = (
        of_rows(rows)
        .mark_bar(height={"band": 0.72})
        .encode(x=x, x2="end:Q", y=y, color=_stage_colour(), tooltip=["task:N", "stage:N", "pairs:Q"]),
        of_rows(rows)
        .mark_text(fontWeight="bold")
        .encode(
            x="middle:Q", y=y, text="pairs:Q",
            color=alt.condition("datum.stage == 'conservative'", alt.value("#ffffff"), alt.value("#111111")),
        ),
    )  # fmt: skip
    chart = layered(*layers).properties(width=WIDTH - 60, height=alt.Step(30))
    return styled(chart.properties(title=f"Stages by task, n = {count} pairs"), "Pairs in each stage, by task")


def scatter_chart(points: Sequence[Mapping[str, Any]], labels: Mapping[tuple[str, str], str]) -> "alt.ConcatChart":
    """Return a panel for each two uncertainties; what is brushed in one panel is marked in all.

    Args:
        points: an answer each, with the three uncertainties and `role`: `chosen`, `rejected` or `other`.
        labels: (x, y) -> the panel's subtitle.
    """
    import altair as alt

    interval: Any = alt.IntervalSelectionConfig(type="interval", resolve="global")
    views = [f"panel {number}" for number in range(len(labels))]
    brush = alt.TopLevelSelectionParameter(name="answers", select=interval, views=views)
    colour = alt.Color(
        "role:N", scale=alt.Scale(domain=list(ROLE_COLOURS), range=list(ROLE_COLOURS.values())), title=None
    )
    panels: list[Any] = []
    for view, ((x, y), subtitle) in zip(views, labels.items(), strict=True):
        axes = [
            channel(
                f"{name}:Q", title=f"{name.partition('_')[0]} ({UNITS[name]})", axis=alt.Axis(tickCount=4),
                scale=alt.Scale(domain=[0, max([_TOP[name], *(p[name] for p in points if p[name] is not None)])]),
            )
            for channel, name in ((alt.X, x), (alt.Y, y))
        ]  # fmt: skip
        title = alt.Title(f"{y.partition('_')[0]} by {x.partition('_')[0]}", subtitle=subtitle)
        chart = alt.Chart(name=view, title=title, width=190, height=190).mark_point(filled=True, size=22)
        tooltip = ["role:N", *(alt.Tooltip(f"{name}:Q", title=name.replace("_", " "), format=".3f") for name in UNITS)]
        shown = alt.condition(alt.ParameterPredicate(param="answers"), alt.value(0.75), alt.value(0.07))
        panels.append(chart.encode(x=axes[0], y=axes[1], color=colour, opacity=shown, tooltip=tooltip))
    rows = alt.InlineData(values=[dict(point) for point in points])
    chart = alt.concat(*panels, data=rows, columns=3, spacing=34, params=[brush])
    return styled(chart, "The three uncertainties against each other, a point an answer")


def _histogram(groups: "Mapping[str, pl.Series]", top: float) -> list[dict[str, Any]]:
    """Count values in equal bins from 0 to `top`, the groups stacked; a thin gap is left between bins."""
    edges = np.linspace(0, top, _BINS + 1)
    space = top / _BINS * 0.05
    floor = np.zeros(_BINS, dtype=np.int64)
    rows = []
    for name, values in groups.items():
        counts, _ = np.histogram(values.to_numpy(), edges)
        for index in np.flatnonzero(counts):
            low, high = edges[index] + space, edges[index + 1] - space
            start, end = int(floor[index]), int(floor[index] + counts[index])
            span = f"{edges[index]:.3f} to {edges[index + 1]:.3f}"
            row = {"stage": name, "low": low, "high": high, "start": start, "end": end}
            rows.append(row | {"span": span, "count": end - start})
        floor += counts
    return rows


def _bin(counted: str) -> "list[alt.Tooltip]":
    import altair as alt

    return [alt.Tooltip("span:N", title="from"), alt.Tooltip("count:Q", title=counted)]


def _counts(title: str, ticks: int, domain: list[float] | None = None) -> "alt.Y":
    import altair as alt

    scale = alt.Scale(domain=domain, nice=False) if domain else alt.Scale()
    return alt.Y("start:Q", title=title, scale=scale, axis=alt.Axis(tickCount=ticks, tickMinStep=1, format="d"))


def _most(values: "pl.Series") -> float:
    return float(values.to_numpy().max(initial=0))


def _stage_colour() -> "alt.Color":
    import altair as alt

    return alt.Color(
        "stage:N", scale=alt.Scale(domain=list(STAGE_COLOURS), range=list(STAGE_COLOURS.values())), title=None
    )
