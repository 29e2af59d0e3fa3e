"""A recipe -> what its build will cost: a pilot of a few prompts through the same steps, and 95 % intervals.

The pilot is a hash sample of the build's own prompts, and seeds hang on the prompt, so its responses are those that the
build will draw: with every prompt in the pilot, the tokens are exact.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.stats import t as student

from udasa import costs, flow, log, prompts, recipe, run
from udasa.digests import stable_hash
from udasa.errors import UserError
from udasa.recipe import Recipe
from udasa.run import Progress, silent

SHARDS = 4
"""Shards of the pilot: the seconds of a step have this many measurements."""
STEPS = ("responses", "scored")

CountTokens = Callable[[Sequence[Any]], list[int]]
"""Tokens of prompts, each a list of messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A quantity of the whole build."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    n: int
    """Pilot prompts behind it, or pilot shards if it is in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money per million tokens."""

    prompt: float
    response: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a build is predicted to cost."""

    recipe_digest: str
    prompts: int
    """All prompts of the build: counted."""
    pilot: int
    """Prompts of the pilot."""
    failed: int
    """Of these, prompts without responses."""
    predictions: tuple[Prediction, ...]
    rates: log.Rates | None
    """Set if prices were given."""


def plan(
    settings: Recipe,
    pilot: int = 16,
    count: CountTokens | None = None,
    prices: Prices | None = None,
    progress: Progress = silent,
) -> Plan:
    """Run the pilot in a temporary folder and predict the build.

    Sampling alone is priced, a prompt's tokens once; what a judge reads is not. Seconds are those of small shards, and
    of the steps that hold models: planted questions, pairing and the audit are not in them.

    Args:
        settings: the recipe.
        pilot: prompts of the pilot, at most all of them.
        count: counts the tokens of prompts; without it they are not predicted.
        prices: of input and output tokens; needs `count`.
        progress: shows how far the pilot is.

    Raises:
        UserError: a source or a model does not fit, the pilot has fewer than 2 prompts, or prices without `count`.
    """
    if prices is not None and count is None:
        raise UserError("Prices need a tokenizer that counts the prompts: give --tokenizer.")
    table = prompts.collect(settings).table
    ids = table["prompt_id"].to_pylist()
    if min(pilot, len(ids)) < 2:
        raise UserError(f"An interval needs 2 prompts or more in the pilot, got {min(pilot, len(ids))}.")
    chosen = sorted(range(len(ids)), key=lambda i: stable_hash(settings.seed, "pilot", ids[i]))[:pilot]
    with TemporaryDirectory(prefix="udasa-plan-") as name:
        folder, size = Path(name), math.ceil(len(chosen) / SHARDS)
        for number, start in enumerate(range(0, len(chosen), size)):
            shard = table.take(chosen[start : start + size])
            run.write_shard(folder / "prompts" / f"{number:05d}.parquet", shard)
        for source, step in flow.steps(settings, folder):
            run.run_local(folder, source, costs.logged(folder, step._replace(check=run.nothing)), progress)
        return _predict(settings, folder, len(ids), count, prices)


def _predict(settings: Recipe, folder: Path, total: int, count: CountTokens | None, prices: Prices | None) -> Plan:
    rows = run.read(folder, "responses").to_pylist()
    drawn = [float(sum(response["num_tokens"] for response in row["responses"])) for row in rows]
    found = [sampled("response tokens", "tokens", drawn, total)]
    rates = None
    if count is not None:
        read = [float(n) for n in count([row["messages"] for row in rows])]
        found.insert(0, sampled("prompt tokens", "tokens", read, total))
        if prices is not None:
            rates = log.Rates(per_prompt=float(np.mean(read)) * prices.prompt / 1e6, per_token=prices.response / 1e6)
            paid = [(i * prices.prompt + o * prices.response) / 1e6 for i, o in zip(read, drawn, strict=True)]
            found.append(sampled("money", "money", paid, total))
    lines = log.read(folder)
    each = {step: [line for line in lines if line.step == step] for step in STEPS}
    for step, shards in each.items():
        found.append(_seconds(f"{step} seconds", [shards], total))
    found.append(_seconds("seconds", list(each.values()), total))
    found.append(sampled("disk", "bytes", _bytes_per_prompt(folder, rows), total))
    return Plan(
        recipe_digest=recipe.digest(settings),
        prompts=total,
        pilot=len(rows),
        failed=sum(row["failure"] is not None for row in rows),
        predictions=tuple(found),
        rates=rates,
    )


def sampled(name: str, unit: str, values: Sequence[float], total: int) -> Prediction:
    """Return the total over all prompts by a t-interval of a sample without replacement (Cochran 1977, chapter 2)."""
    n = len(values)
    left = math.sqrt(max(0.0, 1 - n / total))
    half = total * float(student.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) * left / math.sqrt(n)
    value = total * math.fsum(values) / n
    return Prediction(name=name, unit=unit, value=value, low=max(0.0, value - half), high=value + half, n=n)


def _seconds(name: str, steps: Sequence[Sequence[log.Line]], total: int) -> Prediction:
    """Return loading once and the time per prompt of the shards, summed over the steps, by a t-interval over shards."""
    load = sum(line.load_seconds for shards in steps for line in shards)
    rows = [line.rows for line in steps[0]]
    seconds = [sum(line.seconds or 0.0 for line in same) for same in zip(*steps, strict=True)]
    rates, m = [s / r for s, r in zip(seconds, rows, strict=True)], len(rows)
    half = total * float(student.ppf(0.975, m - 1)) * float(np.std(rates, ddof=1)) / math.sqrt(m)
    value = load + total * sum(seconds) / sum(rows)
    return Prediction(name=name, unit="s", value=value, low=max(load, value - half), high=value + half, n=m)


def _bytes_per_prompt(folder: Path, rows: Sequence[Any]) -> list[float]:
    """Share the bytes of the pilot's files, as one shard a step, among its prompts by the length of their texts."""
    tables = [run.read(folder, name) for name in ("prompts", *STEPS)]
    size = sum(len(run.parquet_bytes(t.combine_chunks())) - len(run.parquet_bytes(t.slice(0, 0))) for t in tables)
    size += (folder / flow.ANSWERS).stat().st_size if (folder / flow.ANSWERS).is_file() else 0
    texts = [1 + sum(len(one["text"].encode()) for one in row["responses"]) for row in rows]
    return [size * text / sum(texts) for text in texts]


