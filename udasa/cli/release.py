"""Commands about what leaves the machine: publish, verify, rebuild, diff, card, where."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from udasa.cli.terminal import app, out, print_loading, quiet_libraries, table
from udasa.errors import UserError


class ShelfName(Enum):
    """The shelves."""

    builders = "builders"
    eval = "eval"
    cards = "cards"


class Gate(Enum):
    """How readers of a gated repository get access."""

    auto = "auto"
    manual = "manual"


_GATES: dict[Gate, Literal["auto", "manual"]] = {Gate.auto: "auto", Gate.manual: "manual"}


Target = Annotated[str, typer.Argument(help="A folder, or a Hub data set: org/name or org/name@revision.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def publish(
    build: Annotated[Path, typer.Argument(help="Build folder.")],
    target: Annotated[str, typer.Argument(help="A folder (./name) or a Hub data set (org/name).")],
    version: Annotated[
        str | None,
        typer.Option(help="MAJOR.MINOR.PATCH, or auto for the one that the differences ask for; without it, only say."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make the repository public.")] = False,
    gated: Annotated[Gate | None, typer.Option(help="Let readers ask for access: granted at once, or by hand.")] = None,
) -> None:
    """Publish a build as a data set: one commit, a tag, and read back."""
    from udasa import publish as publishing

    quiet_libraries()
    if version is None:
        proposal = publishing.propose(build, target)
        number = ".".join(map(str, proposal.version))
        out.print(f"Nothing was published. The differences ask for {number}: {proposal.why}", soft_wrap=True)
        out.print(f"    udasa publish {build} {target} --version {number}", highlight=False, soft_wrap=True)
        return
    release = publishing.publish(
        build, target, version=version, private=not public, gated=None if gated is None else _GATES[gated]
    )
    commit = f", commit {release.commit}" if release.commit else ""
    out.print(f"Published {release.target} {release.version}{commit}", highlight=False, soft_wrap=True)
    out.print(f"manifest sha256 {release.digest}; read back and equal", highlight=False, soft_wrap=True)
    out.print(f"Version: {release.why}", highlight=False, soft_wrap=True)
    print_loading(release.target, "exploratory", f"v{release.version}" if release.commit else None)


@app.command()
def verify(target: Target, as_json: AsJson = False) -> None:
    """Check a release from its bytes up; exit 1 and say what does not fit, if anything."""
    from udasa.publish import verify as run_verify
    from udasa.publish.checks import MEANINGS

    quiet_libraries()
    found = run_verify(target)
    if as_json:
        problems = [problem._asdict() for problem in found.problems]
        print(json.dumps({**found._asdict(), "problems": problems}, indent=2))
    else:
        shown = table("check", "found", "what it holds the release to", title=f"{target}")
        for name, meaning in MEANINGS.items():
            count = sum(problem.check == name for problem in found.problems)
            shown.add_row(
                name, "not made" if name not in found.checked else f"{count} wrong" if count else "ok", meaning
            )
        out.print(shown)
        for problem in found.problems:
            ids = f" ({', '.join(problem.ids)})" if problem.ids else ""
            out.print(f"{problem.check}: {problem.what}{ids}", markup=False, highlight=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def rebuild(
    target: Target,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a build folder.")] = None,
    check: Annotated[bool, typer.Option("--verify", help="Compare with the release, byte by byte.")] = False,
) -> None:
    """Make pairs, stages and ledger again from a release's responses and recipe, without a model."""
    from udasa.publish import rebuild as run_rebuild
    from udasa.publish import rebuild_differs

    if check == (output is not None):
        raise UserError("Say either --verify, to compare with the release, or --output FOLDER, to write a build.")
    if output is not None:
        out.print(f"Build: {run_rebuild(target, output)}", highlight=False, soft_wrap=True)
        return
    found = rebuild_differs(target)
    for line in found.differ:
        out.print(f"differs: {line}", markup=False, highlight=False, soft_wrap=True)
    same = len(found.files) - len(set(found.files) & set(found.differ))
    out.print(f"{same} of {len(found.files)} tables come out byte for byte.", highlight=False)
    if found.differ:
        raise typer.Exit(1)


@app.command()
def diff(
    before: Target,
    after: Target,
    as_json: AsJson = False,
) -> None:
    """Say which pairs differ between two releases or builds, how, and why."""
    from udasa.publish import diff as run_diff
    from udasa.release import open_data

    found = run_diff(open_data(before), open_data(after))
    if as_json:
        print(json.dumps({**found.summary(), "rows": found.rows.to_dicts()}, indent=2, ensure_ascii=False))
        return
    shown = table(
        "change", "reason", "pairs", title=f"{found.rows.height} pairs differ ({found.pairs[0]} -> {found.pairs[1]})"
    )
    for change, reason, count in found.counts():
        shown.add_row(change, reason, str(count))
    out.print(shown)
    out.print(f"Asks for: {found.level()}. {found.why()}.", markup=False, highlight=False, soft_wrap=True)
    for line in found.settings:
        out.print(f"setting {line}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="A release (manifest.json) or a training (training.json).")],
    repo: Annotated[
        str | None,
        typer.Option(help="The name that the card shows; default: the release's own, or the training's folder."),
    ] = None,
    before: Annotated[Path | None, typer.Option(help="Evaluation of the base model, for a model card.")] = None,
    after: Annotated[Path | None, typer.Option(help="Evaluation of the adapter, for a model card.")] = None,
    push: Annotated[str | None, typer.Option(help="Push adapter, card and results to this Hub model.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Create the repository as public.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only validate the card that is there.")] = False,
) -> None:
    """Render a card anew from its manifest or training facts, and validate it."""
    from udasa import cards
    from udasa.publish import attach, publish_model, write_card
    from udasa.publish.assemble import stamp

    path = folder / "README.md"
    kind: Literal["dataset", "model"] = "dataset" if (folder / "manifest.json").is_file() else "model"
    if kind == "dataset" and (before or after or push):
        raise UserError(f"{folder} is a data set; --before, --after and --push are for a model's card.")
    if (before is None) != (after is None):
        raise UserError("--before and --after belong together: give both evaluations, or neither.")
    if not check:
        facts = _facts(folder, "manifest.json" if kind == "dataset" else "training.json")
        if kind == "dataset":
            stamp({**facts, "repository": repo or facts["repository"]}, folder)
        else:
            if before and after:
                attach(folder, before, after)
            write_card(folder, repo or push or folder.name)
    if not path.is_file():
        raise UserError(f"{folder} holds no README.md to check. Run `udasa card {folder}` first.")
    cards.validate(path.read_text(encoding="utf-8"), kind)
    out.print(f"{path} is a valid {kind} card.", highlight=False, soft_wrap=True)
    if push:
        out.print(f"Pushed {push}, commit {publish_model(folder, push, private=not public)}", highlight=False)


@app.command()
def where(shelf: Annotated[ShelfName, typer.Argument(help="Which shelf.")]) -> None:
    """Print the folder of a shelf, to read, copy or pass on: lm_eval --include_path $(udasa where eval)."""
    from udasa import resources

    print(resources.shelf(shelf.value))


def _facts(folder: Path, name: str) -> Any:
    if not (folder / name).is_file():
        raise UserError(f"{folder} is neither a release (manifest.json) nor a training (training.json).")
    return json.loads((folder / name).read_text(encoding="utf-8"))
