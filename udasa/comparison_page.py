"""A comparison of evaluations -> one HTML page that needs no network and no script.

Prompts and answers are hostile until shown otherwise: they are escaped, their hidden characters are made visible, and
the page's own policy forbids scripts, network and any style but its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from markupsafe import Markup

from udasa import __version__, figures, report, resources
from udasa.evaluate.comparison import Calibration, Comparison, Difference, Level
from udasa.evaluate.transitions import Change, Item
from udasa.figures import reading

SHOWN = 50
"""Documents shown of each task, pair of runs and change."""
LONGEST = 4_000
"""Characters shown of one text."""


class Plane(NamedTuple):
    """Two metrics that only say something together."""

    title: str
    harmful: tuple[str, str, bool]
    """Task and metric of harmful requests that are answered; True if the metric counts those that are refused."""
    safe: tuple[str, str, bool]
    """Task and metric of safe requests that are refused; True if the metric counts those that are answered."""


PLANES = (
    Plane(
        "HarmBench and StrongREJECT against XSTest",
        ("udasa_harm_refusal", "answer", False),
        ("udasa_overrefusal", "safe_refusal", False),
    ),
    Plane(
        "XSTest: unsafe prompts against safe ones",
        ("udasa_overrefusal", "unsafe_refusal", True),
        ("udasa_overrefusal", "safe_refusal", False),
    ),
    *(
        Plane(
            "Smoke items: which of two replies is the more likely one",
            (task, "refusal", True),
            (task, "compliance", True),
        )
        for task in ("udasa_smoke_harmlessness", "udasa_harmlessness")
    ),
)
"""Where a plane can be drawn from."""


def render_comparison(found: Comparison) -> str:
    """Return the page."""
    css = (resources.shelf("cards") / "report.css").read_text(encoding="utf-8")
    return report.render(
        "comparison.html.j2",
        css=Markup(css),
        policy=report.policy(css),
        c=found,
        title=" → ".join(run.name for run in found.runs),
        summary=report.summarise(found.differences),
        pairs=[_pair(names, rows) for names, rows in _by_runs(found.differences).items()],
        planes=list(_planes(found)),
        moved=[d for d in found.differences if d.changes],
        same=[d for d in found.differences if d.equivalence],
        quartiles=[d for d in found.differences if d.quartiles],
        calibration=_calibration(found),
        items=list(_items(found.items)),
        version=__version__,
    )


def _by_runs(differences: Sequence[Difference]) -> dict[tuple[str, str], list[Difference]]:
    groups: dict[tuple[str, str], list[Difference]] = {}
    for d in differences:
        groups.setdefault((d.before_run, d.after_run), []).append(d)
    return groups


def _pair(names: tuple[str, str], differences: Sequence[Difference]) -> dict[str, Any]:
    return {
        "before": names[0],
        "after": names[1],
        "rows": [(d, reading(d), _words(d)) for d in differences],
        "forest": Markup(figures.to_svg(figures.forest_chart(differences, _label, _panel))),
    }


def _label(d: Difference) -> str:
    return f"{d.task} {d.metric}" if d.changes else d.task


def _panel(d: Difference) -> str:
    """Put the shares of right answers, which have one unit, beside each other."""
    return "share of documents" if d.changes else d.metric


def _words(d: Difference) -> str:
    """Say what the interval shows, and whether it holds up among all that were looked at."""
    verdict = reading(d)
    if verdict == "not told apart":
        return verdict
    return f"{verdict}, also by Holm" if d.p_holm < 0.05 else f"{verdict}, not by Holm"


def _planes(found: Comparison) -> Iterator[dict[str, Any]]:
    """Yield the planes whose metrics every run has."""
    levels = {(level.task, level.metric, level.run): level for level in found.levels}
    for plane in PLANES:
        sides = {"harmful": plane.harmful, "safe": plane.safe}
        points = []
        for run in found.runs:
            at = {name: levels.get((task, metric, run.name)) for name, (task, metric, _) in sides.items()}
            if all(at.values()):
                points.append(
                    {"run": run.name}
                    | {k: v for n, level in at.items() for k, v in _share(n, level, sides[n][2]).items()}
                )
        if len(points) == len(found.runs):
            yield {
                "title": plane.title,
                "points": points,
                "chart": Markup(figures.to_svg(figures.refusal_plane(points, plane.title))),
                "caption": "A cross is the 95 % interval of each share; the dashed line joins the runs in order.",
            }


def _share(name: str, level: Level | None, turned: bool) -> dict[str, float]:
    """Return a share with its interval, turned round where the metric counts the other answers."""
    assert level is not None
    value, low, high = level.value, level.low, level.high
    if turned:
        value, low, high = 1 - value, 1 - high, 1 - low
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_n": level.n}


def _calibration(found: Comparison) -> dict[tuple[str, str, str], dict[str, Calibration]]:
    """Return (task, estimator, run) -> statistic -> its value."""
    rows: dict[tuple[str, str, str], dict[str, Calibration]] = {}
    order = list(dict.fromkeys((c.task, c.estimator) for c in found.calibration))
    for one in sorted(found.calibration, key=lambda c: order.index((c.task, c.estimator))):
        rows.setdefault((one.task, one.estimator, one.run), {})[one.statistic] = one
    return rows


def _items(items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    """Yield the broken documents of every task, then the fixed ones; too many are cut down to a fixed random few."""
    changes: tuple[Change, ...] = ("broken", "fixed")
    for runs in dict.fromkeys((item.before_run, item.after_run) for item in items):
        for task in dict.fromkeys(item.task for item in items):
            for change in changes:
                rows = [
                    item for item in items
                    if (item.before_run, item.after_run, item.task) == (*runs, task) and change in item.changes.values()
                ]  # fmt: skip
                if rows:
                    held = sorted(rows, key=lambda item: item.document)[:SHOWN]
                    yield {
                        "task": task, "before": runs[0], "after": runs[1], "change": change, "total": len(rows),
                        "rows": [_short(item) for item in held],
                    }  # fmt: skip


def _short(item: Item) -> Item:
    return replace(item, prompt=_cut(item.prompt), before=_cut(item.before), after=_cut(item.after))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} characters more]"