def actual(folder: Path) -> dict[str, float]:
    """Return what a build has cost, by the names of the predictions that can be compared with it."""
    lines = log.read(folder)
    seconds = {step: sum((x.seconds or 0.0) + x.load_seconds for x in lines if x.step == step) for step in STEPS}
    paths = [path for name in ("prompts", *STEPS) for path in run.shard_paths(folder, name)]
    paths += [folder / flow.ANSWERS] if (folder / flow.ANSWERS).is_file() else []
    return {
        "response tokens": sum(line.tokens for line in lines),
        **{f"{step} seconds": value for step, value in seconds.items()},
        "seconds": sum(seconds.values()),
        "disk": sum(path.stat().st_size for path in paths),
    }


def keep(found: Plan, folder: Path) -> None:
    """Write the plan where the build will be; the folder is not claimed, so another plan may follow."""
    run.write_file(folder / log.PLAN, to_json(found).encode())


def stored(folder: Path, settings: Recipe) -> Plan | None:
    """Return the plan that is kept for a build; None if there is none, or it is of another recipe."""
    path = folder / log.PLAN
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["predictions"] = tuple(Prediction(**one) for one in values["predictions"])
        values["rates"] = log.Rates(**values["rates"]) if values["rates"] else None
        found = Plan(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no plan: {error}. Delete it, or run udasa plan again.") from error
    return found if found.recipe_digest == recipe.digest(settings) else None


def to_json(found: Plan) -> str:
    """Return a plan as one line of JSON."""
    return json.dumps(asdict(found), sort_keys=True) + "\n"
