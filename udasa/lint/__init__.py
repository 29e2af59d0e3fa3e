"""A build's tables -> findings: an audit of the labels, each finding with a count, a value, a limit and examples.

lint(pairs, scored, ledger, recipe)
-> [Finding(name="longer-chosen", count=26, total=43, value=0.605, low=0.456, high=0.736, threshold=None, ...), ...]

docs/lint.md says what each finding means.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from udasa import run
from udasa.errors import LimitError, UserError
from udasa.limits import LIMITS, Lint
from udasa.lint import planted
from udasa.lint.evaluation import Evaluation, read_evaluation
from udasa.lint.finding import Finding, share, unchecked
from udasa.lint.labels import label_findings
from udasa.lint.overlap import between_prompts, in_prompts, overlap_findings
from udasa.recipe import Recipe

__all__ = [
    "CountTokens",
    "Evaluation",
    "Finding",
    "audit_build",
    "audit_prompts",
    "audit_training",
    "disagreements",
    "fail_on_limits",
    "lint",
    "over_max_length",
    "read_evaluation",
    "recheck",
]

CountTokens = Callable[[Sequence[Sequence[Mapping[str, str]]]], Sequence[int]]
"""Conversations -> their lengths in tokens, as the trainer cuts them."""

_DIGITS = 1e-9
_SCORED = ["prompt_id", *(f"responses.list.element.{name}" for name in ("response_id", "finish_reason", "value_risk"))]
"""What the findings read of the scored rows, the largest table of a build."""


def lint(
    pairs: pl.DataFrame,
    scored: pl.DataFrame,
    ledger: pl.DataFrame,
    settings: Recipe,
    evaluation: Evaluation | None = None,
    count_tokens: CountTokens | None = None,
) -> list[Finding]:
    """Return every finding, sorted by name: a pure function of the tables' rows in any order.

    Args:
        pairs: as `schema.PAIRS`.
        scored: as `schema.SCORED`.
        ledger: as `schema.LEDGER`.
        settings: the recipe, with its limits.
        evaluation: what the pairs must not overlap with; default: the bundled suite and the recipe's.
        count_tokens: the trainer's tokenizer; without it one finding is not checked, and says so.
    """
    limits = _limits(settings.lint)
    rows = _with_texts(pairs)
    evaluation = evaluation or read_evaluation(settings.lint.evaluation)
    findings = [
        *label_findings(rows, scored, ledger, settings, limits),
        *overlap_findings(rows, evaluation, settings, limits),
        _lengths(pairs, settings.training.max_length, limits, count_tokens),
    ]
    return sorted(findings, key=lambda finding: finding.name)


def audit_prompts(prompts: pl.DataFrame, settings: Recipe) -> list[Finding]:
    """Return what is known before anything is sampled: the prompts' overlap with the evaluation, where the limit is 0.

    A larger limit is a share of the pairs, which are not known yet. `prompts` is as `schema.PROMPTS`.
    """
    limits = _limits(settings.lint)
    names = [name for name, limit in limits.items() if limit == 0]
    if not {"evaluation-near-duplicates", "evaluation-ngrams-in-prompts"} & set(names):
        return []
    rows = prompts.select("prompt_id", prompt_text=_turns("messages")).sort("prompt_id")
    found = in_prompts(rows, read_evaluation(settings.lint.evaluation), settings.lint, limits)
    return [finding for finding in found if finding.name in names]


def audit_training(
    train: pl.DataFrame,
    test: pl.DataFrame,
    settings: Lint,
    near_duplicate: float,
    evaluation: Evaluation | None = None,
) -> list[Finding]:
    """Return what pairs that are to be trained on share with their own test split, and with the evaluation.

    Args:
        train: the pairs of all stages, with the columns prompt_id and prompt.
        test: pairs that are held out, with the same; they may be none.
        settings: what is alike, the limits, and more evaluation data.
        near_duplicate: the recipe's.
        evaluation: default: the bundled suite and that of `settings`.
    """
    limits = _limits(settings)
    both = [
        frame.select("prompt_id", prompt_text=_turns("prompt")).with_columns(split=pl.lit(split), stage=pl.lit(""))
        for split, frame in (("train", train), ("test", test))
        if frame.height
    ]
    rows = pl.concat(both).sort("prompt_id")
    among = between_prompts(rows, settings, near_duplicate, limits)
    against = evaluation or read_evaluation(settings.evaluation)
    found = in_prompts(rows.filter(pl.col("split") == "train"), against, settings, limits)
    return sorted([*(f for f in among if f.name == "leaked-test-prompts"), *found], key=lambda finding: finding.name)


def audit_build(
    settings: Recipe, folder: Path, evaluation: Evaluation | None = None, count_tokens: CountTokens | None = None
) -> list[Finding]:
    """Return every finding of a build's folder, also of one whose audit failed, with those of the planted questions."""
    pairs, ledger = (run.read_frame(folder, name) for name in ("pairs", "ledger"))
    scored = run.read_frame(folder, "scored", _SCORED)
    answers = planted.read_answers(folder / planted.FILE)
    findings = lint(pairs, scored, ledger, settings, evaluation, count_tokens)
    return sorted([*findings, *planted.planted_findings(answers, settings.planted)], key=lambda f: f.name)


