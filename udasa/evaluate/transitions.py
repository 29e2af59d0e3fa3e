"""Two runs' samples of right and wrong answers -> what was fixed, broken and kept, and the documents themselves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from udasa.paired import mcnemar

Change = Literal["fixed", "broken"]
_QUESTIONS = ("prompt", "question", "query", "input")
"""Fields that documents keep their question in, in most tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The transition matrix of a metric that is right or wrong; a tie (one half) is not right."""

    fixed: int
    """Better than before."""
    broken: int
    """Worse than before."""
    kept_right: int
    kept_wrong: int
    p: float
    """McNemar's exact test, of independent documents; the difference's own p knows their clusters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A document that one run answered better than the other, as both runs saw it."""

    task: str
    before_run: str
    after_run: str
    document: str
    """lm-eval's document hash, and the number among identical documents."""
    doc_id: int | None
    """Its place in the task's data."""
    cluster: str
    changes: dict[str, Change]
    """Metric -> what became of it."""
    title: str
    """The document's own question where it has one, without what the template puts around it."""
    prompt: str
    """What the model was given; hostile until shown otherwise, as are the answers."""
    target: str
    """What would have been right, where the task says it: the text of a choice, else the task's target."""
    before: str
    """The answer; of choices, each with its log-likelihood in nats."""
    after: str


def changes(before: Mapping[str, float], after: Mapping[str, float], higher_is_better: bool) -> Changes:
    """Count the transitions of the documents of both, values 0, 1 or one half."""
    found = [_change(before[key], after[key], higher_is_better) for key in before]
    kept = [key for key, change in zip(before, found, strict=True) if change is None]
    right = sum(before[key] == float(higher_is_better) for key in kept)
    fixed, broken = found.count("fixed"), found.count("broken")
    return Changes(fixed=fixed, broken=broken, kept_right=right, kept_wrong=len(kept) - right, p=mcnemar(fixed, broken))


def changed_items(
    task: str,
    runs: tuple[str, str],
    values: Iterable[tuple[str, Mapping[str, float], Mapping[str, float], bool]],
    samples: tuple[Mapping[str, Mapping[str, Any]], Mapping[str, Mapping[str, Any]]],
    clusters: Mapping[str, str],
) -> list[Item]:
    """Return the documents that changed by any metric, in the order of the first run's samples.

    Args:
        task: its name.
        runs: the names of the two runs.
        values: metric, document -> value before, the same after, whether higher is better.
        samples: document -> sample, before and after.
        clusters: document -> cluster.
    """
    found: dict[str, dict[str, Change]] = {}
    for metric, before, after, higher_is_better in values:
        for key, value in before.items():
            if change := _change(value, after[key], higher_is_better):
                found.setdefault(key, {})[metric] = change
    return [
        Item(
            task=task, before_run=runs[0], after_run=runs[1], document=key, doc_id=sample.get("doc_id"),
            cluster=clusters[key], changes=found[key], title=_title(sample), prompt=_prompt(sample),
            target=_target(sample), before=_answer(sample), after=_answer(samples[1][key]),
        )
        for key, sample in samples[0].items() if key in found
    ]  # fmt: skip


def _change(before: float, after: float, higher_is_better: bool) -> Change | None:
    if before == after:
        return None
    return "fixed" if (after > before) == higher_is_better else "broken"


def _title(sample: Mapping[str, Any]) -> str:
    doc = sample.get("doc")
    named = [doc[name] for name in _QUESTIONS if isinstance(doc.get(name), str)] if isinstance(doc, dict) else []
    return str((named or [_prompt(sample)])[0])


def _prompt(sample: Mapping[str, Any]) -> str:
    """Return what the model was asked: the first argument of the first request."""
    return str(next(iter(_requests(sample)), {}).get("arg_0", ""))


def _target(sample: Mapping[str, Any]) -> str:
    target, choices = str(sample.get("target", "")), [str(r.get("arg_1", "")).strip() for r in _requests(sample)]
    is_choice = target.isdigit() and len(choices) > 1 and int(target) < len(choices)
    return choices[int(target)] if is_choice else target


def _requests(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    arguments = sample.get("arguments")
    return list(arguments.values()) if isinstance(arguments, dict) else []


def _answer(sample: Mapping[str, Any]) -> str:
    """Return the answers as text: what was generated, or each choice with its log-likelihood."""
    arguments = _requests(sample)
    lines = []
    for index, answers in enumerate(sample.get("resps", [])):
        for answer in answers if isinstance(answers, list) else [answers]:
            if isinstance(answer, list) and len(answer) == 2 and index < len(arguments):
                lines.append(f"{float(answer[0]):.2f} nats: {str(arguments[index].get('arg_1', '')).strip()}")
            else:
                lines.append(str(answer))
    return "\n".join(lines)
