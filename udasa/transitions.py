"""A held-out probe before training and at the end of every stage -> what each stage improved, and what it forgot.

watch = Watch(output, policy=policy, held=held, on_forgetting="rollback", threshold=0.05)
train(data, output, policy=policy, training=training, after_stage=watch)

out/transitions/0-base.json  1-conservative.json  …    every item's value; a run that is resumed reads them
out/transitions.json  transitions.md                   the table, written after each stage
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from udasa import adapters, backends_hf, run
from udasa.backends import ModelSpec
from udasa.digests import files_sha256, stable_hash
from udasa.errors import UserError
from udasa.heldout import HeldOut
from udasa.probe import METRICS, Values, by_stage, probe
from udasa.statistics import Estimate, crossed_change
from udasa.train import Verdict

log = logging.getLogger(__name__)

OnForgetting = Literal["warn", "stop", "rollback"]
"""What comes after a stage that forgot: the next one and a warning; nothing more; or the stage is taken back too."""
Found = Literal["better", "worse", "other", "unclear"]
"""`other`: it changed, and neither way is better; `unclear`: the interval of the change holds 0."""


class Transition(NamedTuple):
    """One metric before and after one stage, over the same held-out items."""

    stage: str
    metric: str
    unit: str
    items: int
    before: float
    after: float
    change: Estimate
    """Mean of after - before, paired by item; of this run alone: another seed may do otherwise."""
    found: Found
    forgotten_since: str | None = None
    """The stage, or `base`, that it is now worse than by more than the threshold, if it is forgotten."""
    change_since: Estimate | None = None
    """As `change`, from there on."""


class Watch:
    """Probes after each stage, and says how to go on; it is a `udasa.train.AfterStage`."""

    def __init__(
        self,
        output: Path,
        *,
        policy: ModelSpec,
        held: HeldOut,
        on_forgetting: OnForgetting = "warn",
        threshold: float = 0.05,
    ) -> None:
        """Hold what is measured.

        Args:
            output: the folder of the training.
            policy: the base model.
            held: the items.
            on_forgetting: what comes after a stage that forgot.
            threshold: the loss that counts as forgetting: of accuracy, as a share of the pairs; of the canary, as a
                share of its bits a byte before the loss.
        """
        if threshold < 0:
            raise UserError(f"The threshold of forgetting must be a share of 0 or more, got {threshold}.")
        self.output, self.policy, self.held = output, policy, held
        self.on_forgetting, self.threshold = on_forgetting, threshold
        self.measured: dict[str, Values] = {}
        """Stage (`base` first) -> values."""

    def __call__(self, stage: str, folder: Path) -> Verdict:
        """Probe what a stage left in its folder; write the table, warn of what was forgotten, and go on or not."""
        if not self.measured:
            self.measured["base"] = self._measure("base", None)
        self.measured[stage] = self._measure(stage, folder)
        found = self.transitions()
        write(self.output, found)
        forgotten = [t for t in found if t.stage == stage and t.change_since]
        for t in forgotten:
            log.warning(
                "Stage %s forgot: %s is %.3f after it, a change of %s (95 %% interval) since %s, over %d items; the "
                "threshold is %g.",
                *(stage, t.metric, t.after, t.change_since and t.change_since.shown("+"), t.forgotten_since, t.items),
                self.threshold,
            )
        return "go on" if not forgotten or self.on_forgetting == "warn" else self.on_forgetting

    def _measure(self, name: str, folder: Path | None) -> Values:
        """Probe once, as long as what the values hang on is the same."""
        path = self.output / "transitions" / f"{len(self.measured)}-{name}.json"
        of = self._hang_on(folder)
        if path.is_file() and (known := json.loads(path.read_bytes())).get("of") == of:
            values: Values = known["values"]
            return values
        values = by_stage(self._probe(folder), self.held)
        run.write_file(path, (json.dumps({"of": of, "values": values}, indent=2, allow_nan=False) + "\n").encode())
        return values

    def _hang_on(self, folder: Path | None) -> dict[str, object]:
        """Return what the values of a stage, or of the base, hang on."""
        return {
            "weights": folder and files_sha256(sorted(folder.glob("*.safetensors"))),
            "policy": backends_hf.identity(self.policy),
            "place": backends_hf.placement(self.policy),
            "held_out": stable_hash(json.dumps(asdict(self.held), sort_keys=True)),
        }

    def _probe(self, folder: Path | None) -> Values:
        """Probe the base, an adapter on it, or, if all weights were trained, a model of its own against it."""
        if folder is None or (folder / adapters.FILES[0]).is_file():
            return probe(self.policy, self.held, adapter=folder)
        trained = replace(self.policy, model=str(folder.absolute()), revision=None, package=None)
        return probe(trained, self.held, base=self.policy)

    def transitions(self) -> list[Transition]:
        """Return every metric's change over every stage that was probed, in order."""
        names = list(self.measured)
        return [
            self._transition(metric, names[:number], stage)
            for number, stage in enumerate(names[1:], 1)
            for metric, values in self.measured[stage].items()
            if values.keys() & self.measured[names[number - 1]][metric].keys()
        ]

    def _transition(self, metric: str, earlier: Sequence[str], stage: str) -> Transition:
        """Compare a stage with the one before it, and see whether it forgot."""
        found = self._compare(metric, earlier[-1], stage)
        for name in self._rivals(metric, earlier):
            since = self._compare(metric, name, stage)
            loss = abs(since.after - since.before) / (since.before if metric == "canary" else 1.0)
            if since.found == "worse" and loss > self.threshold:
                return found._replace(forgotten_since=name, change_since=since.change)
        return found

    def _rivals(self, metric: str, earlier: Sequence[str]) -> Sequence[str]:
        """Return what a loss is seen against: the stage before, and the best by its mean.

        Of the canary that is any earlier measurement; of an accuracy, those from the stage on that taught it.
        """
        kind, _, taught = metric.partition(" ")
        able = earlier if kind == "canary" else earlier[1:] if kind == "accuracy" else ()
        if taught:
            able = able[able.index(taught) :] if taught in able else ()
        if not able:
            return ()
        best = max if METRICS[kind].higher_is_better else min
        return able[-1], best(able, key=lambda name: np.mean([*self.measured[name][metric].values()]))

    def _compare(self, metric: str, earlier: str, stage: str) -> Transition:
        """Compare the items of a metric at two measurements."""
        before, after = self.measured[earlier][metric], self.measured[stage][metric]
        items = sorted(before.keys() & after.keys())
        old, new = (np.array([values[item] for item in items]) for values in (before, after))
        about, change = METRICS[metric.split(" ")[0]], crossed_change(old[:, None], new[:, None])
        found = _found(change, about.higher_is_better)
        return Transition(stage, metric, about.unit, len(items), float(old.mean()), float(new.mean()), change, found)