def fail_on_limits(findings: Iterable[Finding], then: str) -> None:
    """Raise if a finding is beyond its limit.

    Raises:
        LimitError: every such finding with its value, its limit and examples, and `then`, which says what to do.
    """
    if failed := [finding for finding in findings if finding.failed]:
        told = " ".join(
            f"{f.name} is {f.value:.4g}, the limit {f.threshold:g}: {f.detail}"
            + (f" For example {', '.join(f.examples)}." if f.examples else "")
            for f in failed
        )
        raise LimitError(f"The audit fails. {told} {then}")


def disagreements(stored: Iterable[Mapping[str, Any]], found: Iterable[Finding]) -> list[str]:
    """Return what a release's stored findings say and its tables do not; one line a finding.

    Findings that hang on models, on a tokenizer or on other evaluation data than was found now are left out, and so
    are names that this version does not know.
    """
    now = {finding.name: finding.to_json() for finding in found}
    lines = []
    for old in stored:
        new = now.get(old["name"])
        if new is None or new["name"] == "over-max-length" or _evaluation_of(old) != _evaluation_of(new):
            continue
        wrong = [key for key in new if key != "detail" and not _same(old.get(key), new[key])]
        lines += [f"{old['name']}: {key} is {new[key]}, not {old.get(key)}" for key in wrong]
    return lines


def recheck(
    stored: Iterable[Mapping[str, Any]],
    pairs: pl.DataFrame,
    scored: pl.DataFrame,
    ledger: pl.DataFrame,
    settings: Recipe,
) -> list[str]:
    """Audit a release's tables and return what its stored findings say otherwise; see `disagreements`.

    Where the recipe's own evaluation data is out of reach, the findings against it are left out.
    """
    try:
        evaluation = read_evaluation(settings.lint.evaluation)
    except (UserError, OSError):
        evaluation = read_evaluation()
    return disagreements(stored, lint(pairs, scored, ledger, settings, evaluation))


def _evaluation_of(finding: Mapping[str, Any]) -> str:
    """Return the digest of the evaluation data that a finding is against, or nothing."""
    _, found, after = (
        finding["detail"].rpartition("sha256 ") if finding["name"].startswith("evaluation-") else ("",) * 3
    )
    return after if found else ""


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return abs(old - new) <= _DIGITS
    return bool(old == new)


def _limits(settings: Lint) -> dict[str, float | None]:
    """Return the limits by the names of their findings."""
    return {name.replace("_", "-"): getattr(settings, name) for name in LIMITS}


def _with_texts(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs without their conversations, with the text of the prompt's turns and of both replies."""
    reply = {f"{side}_text": pl.col(side).list.last().struct.field("content").fill_null("") for side in _SIDES}
    texts = pairs.with_columns(prompt_text=_turns("prompt"), **reply)
    return texts.drop("prompt", *_SIDES)


def _turns(column: str) -> pl.Expr:
    """Return the text of a conversation without its system turns, as near-duplicates are told by."""
    turns = pl.element().filter(pl.element().struct.field("role") != "system").struct.field("content")
    return pl.col(column).list.eval(turns).list.join(" ").fill_null("")


_SIDES = ("chosen", "rejected")


def over_max_length(lengths: pl.DataFrame, max_length: int, limit: float | None) -> Finding:
    """Return the finding about long pairs; `lengths` has prompt_id and tokens, of the longer side with its prompt."""
    return share(
        "over-max-length",
        lengths,
        pl.col("tokens") > max_length,
        {"over-max-length": limit},
        f"{{count}} of {{total}} pairs have a side of more than {max_length} tokens (training.max_length) and are "
        f"cut; the longest has {max(lengths['tokens'].to_list(), default=0)}.",
        exact=True,
    )


def _lengths(
    pairs: pl.DataFrame, max_length: int, limits: Mapping[str, float | None], count_tokens: CountTokens | None
) -> Finding:
    if count_tokens is None:
        why = "no tokenizer was given (udasa lint --tokenizer MODEL)."
        return unchecked("over-max-length", limits, why)
    tokens = [
        pl.Series(count_tokens([prompt + reply for prompt, reply in pairs.select("prompt", side).iter_rows()]))
        for side in _SIDES
    ]
    lengths = pairs.select("prompt_id", tokens=pl.max_horizontal(*(side.cast(pl.Int64) for side in tokens)))
    return over_max_length(lengths, max_length, limits["over-max-length"])
