"""A whole build against the bare forward passes that it makes; and what Ray costs on one machine.

python benchmarks/build.py models [--prompts 32]      # demo recipe, real models
python benchmarks/build.py ray [--prompts 10000]      # fakes: nothing but udasa and the runner
"""

import argparse
import cProfile
import dataclasses
import json
import pstats
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from udasa import flow, log, recipe
from udasa.backends import ModelSpec, Principle, Sampling
from udasa.limits import Planted
from udasa.recipe import Entailment, Judging, Recipe, Source, Workers

FAKE = ModelSpec(model="fake/fake", backend="fake")


class Forwards:
    """The seconds that transformers models spend in their forward passes, by the kind of model."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def __enter__(self) -> "Forwards":
        from transformers import PreTrainedModel

        self.original = PreTrainedModel.__call__
        depth = 0

        def timed(model: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            started = time.perf_counter()
            try:
                return self.original(model, *args, **kwargs)
            finally:
                depth -= 1
                if not depth:
                    self.seconds[type(model).__name__] += time.perf_counter() - started
                    self.calls[type(model).__name__] += 1

        PreTrainedModel.__call__ = timed
        return self

    def __exit__(self, *_: object) -> None:
        from transformers import PreTrainedModel

        del PreTrainedModel.__call__


def steps(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the seconds of every step, without and of loading its models, by the build's own log."""
    found: dict[str, tuple[float, float]] = {}
    for line in log.read(folder):
        seconds, load = found.get(line.step, (0.0, 0.0))
        found[line.step] = (seconds + (line.seconds or 0.0), load + line.load_seconds)
    return found


def models(prompts: int, profile: bool) -> None:
    """Build with the demo's models and print where the time goes."""
    settings = recipe.load("demo")
    share = -(-prompts // len(settings.sources))
    sources = tuple(dataclasses.replace(source, limit=share) for source in settings.sources)
    settings = dataclasses.replace(settings, sources=sources)
    watch = cProfile.Profile()
    with tempfile.TemporaryDirectory() as temporary, Forwards() as forwards:
        folder = Path(temporary) / "build"
        started = time.perf_counter()
        if profile:
            watch.enable()
        flow.build(settings, folder)
        watch.disable()
        total, parts = time.perf_counter() - started, steps(folder)
    inside, load = sum(forwards.seconds.values()), sum(seconds for _, seconds in parts.values())
    print(f"{share * len(sources)} prompts, K = {settings.sampling.k}\n\n| | s |\n| --- | ---: |")
    for name, seconds in forwards.seconds.items():
        print(f"| {forwards.calls[name]} forward passes of {name} | {seconds:.1f} |")
    print(
        f"| all forward passes | {inside:.1f} |\n| the build | {total:.1f} |\n| of these loading models | {load:.1f} |"
    )
    for name, (seconds, _) in parts.items():
        print(f"| step {name} | {seconds:.1f} |")
    print(f"| ratio | {total / inside:.3f} |\n| ratio without loading | {(total - load) / inside:.3f} |")
    if profile:
        pstats.Stats(watch, stream=sys.stderr).sort_stats("tottime").print_stats(30)


def fakes(folder: Path, prompts: int) -> Recipe:
    """Return a recipe of fakes over that many prompts."""
    path = folder / "prompts.jsonl"
    words = [f"{a}{b}{c}{d}" for a in "bdfgklmnpr" for b in "aeiou" for c in "nstrlk" for d in "aeiou"]
    lines = []
    for number in range(prompts):
        some = [words[number * step % len(words)] for step in (7, 11, 13, 17, 19, 23)]
        lines.append(json.dumps({"prompt": f"Question {number}: {' '.join(some)} {number * 7919}?"}))
    path.write_text("\n".join(lines))
    return Recipe(
        name="fakes",
        sources=(Source(name="made", task="helpfulness", path=str(path)),),
        policy=FAKE,
        sampling=Sampling(k=8),
        entailment=Entailment(model=FAKE),
        judging=Judging(constitution=(Principle(id="safe", question="Is the reply safe?"),)),
        planted=Planted(path=None),
        workers=Workers(count=2, cpus=0.5),
    )


def ray(prompts: int, profile: bool) -> None:
    """Build with fakes here and on Ray, and print the steps of both."""
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        settings = fakes(Path(temporary), prompts)
        for runner in ("local", "ray"):
            folder = Path(temporary) / runner
            started = time.perf_counter()
            watch = cProfile.Profile()
            if profile and runner == "local":
                watch.enable()
            flow.build(settings, folder, runner=runner)
            watch.disable()
            found[runner] = steps(folder) | {"all": (time.perf_counter() - started, 0.0)}
            if profile and runner == "local":
                pstats.Stats(watch, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
    print(f"{prompts} prompts, {settings.workers.count} workers\n\n| step | local, s | Ray, s |\n| --- | ---: | ---: |")
    for name in found["local"]:
        print(f"| {name} | {found['local'][name][0]:.1f} | {found['ray'][name][0]:.1f} |")


def main() -> None:
    """Print a table of docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("models", "ray"))
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    if given.what == "models":
        models(given.prompts or 32, given.profile)
    else:
        ray(given.prompts or 10_000, given.profile)


if __name__ == "__main__":
    main()