def _found(change: Estimate, higher_is_better: bool | None) -> Found:
    if change.low is None or change.high is None or change.low <= 0 <= change.high:
        return "unclear"
    if higher_is_better is None:
        return "other"
    return "better" if (change.low > 0) == higher_is_better else "worse"


def write(output: Path, transitions: Sequence[Transition]) -> None:
    """Write the table as JSON and as Markdown."""
    values = [
        t._asdict() | {"change": asdict(t.change), "change_since": t.change_since and asdict(t.change_since)}
        for t in transitions
    ]
    run.write_file(output / "transitions.md", to_markdown(transitions).encode())
    run.write_file(output / "transitions.json", (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())


def to_markdown(transitions: Sequence[Transition]) -> str:
    """Return the table, a row a stage and metric."""
    lines = ["| after | metric | items | before | after | change (95 %) | |", "|---|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row(t)) + " |" for t in transitions]
    return "\n".join(lines) + "\n"


def row(t: Transition) -> tuple[str, ...]:
    """Return a row of the table as texts."""
    found = {"unclear": "", "other": "changed"}.get(t.found, t.found)
    if t.change_since:
        found = f"forgotten since {t.forgotten_since}: {t.change_since.shown('+')}"
    return (
        t.stage,
        f"{t.metric}, {t.unit}",
        str(t.items),
        f"{t.before:.3f}",
        f"{t.after:.3f}",
        t.change.shown("+"),
        found,
    )
