"""The log of a training run's steps -> its curves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from udasa.figures.style import INK, STAGE_COLOURS, WIDTH, layered, of_rows, styled, visible, x_axis

if TYPE_CHECKING:
    import altair as alt


def training_chart(steps: Sequence[Mapping[str, Any]]) -> "alt.VConcatChart":
    """Return what was logged at each step of a training run, a panel a quantity, a rule where a stage begins.

    Args:
        steps: `stage`, `loss`, `rewards/margins` and `rewards/accuracies` of each optimiser step, in order.
    """
    import altair as alt

    order = list(dict.fromkeys(step["stage"] for step in steps))
    begins = [
        {"low": next(i for i, step in enumerate(steps, 1) if step["stage"] == stage), "label": visible(stage)}
        for stage in order
    ]
    panels: Sequence[Any] = [
        _curve(steps, begins if name == "loss" else [{**begin, "label": ""} for begin in begins], name, title)
        for name, title in _CURVES.items()
    ]
    description = f"Loss, reward margin and reward accuracy over {len(steps)} optimiser steps in {len(order)} stages"
    return styled(alt.vconcat(*panels, spacing=22), description)


_CURVES = {
    "loss": "Loss (nats)",
    "rewards/margins": "Reward margin, chosen minus rejected (nats)",
    "rewards/accuracies": "Reward accuracy (share of pairs)",
}


def _curve(
    steps: Sequence[Mapping[str, Any]], begins: Sequence[Mapping[str, Any]], name: str, title: str
) -> "alt.LayerChart":
    import altair as alt

    rows = [{"low": i, "value": step[name], "stage": visible(step["stage"])} for i, step in enumerate(steps, 1)]
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
    x = x_axis("optimiser step", [1, max(2, len(steps))])
    line = of_rows(rows).mark_line(color=STAGE_COLOURS["conservative"], point=len(steps) < 60)
    rule = of_rows(begins)
    layers = (
        line.encode(x=x, y=y, tooltip=["stage:N", alt.Tooltip("low:Q", title="step"), "value:Q"]),
        rule.mark_rule(color=INK, strokeDash=[4, 3]).encode(x="low:Q"),
        rule.mark_text(align="left", dx=5, y=-7).encode(x="low:Q", text="label:N"),
    )
    return layered(*layers).properties(title=alt.Title(title, offset=14), width=WIDTH, height=90)
