"""paired differences -> `.eval_results/*.yaml`, the results that the Hub puts on a benchmark's own leaderboard.

Such a file holds one value for a benchmark, with no place for an interval or another protocol. So a result goes there
only if the data set is a registered benchmark of the Hub, the task asks it as the benchmark does, and no item was left
out. Everything else, our own small tasks above all, is told in the card's table and in `model-index`, which takes any
data set: a leaderboard's reader would take a smoke test for the benchmark.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from udasa.figures import Difference


class Benchmark(NamedTuple):
    """A data set of the Hub with a leaderboard of its own."""

    dataset: str
    """Hub id."""
    task: str
    """The task's id in the data set's eval.yaml."""
    items: int
    """Items of the whole task: with fewer, the result is not the benchmark's."""
    protocol: str
    """How the items are asked."""


BENCHMARKS: Mapping[tuple[str, str], Benchmark] = {
    ("gpqa_diamond_cot_zeroshot", "exact_match,flexible-extract"): Benchmark(
        "Idavidrein/gpqa", "diamond", 198, "zero-shot chain of thought"
    )
}
"""lm-eval's task and metric -> the benchmark that it is."""


def eval_results(results: Sequence[Difference]) -> dict[str, str]:
    """Return the files to put beside the card, by path: one for each result that is a benchmark's own; in per cent."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

    files = {}
    for result in results:
        benchmark = BENCHMARKS.get((result.task, result.metric))
        if benchmark is None or result.n != benchmark.items:
            continue
        notes = (
            f"lm-eval {result.task}, {benchmark.protocol}, n = {result.n}; to the base model {100 * result.delta:+.1f} "
            f"points, 95 % interval {100 * result.low:+.1f} to {100 * result.high:+.1f}"
        )
        entry = EvalResultEntry(benchmark.dataset, benchmark.task, round(100 * result.after, 2), notes=notes)
        name = benchmark.dataset.rpartition("/")[2].lower()
        files[f".eval_results/{name}-{benchmark.task}.yaml"] = yaml_dump(eval_result_entries_to_yaml([entry]))
    return files
