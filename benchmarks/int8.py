"""The 8-bit runtime against float32 on the benchmark's model: how near its answers are, and what it costs.

python benchmarks/int8.py --cache FOLDER [--prompts 8]
The head is random, so labels are those of a random head: near ties are common, and agreement is a lower estimate.
"""

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np
from run import prepare

from udasa.backends import ModelSpec, make_entailer


def main() -> None:
    """Print one row a runtime."""
    parser = argparse.ArgumentParser(description="Compare the runtimes of an entailer.")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "udasa" / "benchmarks")
    parser.add_argument("--prompts", type=int, default=8)
    arguments = parser.parse_args()
    model, _, made = prepare(arguments.cache, arguments.prompts)
    pairs = [pair for texts in made.prompts for pair in product(dict.fromkeys(texts), repeat=2) if pair[0] != pair[1]]
    spec = ModelSpec(model=str(model), batch_tokens=2048)
    answers = {}
    print("| runtime | pairs | CPU s | largest change of a probability | mean change | same label |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for runtime in ("torch", "onnx-int8"):
        entailer = make_entailer(spec, "nli", 0.8, runtime)
        begun = time.process_time()
        answers[runtime] = entailer.entail(pairs)
        seconds = time.process_time() - begun
        change = np.abs(answers[runtime] - answers["torch"])
        same = np.mean(answers[runtime].argmax(axis=1) == answers["torch"].argmax(axis=1))
        print(f"| {runtime} | {len(pairs)} | {seconds:.1f} | {change.max():.4f} | {change.mean():.4f} | {same:.1%} |")


if __name__ == "__main__":
    main()
