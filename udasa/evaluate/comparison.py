"""What a comparison says: plain values, and the same as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

from udasa.evaluate.transitions import Changes, Item
from udasa.paired import Paired


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """Whether a difference is within a margin, by two one-sided tests."""

    margin: float
    p: float
    equivalent: bool
    """p is under 0.05: the 90 % interval lies within -+ margin. False says only that it was not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quartile:
    """A quarter of the documents by their margin before: where on the scale a change took place."""

    initial_low: float
    """Smallest margin before."""
    initial_high: float
    n: int
    delta: float
    low: float
    """Lower end of the 95 % interval of delta."""
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Paired):
    """One metric of one task on two runs; the fields of `udasa.paired.Paired`, and these."""

    task: str
    metric: str
    before_run: str
    after_run: str
    higher_is_better: bool
    p_holm: float
    """p, adjusted by Holm over all differences of the comparison in which some value changed."""
    p_bh: float
    """p, adjusted by Benjamini and Hochberg over the same."""
    seeds: tuple[int, int]
    """Runs of each side."""
    missing: tuple[int, int]
    """Documents that only the other side has this metric for, such as answers that a judge could not read."""
    bounds: tuple[float, float] | None
    """Of right and wrong answers, where some are missing: delta if these were all worst for it, and all best."""
    changes: Changes | None
    """Of right and wrong answers of one run each: how many were fixed and broken."""
    quartiles: tuple[Quartile, ...]
    """Of a margin: by the margin before. The lowest quarter tends to rise and the highest to fall by chance alone."""
    equivalence: Equivalence | None
    """Where a margin was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """How far a metric is below the best of the earlier runs (Chaudhry et al. 2018); negative: it was never better."""

    task: str
    metric: str
    best_run: str
    best: float
    now: float
    forgotten: float
    """From the best to now, in the direction that is worse."""
    low: float
    """Lower end of the paired 95 % interval. The best was picked for being the best, so by chance it is too good."""
    high: float
    n: int


class Level(NamedTuple):
    """The value of a metric on one run, over all its documents, with a 95 % interval by cluster."""

    task: str
    metric: str
    run: str
    value: float
    low: float
    high: float
    n: int


class Calibration(NamedTuple):
    """How well an estimator of uncertainty tells wrong answers from right ones, on one run."""

    task: str
    estimator: str
    """`u`, `semantic`, `factual`, `value`, or a baseline: `logprob`, `length`."""
    statistic: str
    """`auroc` and `prr`, where higher is better; `ece` and `brier`, where lower is."""
    run: str
    value: float
    low: float
    """Lower end of the 95 % interval: percentile bootstrap over clusters of documents, widened to hold the value."""
    high: float
    n: int
    """Documents."""
    num_answers: int


class Compared(NamedTuple):
    """What a run was made with, for whoever reads the comparison."""

    name: str
    models: tuple[str, ...]
    """A model a seed."""
    facts: dict[str, str]
    """What its values hang on."""
    files: dict[str, str]
    """sha256 of every file of a public data set that was read, by name."""
    adapters: tuple[str | None, ...]
    """sha256 of each adapter, or `none`; None where it was not recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that a comparison says."""

    runs: tuple[Compared, ...]
    """In order; the first is the base."""
    differences: tuple[Difference, ...]
    """Of each pair of runs; of each task and metric."""
    forgetting: tuple[Forgetting, ...]
    """With more than two runs."""
    items: tuple[Item, ...]
    """Documents that were fixed or broken."""
    levels: tuple[Level, ...]
    """The values themselves."""
    calibration: tuple[Calibration, ...]
    """Where the samples hold uncertainties."""
    caveats: tuple[str, ...]
    """What differs between the runs though it should not, if they were compared anyway."""
    notes: tuple[str, ...]
    """What else to know before reading."""


def to_json(comparison: Comparison) -> str:
    """Return everything as a JSON object; a number that is not finite is a ValueError."""
    whole = asdict(comparison) | {
        "runs": [run._asdict() for run in comparison.runs],
        "levels": [level._asdict() for level in comparison.levels],
        "calibration": [one._asdict() for one in comparison.calibration],
    }
    return json.dumps(whole, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
