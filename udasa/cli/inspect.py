"""The command that makes a page to look at."""

from pathlib import Path
from typing import Annotated

import typer

from udasa.cli.terminal import app, out, quiet_libraries


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(help="A build, a release's folder, or a Hub data set (org/name@v1.0.0).")],
    against: Annotated[str | None, typer.Option(help="An older version to compare with.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("inspect.html"),
) -> None:
    """Write one self-contained HTML page: figures, and every pair with all its answers and why it is in its stage."""
    from udasa import run
    from udasa.inspect import open_target, render_page

    quiet_libraries()
    page = render_page(open_target(target), open_target(against) if against else None)
    run.write_file(output, page.encode())
    out.print(f"{output} ({len(page.encode()) / 1e6:.1f} MB) opens in a browser; it needs no network.", highlight=False)
