"""tables and differences -> Altair charts -> SVG: few, with one palette, readable on white paper and on a dark page.

    to_svg(gap_chart(pairs, {"moderate": 0.1, "conservative": 0.3}))     # '<svg role="img" ...'

builds    charts of a build's tables     comparisons    charts of paired differences
training  curves of a training run       style          what all share
"""

from udasa.figures.builds import UNITS, gap_chart, scatter_chart, stage_chart, uncertainty_chart
from udasa.figures.comparisons import Difference, forest_chart, reading, refusal_plane
from udasa.figures.style import READING_COLOURS, ROLE_COLOURS, STAGE_COLOURS, to_svg, visible
from udasa.figures.training import training_chart

__all__ = [
    "READING_COLOURS", "ROLE_COLOURS", "STAGE_COLOURS", "UNITS", "Difference", "forest_chart", "gap_chart", "reading",
    "refusal_plane", "scatter_chart", "stage_chart", "to_svg", "training_chart", "uncertainty_chart", "visible",
]  # fmt: skip
