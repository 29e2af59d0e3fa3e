"""Questions a prompt, for K answers and a share of exact repeats: what each way of comparing them asks. No model runs.

python benchmarks/cost.py
"""

from typing import Any

import worker
import workload as workloads

FILLERS = [f"word{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
"""Words for the texts; no model reads them."""
WORDS = [*FILLERS * 30, *(f"meaning{i}" for i in "abcdefgh")]
WAYS = ("pairs", "first-representative", "components", "scored")


def row(k: int, duplicates: float, prompts: int = 100) -> dict[str, Any]:
    """Return the questions a prompt of each way, as means over seeded prompts."""
    made = workloads.make(WORDS, prompts, k, duplicates)
    shape = made.shape()
    asked = {way: len(set(worker.questions_of(way, made.prompts, made.meanings))) / prompts for way in WAYS}
    found = {"K": k, "repeats": shape["exact duplicates"], "unique": shape["unique answers a prompt"]}
    return found | {"meanings": shape["meanings a prompt"], "K(K-1)": k * (k - 1)} | asked


def main() -> None:
    """Print the table of docs/performance.md."""
    rows = [row(k, duplicates) for k in (4, 8, 16) for duplicates in (0.0, 0.3, 0.6)]
    print("| " + " | ".join(rows[0]) + " |\n|" + " ---: |" * len(rows[0]))
    for one in rows:
        print("| " + " | ".join(f"{v:.2f}" if name == "repeats" else f"{v:.1f}" for name, v in one.items()) + " |")


if __name__ == "__main__":
    main()
