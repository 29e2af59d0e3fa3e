"""Paired differences -> charts: a forest of intervals, and how a model refuses over its stages."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from udasa.figures.style import INK, READING_COLOURS, WIDTH, layered, of_rows, styled, visible, x_axis

if TYPE_CHECKING:
    import altair as alt


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


D = TypeVar("D", bound=Difference)


def reading(difference: Difference) -> str:
    """Return `better`, `worse` or, when the interval holds 0, `not told apart`."""
    if difference.low <= 0 <= difference.high:
        return "not told apart"
    return "better" if (difference.delta > 0) == difference.higher_is_better else "worse"


def forest_chart(
    differences: Sequence[D],
    label: Callable[[D], str] = lambda d: d.task,
    panel: Callable[[D], str] = lambda d: d.metric,
) -> "alt.VConcatChart":
    """Return the paired differences with their 95 % intervals.

    Args:
        differences: of any tasks and metrics.
        label: what stands beside a difference.
        panel: the panel that a difference is in, by its title: one a metric, since metrics have their own units.
    """
    import altair as alt

    panels: dict[tuple[str, bool], list[D]] = {}
    for d in differences:
        panels.setdefault((panel(d), d.higher_is_better), []).append(d)
    charts: Sequence[Any] = [_forest(panels[place], place[0], label) for place in sorted(panels)]
    return styled(alt.vconcat(*charts, spacing=18), "Paired differences, after minus before, with 95 % intervals")


def _forest(differences: Sequence[D], title: str, label: Callable[[D], str]) -> "alt.LayerChart":
    import altair as alt

    rows: list[dict[str, Any]] = [
        {
            "row": f"{visible(label(d))} (n = {d.n})", "delta": d.delta, "low": d.low, "high": d.high,
            "label": f"{d.delta:+.3f}", "reading": reading(d),
        }
        for d in differences
    ]  # fmt: skip
    wish = "higher is better" if differences[0].higher_is_better else "lower is better"
    readings = list(READING_COLOURS)
    colour = alt.Color("reading:N", scale=alt.Scale(domain=readings, range=list(READING_COLOURS.values())), title=None)
    shape = alt.Shape("reading:N", scale=alt.Scale(domain=readings, range=["circle", "square", "diamond"]), title=None)
    reach = max(max(abs(row["low"]), abs(row["high"])) for row in rows) * 1.08 or 1.0
    x = x_axis("after − before, with its 95 % interval", [-reach, reach])
    y = alt.Y("row:N", title=None, sort=None)
    layers = (
        of_rows([{"low": 0}]).mark_rule(color=INK, strokeDash=[4, 3]).encode(x="low:Q"),
        of_rows(rows).mark_rule(strokeWidth=2).encode(x=x, x2="high:Q", y=y, color=colour),
        of_rows(rows).mark_point(filled=True, size=90, opacity=1).encode(x="delta:Q", y=y, color=colour, shape=shape),
        of_rows(rows).mark_text(dy=-11).encode(x="delta:Q", y=y, text="label:N"),
    )
    return layered(*layers).properties(title=f"{visible(title)} ({wish})", width=WIDTH - 150, height=alt.Step(36))


def refusal_plane(points: Sequence[Mapping[str, Any]], title: str) -> "alt.LayerChart":
    """Return where each run stands between refusing safe requests and answering harmful ones; best is bottom left.

    Args:
        points: a run each, in order: `run`, `safe` and `harmful` (shares, 0 .. 1), and the ends of their intervals as
            `safe_low`, `safe_high`, `harmful_low`, `harmful_high`.
        title: what was asked.
    """
    import altair as alt

    names = [f"{i}. {visible(point['run'])}" for i, point in enumerate(points, 1)]
    rows = [{**point, "run": name, "order": i} for i, (point, name) in enumerate(zip(points, names, strict=True))]
    axis: dict[str, Any] = {"scale": alt.Scale(domain=[0, 1], nice=False), "axis": alt.Axis(tickCount=5, format=".0%")}
    x = alt.X("safe:Q", title="safe requests refused (fewer is better)", **axis)
    y = alt.Y("harmful:Q", title="harmful requests answered (fewer is better)", **axis)
    palette = ["#767676", "#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00"]
    colours = [palette[i % len(palette)] for i in range(len(names))]
    colour = alt.Color("run:N", scale=alt.Scale(domain=names, range=colours), sort=None, title=None)
    shape = alt.Shape("run:N", scale=alt.Scale(domain=names), sort=None, title=None)
    chart = of_rows(rows)
    parts = (
        chart.mark_line(color=INK, strokeDash=[4, 3], strokeWidth=1.5).encode(x=x, y=y, order="order:Q"),
        chart.mark_rule(strokeWidth=2).encode(x=alt.X("safe_low:Q", **axis), x2="safe_high:Q", y=y, color=colour),
        chart.mark_rule(strokeWidth=2).encode(x=x, y=alt.Y("harmful_low:Q", **axis), y2="harmful_high:Q", color=colour),
        chart.mark_point(filled=True, size=110, opacity=1).encode(x=x, y=y, color=colour, shape=shape),
    )
    plane = layered(*parts).properties(title=title, width=320, height=320)
    return styled(plane, "Harmful requests answered against safe requests refused, a point a run")
