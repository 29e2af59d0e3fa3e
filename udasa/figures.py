"""tables -> Altair charts -> SVG: few, with one palette, readable on white paper and on a dark page.

    to_svg(gap_chart(pairs, {"moderate": 0.1, "conservative": 0.3}))     # '<svg role="img" ...'

Colours are Okabe and Ito's (2008), which keep apart for colour-blind readers and in grey; the ground is transparent and
the text a grey with 4.5:1 contrast on white and on black.
"""

import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from udasa.schema import STAGES

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

STAGE_COLOURS = {"conservative": "#0072B2", "moderate": "#CC79A7", "exploratory": "#E69F00"}
"""Fill of a stage, wherever a stage is drawn."""

READING_COLOURS = {"better": "#0072B2", "worse": "#D55E00", "not told apart": "#767676"}
"""Colour of a difference, by what its interval says."""

ROLE_COLOURS = {"chosen": "#0072B2", "rejected": "#D55E00", "other": "#767676"}
"""Colour of an answer, by what became of it in its pair."""

UNITS = {"semantic_uncertainty": "0 to 1", "factual_uncertainty": "0 to 1", "value_uncertainty": "nats"}
"""Unit of each response-level uncertainty."""

_TOP = {"semantic_uncertainty": 1.0, "factual_uncertainty": 1.0, "value_uncertainty": float(np.log(2))}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_JOINER = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")
_INK = "#767676"
Chart = TypeVar("Chart", bound="alt.TopLevelMixin")

_FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
_WIDTH = 440
_BINS = 24


class Difference(Protocol):
    """A paired difference between two models on one metric, with its 95 % interval; `udasa.evaluate` makes them."""

    @property
    def task(self) -> str: ...  # noqa: D102
    @property
    def metric(self) -> str: ...  # noqa: D102
    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def before(self) -> float: ...  # noqa: D102
    @property
    def after(self) -> float: ...  # noqa: D102
    @property
    def delta(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102
    @property
    def higher_is_better(self) -> bool: ...  # noqa: D102


def reading(difference: Difference) -> str:
    """Return `better`, `worse` or, when the interval holds 0, `not told apart`."""
    if difference.low <= 0 <= difference.high:
        return "not told apart"
    return "better" if (difference.delta > 0) == difference.higher_is_better else "worse"


def visible(text: str) -> str:
    """Replace control and format characters (bidi controls, zero-width) by their code points in brackets.

    Newlines and tabs stay, and so do the joiners between two letters of a script that needs them.
    """
    text = text.replace("\r\n", "\n")
    kept = {match.start() for match in _JOINER.finditer(text)}
    return "".join(
        f"[U+{ord(c):04X}]" if unicodedata.category(c) in _HIDDEN and c not in "\n\t" and i not in kept else c
        for i, c in enumerate(text)
    )


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
    return _styled(alt.vconcat(*charts, spacing=24), "Distributions of the three uncertainties over the responses")


def _panel(values: "pl.Series", top: float, unit: str) -> "alt.LayerChart":
    import altair as alt

    name = values.name.replace("_", " ")
    present = values.drop_nulls()
    title = f"{name.capitalize()}, n = {len(present)} responses"
    if values.null_count():
        title += f", {values.null_count()} null"
    domain = [0, max(top, _most(present))]
    bars = _chart(_histogram({name: present}, domain[1])).mark_rect(color=STAGE_COLOURS["conservative"])
    middle = [float(np.median(present.to_numpy()))] if len(present) else []
    rule = _chart([{"low": median, "label": f"median {median:.2f}"} for median in middle])
    layers = (
        bars.encode(
            x=_x(f"{name} ({unit})", domain), x2="high:Q", y=_counts("responses", 3), y2="end:Q",
            tooltip=_bin("responses"),
        ),
        rule.mark_rule(color=_INK, strokeDash=[4, 3], strokeWidth=1.5).encode(x="low:Q"),
        rule.mark_text(align="left", dx=5, y=-7).encode(x="low:Q", text="label:N"),
    )  # fmt: skip
    return _layers(*layers).properties(title=alt.Title(title, offset=14), width=_WIDTH, height=80)


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
        _chart(rows)
        .mark_rect()
        .encode(
            x=_x(title, [0, top]), x2="high:Q", y=y, y2="end:Q", color=_stage_colour(),
            tooltip=[alt.Tooltip("stage:N"), *_bin("pairs")],
        ),
        _chart(rules).mark_rule(color=_INK, strokeDash=[4, 3], strokeWidth=1.5).encode(x="low:Q"),
    ]  # fmt: skip
    for rule, limit in zip(rules, (0.6 * top, 0.4 * top), strict=True):
        mark = _chart([rule])
        right_of_it = rule["low"] < limit
        text = mark.mark_text(align="left", dx=5) if right_of_it else mark.mark_text(align="right", dx=-5)
        layers.append(text.encode(x="low:Q", y=alt.Y("row:Q", title="pairs"), text="label:N"))
    chart = _layers(*layers).properties(width=_WIDTH, height=190)
    named = chart.properties(title=f"Uncertainty gap by stage, n = {pairs.height} pairs")
    return _styled(named, "Distribution of the uncertainty gap over the pairs, by stage")


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
        _chart(rows)
        .mark_bar(height={"band": 0.72})
        .encode(x=x, x2="end:Q", y=y, color=_stage_colour(), tooltip=["task:N", "stage:N", "pairs:Q"]),
        _chart(rows)
        .mark_text(fontWeight="bold")
        .encode(
            x="middle:Q", y=y, text="pairs:Q",
            color=alt.condition("datum.stage == 'conservative'", alt.value("#ffffff"), alt.value("#111111")),
        ),
    )  # fmt: skip
    chart = _layers(*layers).properties(width=_WIDTH - 60, height=alt.Step(30))
    return _styled(chart.properties(title=f"Stages by task, n = {count} pairs"), "Pairs in each stage, by task")


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
    return _styled(chart, "The three uncertainties against each other, a point an answer")


