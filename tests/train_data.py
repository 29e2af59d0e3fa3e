"""Staged pairs for the training tests: rows, data sets as `udasa publish` writes them, and adapters to compare."""

import gc
import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests import tiny
from udasa import schema
from udasa.backends import ModelSpec
from udasa.recipe import Training

SETTINGS = Training(learning_rate=2e-3, batch_size=4, device_batch_size=4, max_length=96)
DEPRECATED = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
"""PEFT 0.21 and TRL 1.16 read the old name; `train` keeps the warning off the console, they alone do not."""

QUESTIONS = ("What is the capital of France?", "Tell me a joke about a cat.", "Is it safe and helpful?")


def pair(stage, number, prompt=None, chosen=None, rejected="I cannot help with that request, sorry."):
    row = dict.fromkeys(schema.PAIRS.names)
    chosen = chosen or ("Paris is the capital." if number % 2 else "The answer is yes.")
    row |= {
        "prompt_id": f"{stage}-{number}",
        "prompt": [{"role": "user", "content": prompt or f"{QUESTIONS[number % 3]} {number}"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "chosen_id": "0",
        "rejected_id": "1",
        "u_chosen": 0.1,
        "u_rejected": 0.4,
        "gap": 0.3,
        "stage": stage,
        "split": "train",
        "task": "helpfulness",
        "domain": "general",
        "source": "test",
    }
    return row


def rows(*stages, num=12):
    """Return stage -> pairs; no two stages share a prompt."""
    prompts = {stage: [f"{QUESTIONS[n % 3]} {'abcdef'[i]}{n}" for n in range(num)] for i, stage in enumerate(stages)}
    return {stage: [pair(stage, n, prompt=prompts[stage][n]) for n in range(num)] for stage in stages}


def datasets(*stages, num=12, columns=("prompt_id", "prompt", "chosen", "rejected", "gap")):
    """Return what `train_stages` takes: a Dataset a stage."""
    from datasets import Dataset

    found = rows(*stages, num=num)
    return {
        stage: Dataset.from_list([{name: row[name] for name in columns} for row in found[stage]]) for stage in found
    }


def publish(folder, rows, leave_out=()):
    """Write what `udasa.publish` does, for each stage with pairs: parquet, and its config in the card."""
    folder.mkdir(parents=True)
    card = ["---", "configs:"]
    for stage, pairs in rows.items():
        if pairs:
            path = folder / "data" / stage / "train-00000.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(pairs, schema=schema.PAIRS).drop_columns(list(leave_out)), path)
            files = f"data_files: [{{split: train, path: data/{stage}/train-*.parquet}}]"
            card.append(f"- {{config_name: {stage}, {files}}}")
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return str(folder)


def stage_folder(output, stage):
    return output / "stages" / f"{1 + schema.STAGES.index(stage)}-{stage}"


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def spread(a, b):
    """Return the largest difference between two adapters."""
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a)


def steps_of(calls):
    """Return what a recorder saw of the optimiser steps; what a reference reads may be in the cache already."""
    return [call for call in calls if call[0].startswith("train ")]


def logged(output):
    """Return the log of a run's steps."""
    logs = [path.read_text() for path in sorted(output.glob("stages/*/steps.jsonl"))]
    return [json.loads(line) for text in logs for line in text.splitlines()]


def make_policy():
    """Return the tiny policy, and keep the libraries out of the garbage collector's way: it runs at every stage."""
    import peft  # noqa: F401
    import trl

    assert trl.DPOTrainer
    gc.collect()
    gc.freeze()
    return ModelSpec(model=str(tiny.policy()))
