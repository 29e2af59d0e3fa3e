"""A chat model -> results and samples of the lm-eval suite, in a folder; two such folders -> paired differences.

    evaluate(base, Path("runs/before"))
    evaluate(base, Path("runs/after"), adapter=Path("runs/adapter"))
    compare(Path("runs/before"), Path("runs/after"))[0]
    -> Difference(task="udasa_smoke_harmlessness", metric="acc_bytes", n=48, before=0.604, after=0.667, delta=0.063,
                  low=-0.021, high=0.146, higher_is_better=True)

The folder holds `results.json` (written last: without it the evaluation is not complete), one `samples_<task>.jsonl`
a task in lm-eval's own form, and `lm_eval.log` with lm-eval's warnings.
"""

from udasa.evaluate.differences import Difference, compare, to_json
from udasa.evaluate.results import Evaluation, Metric, Setup, TaskResult, load
from udasa.evaluate.suite import evaluate

__all__ = ["Difference", "Evaluation", "Metric", "Setup", "TaskResult", "compare", "evaluate", "load", "to_json"]
