"""A small build by hand, and how to look at one."""

from pathlib import Path
from typing import Any

from tests.tables import recipe, write_jsonl
from udasa import flow, run
from udasa.recipe import Pairing, Recipe

LONG = "Tell me in a few short words why the sky over the sea is blue in the morning and red at night"
SHARDS = 3


def nine_prompts(folder: Path) -> Recipe:
    """Nine prompts in three shards, one exact and one near duplicate."""
    first = write_jsonl(folder / "first.jsonl", *(f"Question {i}?" for i in range(6)), "Question 2?", LONG)
    second = write_jsonl(folder / "second.jsonl", LONG + " here", "Another?", "And one more?")
    return recipe(first, second, shard_size=3, pairing=Pairing(risk_ceiling=0.6))


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but what hangs on how often a run was killed: the remembered answers, and the log."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name not in flow.LOCAL}


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.read(folder, name).to_pylist()
    return rows
