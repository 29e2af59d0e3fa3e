"""What all figures share: palette, ink, size, axes; and a chart as one SVG element.

Colours are Okabe and Ito's (2008), which keep apart for colour-blind readers and in grey; the ground is transparent and
the text a grey with 4.5:1 contrast on white and on black.
"""

import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import altair as alt

STAGE_COLOURS = {"conservative": "#0072B2", "moderate": "#CC79A7", "exploratory": "#E69F00"}
"""Fill of a stage, wherever a stage is drawn."""

READING_COLOURS = {"better": "#0072B2", "worse": "#D55E00", "not told apart": "#767676"}
"""Colour of a difference, by what its interval says."""

ROLE_COLOURS = {"chosen": "#0072B2", "rejected": "#D55E00", "other": "#767676"}
"""Colour of an answer, by what became of it in its pair."""

INK = "#767676"
"""Colour of text, axes and rules."""
WIDTH = 440
"""Width of a chart, in its own pixels."""

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_JOINER = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")
_FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
Chart = TypeVar("Chart", bound="alt.TopLevelMixin")


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


def x_axis(title: str, domain: list[float]) -> "alt.X":
    """Return the axis of the field `low` from one end of the domain to the other."""
    import altair as alt

    return alt.X("low:Q", title=title, scale=alt.Scale(domain=domain, nice=False), axis=alt.Axis(tickCount=6))


def of_rows(rows: Iterable[Mapping[str, Any]]) -> "alt.Chart":
    """Return a chart of rows that it holds itself."""
    import altair as alt

    return alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))


def layered(*charts: "alt.Chart") -> "alt.LayerChart":
    """Return charts on top of each other."""
    import altair as alt

    chart: alt.LayerChart = alt.LayerChart(layer=list(charts))
    return chart


def styled(chart: Chart, description: str) -> Chart:
    """Apply the one look: transparent ground, grey text of 12 to 14 px, no frame, few grid lines, the legend on top."""
    plain: Any = chart
    room = {"left": 14, "right": 22, "top": 4, "bottom": 4}
    styled: Chart = (
        plain.properties(description=description, background="transparent", padding=room)
        .configure(font=_FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK, titleColor=INK, labelFontSize=12, titleFontSize=12, titleFontWeight="normal",
            domainColor=INK, tickColor=INK, gridColor=INK, gridOpacity=0.18, titlePadding=8, labelLimit=240,
        )
        .configure_title(
            color=INK, fontSize=14, fontWeight="bold", anchor="start", frame="group", limit=WIDTH, subtitleColor=INK
        )
        .configure_legend(
            orient="top", labelColor=INK, labelFontSize=12, symbolType="square", symbolSize=110, columnPadding=18
        )
        .configure_text(fontSize=12, color=INK)
    )  # fmt: skip
    return styled
