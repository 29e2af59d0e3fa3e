"""Pairing, staging and writing parquet at the size of large builds: seconds, peak memory and cost a row. No model runs.

python benchmarks/scale.py [--prompts 100000 1000000] [--lint] [--profile]

Scored shards of K = 8 synthetic responses are written first, as a build would have left them, and are not timed. Each
size runs in a process of its own; its memory is the peak resident size of that process.
"""

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from udasa import flow, lint, run, schema
from udasa.backends import ModelSpec, Principle
from udasa.recipe import Judging, Recipe, Source

K = 8
_SENTENCES = 20_000
FAKE = ModelSpec(model="fake/fake", backend="fake")
RECIPE = Recipe(
    name="scale",
    sources=(Source(name="synthetic", task="helpfulness", path="synthetic.jsonl"),),
    policy=FAKE,
    judging=Judging(constitution=(Principle(id="safe", question="Is the reply safe?"),)),
    shard_size=4096,
)
"""A build as large as that has larger shards than the default of 256, which open sixteen times as many files."""


def generate(folder: Path, prompts: int) -> None:
    """Write the prompts, and their scored responses, of a build that is about to be paired."""
    words = np.array([f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "st", "r", "ll", "ck")])
    rng = np.random.default_rng(0)
    sentences = np.array([" ".join(rng.choice(words, 12)).capitalize() + "." for _ in range(_SENTENCES)])
    run.write_shard(folder / "dropped" / "00000.parquet", schema.LEDGER.empty_table())
    for number, start in enumerate(range(0, prompts, RECIPE.shard_size)):
        rows = min(RECIPE.shard_size, prompts - start)
        table = scored(np.random.default_rng(number), sentences, start, rows)
        for name, kind in (("prompts", schema.PROMPTS), ("scored", schema.SCORED)):
            _write(folder / name / f"{number:05d}.parquet", schema.conform(table.select(kind.names), kind))
        answers = schema.RESPONSES.empty_table()
        _write(folder / "responses" / f"{number:05d}.parquet", answers)


def scored(rng: np.random.Generator, sentences: np.ndarray, start: int, rows: int) -> pa.Table:
    """Return a scored shard: two sentences a response, a tenth of the responses cut, a fifth without a claim."""
    n = rows * K
    ids = [f"{value:016x}" for value in rng.integers(0, 2**63, rows)]
    drawn = sentences[rng.integers(0, len(sentences), (2, n))]
    texts = np.char.add(np.char.add(drawn[0], " "), drawn[1])
    numbers = {name: pa.array(rng.random(n).round(4)) for name in (*schema.SCORES, *schema.ESTIMATES)}
    numbers["factual_uncertainty"] = pa.array(rng.random(n).round(4), mask=rng.random(n) < 0.2)
    evidence = {name: _lists(pa.array(rng.random(n * K).round(3)), K) for name in schema.EVIDENCE}
    response = schema.SCORED.field("responses").type.value_type
    columns = {
        "response_id": [f"{name}-{k}" for name in ids for k in range(K)],
        "text": texts,
        "num_tokens": rng.integers(20, 60, n),
        "finish_reason": np.where(rng.random(n) < 0.1, "length", "stop"),
        "seed": rng.integers(0, 2**62, n),
        "logprob_sum": -rng.random(n) * 60,
        "logprob_mean": -rng.random(n),
        "cluster": rng.integers(0, 4, n),
        "acceptable": _lists(pa.array(rng.random(n).round(4)), 1),
        **numbers,
        **evidence,
    }
    fields = [_column(columns.get(field.name), field.type, n) for field in response]
    responses = _lists(pa.StructArray.from_arrays(fields, fields=list(response)), K)
    asked = pa.array(sentences[rng.integers(0, len(sentences), rows)])
    turns = pa.StructArray.from_arrays([pa.array(["user"] * rows), asked], names=["role", "content"])
    about = {
        "prompt_id": ids,
        "messages": _lists(turns, 1),
        "task": ["helpfulness"] * rows,
        "domain": ["general"] * rows,
        "source": ["synthetic"] * rows,
        "source_row": np.arange(start, start + rows),
        "responses": responses,
        "semantic_entropy": rng.random(rows),
        "num_semantic_sets": np.ones(rows, np.int32),
    }
    return pa.table({f.name: _column(about.get(f.name), f.type, rows) for f in schema.SCORED})


def _column(values: object, kind: pa.DataType, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, kind)
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def _lists(values: pa.Array, size: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, size), pa.int32()), values)


def _write(path: Path, table: pa.Table) -> None:
    """Write a shard with its marker, quickly: the bytes of the input are not what is measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
    path.with_suffix(".done").touch()


def measure(folder: Path, with_lint: bool, profile: bool) -> dict[str, float]:
    """Pair, stage and write, then audit if asked; return seconds and peak memory in GB."""
    watch = cProfile.Profile()
    started, used = time.perf_counter(), time.process_time()
    if profile:
        watch.enable()
    staged = flow.write_staged(RECIPE, folder, None)
    watch.disable()
    found = {"pairs": float((staged.outcomes["outcome"] == "paired").sum())}
    found |= {"s": time.perf_counter() - started, "CPU s": time.process_time() - used, "peak GB": _peak()}
    if profile:
        pstats.Stats(watch, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
    if with_lint:
        started, used = time.perf_counter(), time.process_time()
        lint.audit_build(RECIPE, folder)
        found |= {"lint s": time.perf_counter() - started, "lint CPU s": time.process_time() - used}
        found |= {"lint peak GB": _peak()}
    return found


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print the table of docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--lint", action="store_true", help="time the audit too")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--folder", type=Path, help="measure the build in this folder, and print JSON")
    parser.add_argument("--keep", type=Path, help="where the synthetic builds are kept; default: nowhere")
    given = parser.parse_args()
    if given.folder:
        print(json.dumps(measure(given.folder, given.lint, given.profile)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for prompts in given.prompts:
            folder = (given.keep or Path(temporary)) / str(prompts)
            if not (folder / "ready").is_file():
                generate(folder, prompts)
                (folder / "ready").touch()
            options = [name for name in ("lint", "profile") if getattr(given, name)]
            command = [sys.executable, __file__, "--folder", str(folder), *(f"--{name}" for name in options)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            rows.append({"prompts": prompts, **json.loads(output)})
    for row in rows:
        row["CPU µs a response"] = row["CPU s"] / row["prompts"] / K * 1e6
    print("| " + " | ".join(rows[0]) + " |\n|" + " ---: |" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{v:,.0f}" if v >= 1000 else f"{v:.3g}" for v in row.values()) + " |")


if __name__ == "__main__":
    main()
