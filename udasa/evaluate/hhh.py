"""prometheus-eval's hhh_alignment_eval.json -> the file that udasa_hhh reads: the pairs without the rubric around them.

python -m udasa.evaluate.hhh hhh_alignment_eval.json DIR/hhh_alignment/hhh_alignment.jsonl
"""

import json
import sys
from pathlib import Path

_MARKS = ("###The instruction to evaluate:", "###Response to evaluate:", "###Score Rubrics:")


def cut(text: str) -> str:
    """Return the pairs as JSON lines, in the order of the file; `udasa.evaluate.sources` knows their sha256.

    Raises:
        ValueError: a prompt is not of the form of that file.
    """
    lines = []
    for number, row in enumerate(json.loads(text)):
        (query, chosen), (also, rejected) = (_parts(row[f"{side}_instruction"]) for side in ("chosen", "rejected"))
        if query != also:
            raise ValueError(f"The two instructions of pair {number} differ, expected one query with two replies.")
        pair = {"id": f"hhh-{number:03}", "subset": row["source"], "query": query, "chosen": chosen}
        lines.append(json.dumps({**pair, "rejected": rejected}, ensure_ascii=False) + "\n")
    return "".join(lines)


def _parts(prompt: str) -> tuple[str, str]:
    """Return the query and the reply inside a judge's prompt."""
    places = [prompt.find(mark) for mark in _MARKS]
    if -1 in places or places != sorted(places):
        raise ValueError(f"A prompt has no {', '.join(_MARKS)} in this order: it is not hhh_alignment_eval.json.")
    query, reply = (
        prompt[start + len(mark) : end].strip()
        for start, mark, end in zip(places[:2], _MARKS[:2], places[1:], strict=True)
    )
    return query, reply


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(cut(Path(sys.argv[1]).read_text(encoding="utf-8")).encode())