def forest_chart(differences: Sequence[Difference]) -> "alt.VConcatChart":
    """Return the paired differences with their 95 % intervals: a panel a metric, since metrics have their own units."""
    import altair as alt

    panels: Sequence[Any] = [
        _forest([d for d in differences if d.metric == metric], metric)
        for metric in sorted({d.metric for d in differences})
    ]
    return _styled(alt.vconcat(*panels, spacing=18), "Paired differences, after minus before, with 95 % intervals")


def _forest(differences: Sequence[Difference], metric: str) -> "alt.LayerChart":
    import altair as alt

    rows: list[dict[str, Any]] = [
        {
            "row": f"{visible(d.task)} (n = {d.n})", "delta": d.delta, "low": d.low, "high": d.high,
            "label": f"{d.delta:+.3f}", "reading": reading(d),
        }
        for d in differences
    ]  # fmt: skip
    wish = "higher is better" if differences[0].higher_is_better else "lower is better"
    readings = list(READING_COLOURS)
    colour = alt.Color("reading:N", scale=alt.Scale(domain=readings, range=list(READING_COLOURS.values())), title=None)
    shape = alt.Shape("reading:N", scale=alt.Scale(domain=readings, range=["circle", "square", "diamond"]), title=None)
    reach = max(max(abs(row["low"]), abs(row["high"])) for row in rows) * 1.08 or 1.0
    x = _x("after − before, with its 95 % interval", [-reach, reach])
    y = alt.Y("row:N", title=None, sort=None)
    layers = (
        _chart([{"low": 0}]).mark_rule(color=_INK, strokeDash=[4, 3]).encode(x="low:Q"),
        _chart(rows).mark_rule(strokeWidth=2).encode(x=x, x2="high:Q", y=y, color=colour),
        _chart(rows).mark_point(filled=True, size=90, opacity=1).encode(x="delta:Q", y=y, color=colour, shape=shape),
        _chart(rows).mark_text(dy=-11).encode(x="delta:Q", y=y, text="label:N"),
    )
    title = f"{visible(metric)} ({wish})"
    return _layers(*layers).properties(title=title, width=_WIDTH - 150, height=alt.Step(36))


def to_svg(chart: "alt.TopLevelMixin") -> str:
    """Return a chart as one SVG element: the same bytes for the same chart, no reference to anything outside it.

    Vega numbers its clip paths over the life of the process; here they are numbered within the chart and carry its
    digest, so that several charts can stand in one page.
    """
    import vl_convert

    drawing = chart.to_dict()
    spec = json.dumps(drawing, sort_keys=True)
    svg: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    key = hashlib.sha256(spec.encode()).hexdigest()[:8]
    numbers = {name: f"c{key}-{i}" for i, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', svg)))}
    svg = re.sub(r'\bid="([^"]+)"', lambda m: f'id="{numbers[m[1]]}"', svg)
    svg = re.sub(r"url\(#([^)\"]+)\)", lambda m: f"url(#{numbers.get(m[1], m[1])})", svg)
    label = html.escape(str(drawing.get("description", "chart")))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


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


def _x(title: str, domain: list[float]) -> "alt.X":
    import altair as alt

    return alt.X("low:Q", title=title, scale=alt.Scale(domain=domain, nice=False), axis=alt.Axis(tickCount=6))


def _counts(title: str, ticks: int, domain: list[float] | None = None) -> "alt.Y":
    import altair as alt

    scale = alt.Scale(domain=domain, nice=False) if domain else alt.Scale()
    return alt.Y("start:Q", title=title, scale=scale, axis=alt.Axis(tickCount=ticks, tickMinStep=1, format="d"))


def _most(values: "pl.Series") -> float:
    return float(values.to_numpy().max(initial=0))


def _chart(rows: Iterable[Mapping[str, Any]]) -> "alt.Chart":
    import altair as alt

    return alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))


def _layers(*layers: "alt.Chart") -> "alt.LayerChart":
    import altair as alt

    chart: alt.LayerChart = alt.LayerChart(layer=list(layers))
    return chart


def _stage_colour() -> "alt.Color":
    import altair as alt

    return alt.Color(
        "stage:N", scale=alt.Scale(domain=list(STAGE_COLOURS), range=list(STAGE_COLOURS.values())), title=None
    )


def _styled(chart: Chart, description: str) -> Chart:
    """Apply the one look: transparent ground, grey text of 12 to 14 px, no frame, few grid lines, the legend on top."""
    plain: Any = chart
    room = {"left": 14, "right": 22, "top": 4, "bottom": 4}
    styled: Chart = (
        plain.properties(description=description, background="transparent", padding=room)
        .configure(font=_FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=_INK, titleColor=_INK, labelFontSize=12, titleFontSize=12, titleFontWeight="normal",
            domainColor=_INK, tickColor=_INK, gridColor=_INK, gridOpacity=0.18, titlePadding=8, labelLimit=240,
        )
        .configure_title(
            color=_INK, fontSize=14, fontWeight="bold", anchor="start", frame="group", limit=_WIDTH, subtitleColor=_INK
        )
        .configure_legend(
            orient="top", labelColor=_INK, labelFontSize=12, symbolType="square", symbolSize=110, columnPadding=18
        )
        .configure_text(fontSize=12, color=_INK)
    )  # fmt: skip
    return styled
