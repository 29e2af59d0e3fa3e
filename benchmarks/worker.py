"""One contender in a process of its own: a line of JSON in names the prompts to score, a line out has the costs.

python worker.py CONTENDER MODEL WORKLOAD THREADS
Runs in the project's environment or in the peers', and imports only what its contender needs.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

Result = list[list[int]]
"""The set of each answer of each prompt; empty where a contender makes none."""
Run = Callable[[list[list[str]]], tuple[Callable[[], Any], Callable[[Any], Result]]]
"""From prompts to the part that is timed, and how sets are read off what it returns."""


def load(folder: str, meanings: list[str]) -> tuple[Any, Any, Any]:
    """Load the model with right answers."""
    import nli
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model, tokenizer, nli.put_right(model, tokenizer, meanings)


# --- udasa


def udasa(what: str, folder: str, meanings: list[str]) -> tuple[Run, Any]:
    """Semantic sets in waves, every ordered pair, or the whole `scored` step with a judge that costs nothing."""
    import nli

    from udasa import questions, waves
    from udasa.backends import FakeJudge, ModelSpec, Principle, make_entailer
    from udasa.score import Scorer

    entailer: Any = make_entailer(ModelSpec(model=folder, batch_tokens=BATCH_TOKENS), "nli", 0.8)
    counts = nli.put_right(entailer.model, entailer.tokenizer, meanings)

    def sets(prompts: list[list[str]]) -> Any:
        rule: Any = what
        return lambda: waves.semantic_sets(prompts, entailer, rule=rule), lambda found: [s.tolist() for s in found.sets]

    def pairs(prompts: list[list[str]]) -> Any:
        return lambda: questions.compare(prompts, entailer), lambda _: []

    def scored(prompts: list[list[str]]) -> Any:
        scorer = Scorer(entailer, FakeJudge((Principle(id="safe", question="Is it safe?"),)))
        table = responses(prompts)
        return lambda: scorer(table), lambda out: [[r["cluster"] for r in row["responses"]] for row in out.to_pylist()]

    return {"pairs": pairs, "scored": scored}.get(what, sets), counts


def responses(prompts: list[list[str]]) -> Any:
    """Return the answers as a `responses` table."""
    import pyarrow as pa

    from udasa import schema

    def response(i: int, k: int, text: str) -> dict[str, Any]:
        tokens = len(text.split())
        likelihood = {"num_tokens": tokens, "logprob_sum": -0.5 * tokens, "logprob_mean": -0.5}
        return {"response_id": f"{i}-{k}", "text": text, "finish_reason": "stop", "seed": 0} | likelihood

    rows = [
        {
            "prompt_id": str(i),
            "messages": [{"role": "user", "content": f"Question {i}?"}],
            "task": "helpfulness",
            "domain": "general",
            "source": "workload",
            "source_row": i,
            "source_revision": None,
            "license": "apache-2.0",
            "responses": [response(i, k, text) for k, text in enumerate(prompt)],
        }
        for i, prompt in enumerate(prompts)
    ]
    return pa.Table.from_pylist(rows, schema.RESPONSES)


def bare(what: str, folder: str, meanings: list[str]) -> tuple[Run, Any]:
    """Run the forward passes alone of the questions that `udasa` asks, tokenised before, sorted by length over all."""
    import torch

    from udasa.backends_hf.batches import batches_by_length

    model, tokenizer, counts = load(folder, meanings)

    def run(prompts: list[list[str]]) -> Any:
        asked = list(dict.fromkeys(questions_of(what, prompts, meanings)))
        encoded = [tokenizer(*pair) for pair in asked]
        lengths = [len(one["input_ids"]) for one in encoded]
        batches = [
            tokenizer.pad([encoded[i] for i in rows], return_tensors="pt")
            for rows in batches_by_length(lengths, BATCH_TOKENS)
        ]

        def forwards() -> None:
            with torch.inference_mode():
                for batch in batches:
                    model(**batch)

        return forwards, lambda _: []

    return run, counts


def questions_of(what: str, prompts: list[list[str]], meanings: list[str]) -> list[tuple[str, str]]:
    """Return the questions that `udasa` asks, by asking an entailer that knows the answers."""
    import numpy as np

    from udasa import questions, waves
    from udasa.backends import FakeJudge, Principle
    from udasa.score import Scorer

    asked: list[tuple[str, str]] = []

    @cache
    def meaning(text: str) -> frozenset[str]:
        return frozenset(meanings) & frozenset(text.lower().replace(".", "").split())

    class Knows:
        def entail(self, pairs: Any, report: Any = None) -> Any:
            asked.extend(pairs)
            found = [(meaning(premise), meaning(hypothesis)) for premise, hypothesis in pairs]
            same = [left == right or not left or not right for left, right in found]
            return np.array([[1.0, 0.0, 0.0] if s else [0.0, 0.0, 1.0] for s in same]).reshape(-1, 3)

    if what == "pairs":
        questions.compare(prompts, Knows())
    elif what == "scored":
        Scorer(Knows(), FakeJudge((Principle(id="safe", question="Is it safe?"),)))(responses(prompts))
    else:
        rule: Any = what
        waves.semantic_sets(prompts, Knows(), rule=rule)
    return asked


# --- peers, through their public classes


def lm_polygraph(_: str, folder: str, meanings: list[str]) -> tuple[Run, Any]:
    """Its entailment matrix, its classes, and its semantic entropy."""
    from types import SimpleNamespace

    import numpy as np
    from lm_polygraph.estimators import SemanticEntropy
    from lm_polygraph.stat_calculators.semantic_classes import SemanticClassesCalculator
    from lm_polygraph.stat_calculators.semantic_matrix import SemanticMatrixCalculator

    model, tokenizer, counts = load(folder, meanings)
    wrapped = SimpleNamespace(deberta=model, deberta_tokenizer=tokenizer, batch_size=10, device="cpu")

    def run(prompts: list[list[str]]) -> Any:
        def score() -> Any:
            stats: dict[str, Any] = {"sample_texts": prompts, "sample_log_probs": np.full((len(prompts), 10), -20.0)}
            for calculator in (SemanticMatrixCalculator(wrapped), SemanticClassesCalculator()):
                stats |= calculator(stats, [""] * len(prompts), None)
            SemanticEntropy()(stats)
            return stats["semantic_classes_entail"]["sample_to_class"]

        return score, lambda found: [[found[i][k] for k in range(len(p))] for i, p in enumerate(prompts)]

    return run, counts


def uqlm(_: str, folder: str, meanings: list[str]) -> tuple[Run, Any]:
    """Its semantic entropy scorer, on the answers alone."""
    import nli
    from uqlm.nli.nli import NLI
    from uqlm.scorers import SemanticEntropy

    judge = NLI(device="cpu", nli_model_name=folder)
    counts = nli.put_right(judge.model, judge.tokenizer, meanings)

    def run(prompts: list[list[str]]) -> Any:
        scorer = SemanticEntropy(nli=judge, prompts_in_nli=False, use_best=False)
        inputs = {"responses": [p[0] for p in prompts], "sampled_responses": [p[1:] for p in prompts]}
        return (
            lambda: scorer.score(**inputs, show_progress_bars=False),
            lambda found: [[n] for n in found.data["num_semantic_sets"]],
        )

    return run, counts


CONTENDERS = {"udasa": udasa, "bare": bare, "lm-polygraph": lm_polygraph, "uqlm": uqlm}
BATCH_TOKENS = int(os.environ.get("BATCH_TOKENS", "2048"))
"""Padded tokens of one forward pass, of udasa and of the bare forwards; peers keep their own batch sizes."""


def main() -> None:
    """Answer until the input ends."""
    import torch

    contender, folder, workload, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    given = json.loads(Path(workload).read_text(encoding="utf-8"))
    name, _, what = contender.partition(":")
    run, counts = CONTENDERS[name](what, folder, given["meanings"])
    run([["Yes.", "No."] * 5])[0]()  # first calls set things up; nothing of the workload may be remembered
    for line in sys.stdin:
        start, stop = json.loads(line)
        timed, sets = run(given["prompts"][start:stop])
        before = (counts.calls, counts.pairs, counts.tokens)
        wall, cpu = time.perf_counter(), time.process_time()
        found = timed()
        cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        after = (counts.calls, counts.pairs, counts.tokens)
        cost |= {n: b - a for n, a, b in zip(("calls", "pairs", "tokens"), before, after, strict=True)}
        cost["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(cost | {"sets": sets(found)}), file=REPLIES, flush=True)


if __name__ == "__main__":
    REPLIES = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not get between the lines
    main()
