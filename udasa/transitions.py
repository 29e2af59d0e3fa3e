"""A held-out probe before training and at the end of every stage -> what each stage improved, and what it forgot.

watch = Watch(output, policy=policy, held=held, on_forgetting="rollback", threshold=0.05)
train(data, output, policy=policy, training=training, after_stage=watch)
write(output, watch.transitions())

out/transitions/0-base.json  1-conservative.json  …    every item's value; a run that is resumed reads them
out/transitions.json  transitions.md                   the table
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from udasa import run
from udasa.backends import Floats, ModelSpec
from udasa.digests import file_sha256
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
    forgotten: bool
    """Worse by more than the threshold, in what an earlier stage was to teach or what the base could do."""


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
                share of its bits a byte before the stage.
        """
        if threshold < 0:
            raise UserError(f"The threshold of forgetting must be a share of 0 or more, got {threshold}.")
        self.output, self.policy, self.held = output, policy, held
        self.on_forgetting, self.threshold = on_forgetting, threshold
        self.measured: dict[str, Values] = {}
        """Stage (`base` first) -> values."""

    def __call__(self, stage: str, adapter: Path) -> Verdict:
        """Probe the adapter of a stage; warn of what was forgotten, and go on or not."""
        if not self.measured:
            self.measured["base"] = self._measure("base", None)
        self.measured[stage] = self._measure(stage, adapter)
        forgotten = [t for t in self.transitions() if t.stage == stage and t.forgotten]
        for t in forgotten:
            log.warning(
                "Stage %s forgot: %s is %.3f after it and was %.3f before, over %d items (change %.3f, 95 %% interval "
                "%.3f to %.3f; the threshold is %g).",
                *(stage, t.metric, t.after, t.before, t.items, t.change.value, t.change.low, t.change.high),
                self.threshold,
            )
        return "go on" if not forgotten or self.on_forgetting == "warn" else self.on_forgetting

    def _measure(self, name: str, adapter: Path | None) -> Values:
        """Probe once: what the adapter's folder holds is complete, so its digest says which it was."""
        path = self.output / "transitions" / f"{len(self.measured)}-{name}.json"
        of = None if adapter is None else file_sha256(adapter / "adapter_model.safetensors")
        if path.is_file() and (known := json.loads(path.read_bytes()))["adapter"] == of:
            values: Values = known["values"]
            return values
        values = by_stage(probe(self.policy, self.held, adapter=adapter), self.held)
        run.write_file(path, (json.dumps({"adapter": of, "values": values}, indent=2, allow_nan=False) + "\n").encode())
        return values

    def transitions(self) -> list[Transition]:
        """Return every metric's change over every stage that was probed, in order."""
        names, found = list(self.measured), []
        for number, stage in enumerate(names[1:], 1):
            before, after = self.measured[names[number - 1]], self.measured[stage]
            learnt = {"accuracy", *(f"accuracy {earlier}" for earlier in names[1:number])} if number > 1 else set()
            for metric in after:
                items = sorted(before[metric].keys() & after[metric].keys())
                old, new = (np.array([values[metric][item] for item in items]) for values in (before, after))
                if items:
                    found.append(self._transition(stage, metric, old, new, metric in learnt))
        return found

    def _transition(self, stage: str, metric: str, old: Floats, new: Floats, learnt: bool) -> Transition:
        """Compare the items of a metric; `learnt`: an earlier stage was to raise it."""
        about, change = METRICS[metric.split(" ")[0]], crossed_change(old[:, None], new[:, None])
        found, before, after = _found(change, about.higher_is_better), float(old.mean()), float(new.mean())
        loss = abs(after - before) / (before if metric == "canary" else 1.0)
        forgotten = found == "worse" and (learnt or metric == "canary") and loss > self.threshold
        return Transition(stage, metric, about.unit, len(old), before, after, change, found, forgotten)


def _found(change: Estimate, higher_is_better: bool | None) -> Found:
    if change.low is None or change.high is None or change.low <= 0 <= change.high:
        return "unclear"
    if higher_is_better is None:
        return "other"
    return "better" if (change.low > 0) == higher_is_better else "worse"


def write(output: Path, transitions: Sequence[Transition]) -> None:
    """Write the table as JSON and as Markdown."""
    values = [t._asdict() | {"change": asdict(t.change)} for t in transitions]
    run.write_file(output / "transitions.md", to_markdown(transitions).encode())
    run.write_file(output / "transitions.json", (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())


def to_markdown(transitions: Sequence[Transition]) -> str:
    """Return the table, a row a stage and metric."""
    lines = ["| after | metric | items | before | after | change (95 %) | |", "|---|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row(t)) + " |" for t in transitions]
    return "\n".join(lines) + "\n"


def row(t: Transition) -> tuple[str, ...]:
    """Return a row of the table as texts."""
    found = "forgotten" if t.forgotten else {"unclear": "", "other": "changed"}.get(t.found, t.found)
    return (
        t.stage,
        f"{t.metric}, {t.unit}",
        str(t.items),
        f"{t.before:.3f}",
        f"{t.after:.3f}",
        t.change.shown("+"),
        found,
    )
