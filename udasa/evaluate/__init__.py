"""A chat model -> results and samples of the lm-eval suite, in a folder; two such folders -> paired differences.

    evaluate(base, Path("runs/before"))
    evaluate(base, Path("runs/after"), adapter=Path("runs/adapter"))
    compare("runs/before", "runs/after").differences[0]
    -> Difference(task="udasa_smoke_harmlessness", metric="acc_bytes", n=48, before=0.604, after=0.667,
                  delta=0.063, low=-0.021, high=0.146, p=0.25, higher_is_better=True, …)

The folder holds `results.json` (written last: without it the evaluation is not complete), one `samples_<task>.jsonl`
a task in lm-eval's own form, and `lm_eval.log` with lm-eval's warnings. `compare` also reads
what `lm_eval --log_samples --output_path` leaves.
"""

from udasa.evaluate.comparison import Comparison, Difference, to_json
from udasa.evaluate.differences import compare
from udasa.evaluate.results import Evaluation, Metric, Setup, TaskResult, load
from udasa.evaluate.suite import evaluate

__all__ = [
    "Comparison", "Difference", "Evaluation", "Metric", "Setup", "TaskResult", "compare", "evaluate",
    "load", "to_json",
]  # fmt: skip
