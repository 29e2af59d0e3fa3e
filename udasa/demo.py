"""The main job, once through: build, publish, evaluate, train, evaluate again, compare, report.

<folder>/build  dataset  eval/before  adapter  eval/after  report.html
"""

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from udasa import report, run
from udasa.evaluate import Difference, evaluate
from udasa.flow import build
from udasa.publish import MANIFEST, attach, publish, write_card
from udasa.recipe import Recipe
from udasa.run import Progress, silent
from udasa.train import train

VERSION = "0.1.0"


class Cost(NamedTuple):
    """What a part of the demo took."""

    part: str
    seconds: float
    """Wall time."""
    peak_gb: float
    """Highest resident memory of the process up to the end of the part, in GB (10^9 bytes)."""


class Demo(NamedTuple):
    """Where everything is, and what came out."""

    dataset: Path
    adapter: Path
    report: Path
    manifest: Mapping[str, Any]
    comparison: tuple[Difference, ...]
    costs: list[Cost]


def demo(settings: Recipe, folder: Path, progress: Progress = silent) -> Demo:
    """Run the main job into `folder`; a part that is done is not done again.

    Raises:
        UserError: the folder holds a demo of another recipe.
    """
    costs: list[Cost] = []
    dataset, adapter = folder / "dataset", folder / "adapter"
    with _timed("build", costs):
        built = build(settings, folder / "build", progress)
    with _timed("publish", costs):
        publish(built, str(dataset.absolute()), version=VERSION)
    with _timed("evaluate before", costs):
        _evaluate(settings, folder / "eval" / "before", None, progress)
    with _timed("train", costs):
        trained = train(
            str(dataset.absolute()),
            adapter,
            policy=settings.policy,
            training=settings.training,
            license=settings.license,
            lint=settings.lint,
            near_duplicate=settings.near_duplicate,
            progress=progress,
        )
    with _timed("evaluate after", costs):
        _evaluate(settings, folder / "eval" / "after", adapter, progress)
    with _timed("compare and report", costs):
        comparison = attach(adapter, folder / "eval" / "before", folder / "eval" / "after").differences
        manifest = json.loads((dataset / MANIFEST).read_text(encoding="utf-8"))
        write_card(adapter, f"udasa-{settings.name}-adapter")
        pairs, scored, ledger = (run.read_frame(built, name) for name in ("pairs", "scored", "ledger"))
        page = report.render_report(manifest, pairs, scored, ledger, comparison, asdict(trained))
        run.write_file(folder / "report.html", page.encode())
    return Demo(dataset, adapter, folder / "report.html", manifest, comparison, costs)


def _evaluate(settings: Recipe, output: Path, adapter: Path | None, progress: Progress) -> None:
    """Run the suite unless its results are there."""
    if (output / "results.json").is_file():
        return
    evaluate(settings.policy, output, adapter=adapter, progress=progress)


@contextmanager
def _timed(part: str, costs: list[Cost]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    costs.append(Cost(part, time.perf_counter() - start, peak))
