"""Staged training against plain TRL scripts: CPU seconds a step and in all, and peak memory; on the demo's model.

python benchmarks/train.py --rounds 1 --pairs 16

The contenders take turns, each in a process of its own and on one thread, and are timed in CPU seconds, so that other
work on the machine counts little. All carry one adapter through three stages of seeded pairs, with the same settings
and the base model as the reference.

udasa               `udasa.train.train_stages` with an empty cache, and huge pages as the command line allows them
trl                 DPOTrainer a stage, which reads the reference at every step (TRL's default)
trl, precomputed    the same with precompute_ref_log_probs

A step ends with TRL's on_step_end; the first of a stage begins with the call of `train`. `--model FOLDER` takes another
model: with a tiny one a step is nearly all overhead.
"""

import argparse
import dataclasses
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from udasa import allocator, recipe, resources
from udasa.backends import ModelSpec

CONTENDERS = ("udasa", "trl", "trl, precomputed")
SETTINGS = dataclasses.replace(recipe.load("demo").training, seed=1)
WORDS = tuple("the a one answer is that water light food sleep people often can may not in of with and but for".split())  # noqa: SIM905


def make_pairs(num: int) -> dict[str, Any]:
    """Return stage -> Dataset: bundled prompts with replies of 10 to 40 random words."""
    from datasets import Dataset

    lines = (resources.shelf("builders") / "data" / "helpfulness.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines]
    rng = random.Random(0)

    def reply() -> list[dict[str, str]]:
        return [{"role": "assistant", "content": " ".join(rng.choices(WORDS, k=rng.randint(10, 40))) + "."}]

    def row(stage: str, number: int) -> dict[str, Any]:
        prompt = prompts[rng.randrange(len(prompts))]
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": f"{prompt} ({number})"}]
        return {"prompt_id": f"{stage}-{number}", "prompt": turns, "chosen": reply(), "rejected": reply()}

    return {stage: Dataset.from_list([row(stage, n) for n in range(num)]) for stage in SETTINGS.stages}


def run_udasa(policy: ModelSpec, pairs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train with udasa; returns the CPU seconds of each step and of the reference."""
    from udasa.train import train_stages

    steps: list[float] = []
    reference = [0.0]

    @contextmanager
    def progress(name: str, _: int) -> Any:
        since = [time.process_time()]

        def report(_: int) -> None:
            now = time.process_time()
            if name.startswith("train "):
                steps.append(now - since[0])
                since[0] = now

        yield report
        if not name.startswith("train "):
            reference[0] += time.process_time() - since[0]

    train_stages(pairs, folder, policy=policy, training=SETTINGS, progress=progress)
    text = "".join(path.read_text() for path in sorted(folder.glob("stages/*/steps.jsonl")))
    return {
        "steps": steps,
        "reference": reference[0],
        "losses": [json.loads(line)["loss"] for line in text.splitlines()],
    }


def run_trl(policy: ModelSpec, pairs: Mapping[str, Any], folder: Path, precompute: bool) -> dict[str, Any]:
    """Train with TRL alone, as its documentation has it."""
    from peft import LoraConfig, load_peft_weights, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from udasa.backends_hf.weights import find_weights

    steps: list[float] = []
    losses: list[float] = []
    reference = 0.0

    class Clock(TrainerCallback):
        since = 0.0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.process_time()
            steps.append(now - self.since)
            self.since = now

        def on_log(self, *_: Any, logs: Mapping[str, float], **__: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    clock = Clock()
    path, before = find_weights(policy).path, None
    for stage, rows in pairs.items():
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokenizer.padding_side = "left"
        began = time.process_time()
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(path, dtype="float32"),
            args=DPOConfig(
                output_dir=str(folder / stage),
                beta=SETTINGS.beta,
                learning_rate=SETTINGS.learning_rate,
                num_train_epochs=SETTINGS.epochs,
                per_device_train_batch_size=SETTINGS.device_batch_size,
                gradient_accumulation_steps=SETTINGS.batch_size // SETTINGS.device_batch_size,
                max_length=SETTINGS.max_length,
                precompute_ref_log_probs=precompute,
                bf16=False,
                use_cpu=True,
                activation_checkpointing=False,
                logging_steps=1,
                disable_tqdm=True,
                report_to="none",
                save_strategy="no",
                seed=SETTINGS.seed,
            ),
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=SETTINGS.lora_rank,
                lora_alpha=SETTINGS.lora_alpha,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            callbacks=[clock],
        )
        reference += (time.process_time() - began) if precompute else 0.0
        if before is not None:
            set_peft_model_state_dict(trainer.model, load_peft_weights(str(before), device="cpu"))
        clock.since = time.process_time()
        trainer.train()
        before = folder / stage / "adapter"
        trainer.save_model(str(before))
    return {"steps": steps, "reference": reference, "losses": losses}


def work(contender: str, num: int, policy: ModelSpec) -> dict[str, Any]:
    """Run one contender in this process; its clock begins when the libraries and pairs are there."""
    if contender == "udasa":
        allocator.allow_huge_pages()
    import peft  # noqa: F401
    import torch
    import trl  # noqa: F401

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    pairs = make_pairs(num)
    with tempfile.TemporaryDirectory() as folder:
        from udasa.train import references

        references.cache_folder = lambda: Path(folder) / "cache"  # type: ignore[attr-defined]
        began = time.process_time()
        if contender == "udasa":
            found = run_udasa(policy, pairs, Path(folder) / "out")
        else:
            found = run_trl(policy, pairs, Path(folder), contender.endswith("precomputed"))
        whole = time.process_time() - began
    return found | {"whole": whole, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def least(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the least of each figure over the rounds: what other work on the machine adds is never negative."""
    steps = math.fsum(min(each) for each in zip(*(run["steps"] for run in runs), strict=True))
    return {"steps": steps} | {name: min(run[name] for run in runs) for name in ("reference", "whole", "peak")}


def report(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the tables of docs/performance.md."""
    best = {name: least(found) for name, found in runs.items()}
    num = len(runs["udasa"][0]["steps"])
    columns = ("contender", "steps, CPU s", "a step", "reference, with loading", "whole run", "peak MB")
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    for name, found in best.items():
        read = f"{found['reference']:.1f}" if found["reference"] else "in the steps"
        cells = (f"{found['steps']:.1f}", f"{found['steps'] / num:.2f}", read, f"{found['whole']:.1f}")
        lines.append(f"| {' | '.join((name, *cells))} | {found['peak']:.0f} |")
    ours, plain, stored = (best[name] for name in CONTENDERS)
    ratios = {
        "a step, against plain TRL with the reference precomputed": (ours["steps"] / stored["steps"], 1.03),
        "steps and reference, against the steps of plain TRL": (
            (ours["steps"] + ours["reference"]) / plain["steps"],
            1.03,
        ),
        "the whole staged run, against the sum of plain TRL's DPO steps, which read the reference": (
            ours["whole"] / plain["steps"],
            1.05,
        ),
        "the whole staged run, against its own steps and its reading of the reference": (
            ours["whole"] / (ours["steps"] + ours["reference"]),
            1.05,
        ),
        "the whole staged run, against the whole plain run": (ours["whole"] / plain["whole"], 1.05),
        "peak memory, against plain TRL": (ours["peak"] / plain["peak"], 1.00),
    }
    lines += ["", "| ratio | found | aim |", "|---|---:|---:|"]
    lines += [f"| {name} | {found:.3f} | {aim:.2f} |" for name, (found, aim) in ratios.items()]
    apart = max(abs(a - b) for a, b in zip(runs["udasa"][0]["losses"], runs["trl"][0]["losses"], strict=True))
    return "\n".join([*lines, "", f"Largest difference of a step's loss to plain TRL: {apart:.2e} ({num} steps)."])


def main() -> None:
    """Run the contenders in turns and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model")
    parser.add_argument("--contender", choices=CONTENDERS)
    given = parser.parse_args()
    if given.contender:
        policy = ModelSpec(model=given.model) if given.model else recipe.load("demo").policy
        print(json.dumps(work(given.contender, given.pairs, policy)))
        return
    env = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for _ in range(given.rounds):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--contender", name, "--pairs", str(given.pairs)]
            command += ["--model", given.model] if given.model else []
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name}: {runs[name][-1]['whole']:.1f} s", file=sys.stderr, flush=True)
    print(report(runs))


if __name__ == "__main__":
    main()
