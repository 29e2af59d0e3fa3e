"""Commands about what leaves the machine: publish, card, where."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from udasa.cli.terminal import app, out, print_loading, quiet_libraries
from udasa.errors import UserError


class ShelfName(Enum):
    """The shelves."""

    builders = "builders"
    eval = "eval"
    cards = "cards"


@app.command()
def publish(
    build: Annotated[Path, typer.Argument(help="A finished build.")],
    target: Annotated[str, typer.Argument(help="A folder (./name) or a Hub data set (org/name).")],
    version: Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH; the tag is v<version>.")],
    public: Annotated[bool, typer.Option("--public", help="Create the repository as public.")] = False,
) -> None:
    """Publish a build as a data set: one commit, a tag, and read back."""
    from udasa.publish import publish as run_publish

    quiet_libraries()
    release = run_publish(build, target, version=version, private=not public)
    commit = f", commit {release.commit}" if release.commit else ""
    out.print(f"Published {release.target} {release.version}{commit}", highlight=False, soft_wrap=True)
    out.print(f"manifest sha256 {release.digest}; read back and equal", highlight=False, soft_wrap=True)
    print_loading(release.target, "exploratory", f"v{release.version}" if release.commit else None)


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="A release (manifest.json) or a training (training.json).")],
    repo: Annotated[str | None, typer.Option(help="The name that the card shows; default: the folder.")] = None,
    before: Annotated[Path | None, typer.Option(help="Evaluation of the base model, for a model card.")] = None,
    after: Annotated[Path | None, typer.Option(help="Evaluation of the adapter, for a model card.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only validate the card that is there.")] = False,
) -> None:
    """Render a card anew from its manifest or training facts, and validate it."""
    from udasa import cards, run
    from udasa.evaluate import compare as run_compare

    path = folder / "README.md"
    kind: Literal["dataset", "model"] = "dataset" if (folder / "manifest.json").is_file() else "model"
    if not check:
        if (before is None) != (after is None):
            raise UserError("--before and --after belong together: give both evaluations, or neither.")
        facts = _facts(folder, "manifest.json" if kind == "dataset" else "training.json")
        if kind == "dataset":
            pictures = [(f"figures/{p.name}", p.stem.capitalize()) for p in sorted((folder / "figures").glob("*.svg"))]
            text = cards.render_dataset_card(facts, repo, pictures)
        else:
            results = run_compare(before, after) if before and after else None
            text = cards.render_model_card(facts, repo or folder.name, results)
        run.write_file(path, text.encode())
    if not path.is_file():
        raise UserError(f"{folder} holds no README.md to check. Run `udasa card {folder}` first.")
    cards.validate(path.read_text(encoding="utf-8"), kind)
    out.print(f"{path} is a valid {kind} card.", highlight=False, soft_wrap=True)


@app.command()
def where(shelf: Annotated[ShelfName, typer.Argument(help="Which shelf.")]) -> None:
    """Print the folder of a shelf, to read, copy or pass on: lm_eval --include_path $(udasa where eval)."""
    from udasa import resources

    print(resources.shelf(shelf.value))


def _facts(folder: Path, name: str) -> Any:
    if not (folder / name).is_file():
        raise UserError(f"{folder} is neither a release (manifest.json) nor a training (training.json).")
    return json.loads((folder / name).read_text(encoding="utf-8"))
