"""`udasa eval` against stock lm-eval on the smoke tier with the demo's policy: seconds, and whether the figures agree.

python benchmarks/evaluate.py [--rounds 3] [--limit 48]
Each contender runs in a process of its own, in turns; what is timed is everything after the imports.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from udasa import resources
from udasa.backends_hf.weights import find_weights
from udasa.evaluate import evaluate
from udasa.recipe import load

BATCH = 8
GROUP = "udasa_smoke"
SHELF = str(resources.shelf("eval") / "tasks")


def ours(limit: int | None) -> dict[str, Any]:
    """Evaluate with udasa, which also writes the samples, their digests and the intervals."""
    with tempfile.TemporaryDirectory() as folder:
        found = evaluate(load("demo").policy, Path(folder), tasks=[GROUP], limit=limit, batch_size=BATCH)
    return {name: task.metrics["acc_bytes"].value for name, task in found.tasks.items()}


def stock(limit: int | None) -> dict[str, Any]:
    """Evaluate with lm-eval's own function and its own loading of the same weights, and write its samples."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    weights = find_weights(load("demo").policy).path
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": weights, "dtype": "float32"},
        device="cpu",
        tasks=[GROUP],
        task_manager=TaskManager(include_path=SHELF, include_defaults=False),
        batch_size=BATCH,
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        tracker = EvaluationTracker(output_path=folder)
        samples = found.pop("samples")
        tracker.save_results_aggregated(results=found, samples=samples)
        for name, rows in samples.items():
            tracker.save_results_samples(task_name=name, samples=rows)
    return {name: found["results"][name]["acc_bytes,none"] for name in samples}


def index(own: bool) -> None:
    """Index the tasks: ours, or lm-eval's own with them, which is what its command does."""
    from lm_eval.tasks import TaskManager

    TaskManager(include_path=SHELF, include_defaults=not own)


CONTENDERS: dict[str, Callable[[int | None], Any]] = {
    "udasa eval": ours,
    "lm-eval": stock,
    "index, udasa": lambda _: index(own=True),
    "index, lm-eval": lambda _: index(own=False),
}


def timed(contender: str, limit: int | None) -> None:
    """Run one contender and print its seconds and figures; lm-eval is imported before the clock starts."""
    import lm_eval.models.huggingface  # noqa: F401

    wall, cpu = time.perf_counter(), time.process_time()
    figures = CONTENDERS[contender](limit)
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, figures]))


def main() -> None:
    """Print the table of docs/performance.md."""
    parser = argparse.ArgumentParser(description="Time udasa eval against lm-eval.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--contender", choices=CONTENDERS)
    arguments = parser.parse_args()
    if arguments.contender:
        timed(arguments.contender, arguments.limit)
        return
    command = [sys.executable, __file__, *(["--limit", str(arguments.limit)] if arguments.limit else [])]
    runs: dict[str, list[Any]] = {name: [] for name in CONTENDERS}
    for _ in range(arguments.rounds):
        for name, found in runs.items():
            done = subprocess.run([*command, "--contender", name], capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    assert all(run[2] == runs["lm-eval"][0][2] for name in ("udasa eval", "lm-eval") for run in runs[name])
    print("| what | wall s | CPU s |\n| --- | ---: | ---: |")
    for name, found in runs.items():
        wall, cpu = (statistics.median(run[place] for run in found) for place in (0, 1))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    ratios = [a[1] / b[1] for a, b in zip(runs["udasa eval"], runs["lm-eval"], strict=True)]
    print(f"\nudasa eval / lm-eval, CPU seconds, by round: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")


if __name__ == "__main__":
    main()
