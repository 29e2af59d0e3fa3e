"""The stages' logs -> one log of the run, and its curves."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from udasa import figures
from udasa.run import write_file
from udasa.train.dpo import STEPS

if TYPE_CHECKING:
    from udasa.train.stages import Staged

FIGURE = "figures/training.svg"


def write(staged: "Staged", output: Path) -> None:
    """Write the steps of the stages that stand, a line each, and draw them."""
    folders = {path.name.partition("-")[2]: path for path in output.glob("stages/*") if path.is_dir()}
    lines = [(folders[result.stage] / STEPS).read_bytes() for result in staged.results]
    write_file(output / STEPS, b"".join(lines))
    steps = [json.loads(line) for line in b"".join(lines).splitlines()]
    write_file(output / FIGURE, figures.to_svg(figures.training_chart(steps)).encode())
