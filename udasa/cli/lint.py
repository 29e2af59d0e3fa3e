"""Commands that audit: lint."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from udasa.cli.terminal import app, out, quiet_libraries, table

if TYPE_CHECKING:
    from udasa.backends import ModelSpec
    from udasa.lint import CountTokens, Finding


@app.command()
def lint(
    target: Annotated[str, typer.Argument(help="A build, a release's folder, or a Hub data set (org/name@tag).")],
    eval_data: Annotated[
        list[str] | None,
        typer.Option(
            help="More evaluation data: a .jsonl, .csv or .parquet file, a folder of them (a mirror of the suite), "
            "or org/name[:config][@revision]."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="The trainer's model: a folder, a Hub id, or the name that the recipe's policy has."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Audit the labels of a data set; exit 1 if a finding is beyond the limit that the recipe sets."""
    quiet_libraries()
    findings = find(target, eval_data or [], tokenizer)
    if as_json:
        print(json.dumps([finding.to_json() for finding in findings], indent=2, allow_nan=False))
    else:
        _print(findings)
    if any(finding.failed for finding in findings):
        raise typer.Exit(1)


def find(target: str, eval_data: Sequence[str], tokenizer: str | None) -> "list[Finding]":
    """Audit a build's folder, finished or failed, or a release; what only its models can tell is taken as stored."""
    from udasa import lint as audit
    from udasa import recipe, run
    from udasa.lint import planted
    from udasa.release import MANIFEST, open_release

    folder = Path(target).expanduser()
    if (folder / "recipe.json").is_file() and not (folder / MANIFEST).is_file() and run.shard_paths(folder, "ledger"):
        text = (folder / "recipe.json").read_text(encoding="utf-8")
        settings = recipe.from_json(text, origin=str(folder / "recipe.json"))
        evaluation = audit.read_evaluation([*settings.lint.evaluation, *eval_data])
        return audit.audit_build(settings, folder, evaluation, counter(tokenizer, settings.policy))
    opened = open_release(target)
    settings = opened.recipe
    evaluation = audit.read_evaluation([*settings.lint.evaluation, *eval_data])
    pairs, scored, ledger = opened.frame("pairs"), opened.frame("scored"), opened.frame("ledger")
    findings = audit.lint(pairs, scored, ledger, settings, evaluation, counter(tokenizer, settings.policy))
    stored = planted.stored_findings(opened.facts.get("findings", []))
    return sorted([*findings, *stored], key=lambda finding: finding.name)


def counter(model: str | None, policy: "ModelSpec") -> "CountTokens | None":
    """Return what counts tokens as the trainer does: the chat template over prompt and reply.

    The recipe's policy is found as a build finds it, at its revision or in its package.
    """
    if model is None:
        return None
    from udasa.backends_hf.weights import chat_tokens, find_weights
    from udasa.errors import UserError, require

    transformers = require("transformers", extra="hf")
    path, revision = str(Path(model).expanduser()), None
    if model == policy.model:
        path, revision = find_weights(policy)[:2]
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"There is no tokenizer at {model}: {error}") from error
    if loaded.chat_template is None:
        raise UserError(
            f"The tokenizer of {model} has no chat template, so a trainer cannot read conversations with it."
        )

    def count(conversations: Sequence[Sequence[dict[str, str]]]) -> list[int]:
        return [len(chat_tokens(loaded, conversation)) for conversation in conversations]

    return count  # type: ignore[return-value]


def _print(findings: "Sequence[Finding]") -> None:
    """Print a line a finding, then a sentence on each that fails, is there, or was not checked."""
    from udasa.lint.finding import UNCHECKED

    shown = table("finding", "count", "value", "95 % interval", "limit", title="Audit")
    shown.columns[0].no_wrap = True
    for f in findings:
        count = "not checked" if f.detail.startswith(UNCHECKED) else f"{f.count:,} of {f.total:,}"
        value = "" if f.value is None else f"{f.value:.3f}"
        interval = "" if f.low is None else f"{f.low:.3f} to {f.high:.3f}"
        limit = "" if f.threshold is None else f"{f.threshold:g}"
        shown.add_row(f.name, count, value, interval, f"[bold red]{limit} fails[/]" if f.failed else limit)
    out.print(shown)
    for f in findings:
        if f.count or f.value or f.value is None:
            examples = f" For example {', '.join(f.examples)}." if f.examples else ""
            out.print(f"{f.name}: {f.detail}{examples}", markup=False, highlight=False, soft_wrap=True)
