"""A target -> what is there: a release in a folder or on the Hub, or a build.

opened = open_release("org/udasa-pairs@v1.0.0")     # downloaded; also "./release", or "org/udasa-pairs" for its head
opened.facts["counts"]["pairs"], opened.frame("pairs")
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from udasa import recipe, run
from udasa.errors import UserError
from udasa.recipe import Recipe

MANIFEST = "manifest.json"
Table = Literal["pairs", "scored", "ledger"]
_FILES: Mapping[Table, str] = {
    "pairs": "data/*/*.parquet",
    "scored": "responses/*.parquet",
    "ledger": "ledger.parquet",
}
"""Where a release has its tables."""

_NOTHING = "nothing was published"
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may {}."


@dataclass(frozen=True)
class Opened:
    """A release or a finished build in a local folder."""

    target: str
    """What the user named."""
    folder: Path
    """Where its files are; for a Hub repository a snapshot in the cache."""
    kind: Literal["release", "build"]
    facts: dict[str, Any] = field(repr=False)
    """manifest.json of a release; build.json of a build."""
    commit: str | None = None
    """Commit sha of a Hub repository."""

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that made it."""
        if self.kind == "release":
            return recipe.from_json(json.dumps(self.facts.get("recipe")), origin=f"the recipe in {self.target}")
        path = self.folder / "recipe.json"
        return recipe.from_json(path.read_text(encoding="utf-8"), origin=str(path))

    def frame(self, table: Table) -> pl.DataFrame:
        """Return a whole table, both splits and all stages; the pairs sorted by prompt_id.

        Raises:
            UserError: a file is missing or is not parquet.
        """
        if self.kind == "build":
            return run.read_frame(self.folder, table)
        pattern = _FILES[table]
        paths = sorted(self.folder.glob(pattern))
        if not paths:
            raise UserError(f"{self.target} has no {pattern}, so it is not a whole release. Publish it again.")
        try:
            rows = pl.concat([pl.DataFrame(pl.from_arrow(run.read_parquet(path))) for path in paths])
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise UserError(f"{self.target} cannot be read ({pattern}): {error}") from error
        return rows.sort("prompt_id") if table == "pairs" else rows


def is_folder(target: str) -> bool:
    """Say whether a target means a folder: an absolute path, one that begins with . or ~, or a folder that is there."""
    return target.startswith(("/", ".", "~")) or Path(target).is_dir()


def open_release(
    target: str, *, token: str | None = None, fresh: bool = False, only: Sequence[Table] | None = None
) -> Opened:
    """Open FOLDER, REPO or REPO@REVISION; a repository is downloaded, into the cache, at its head or that revision.

    Args:
        target: the folder or the repository.
        token: of the Hub; None takes the one that is logged in.
        fresh: download every byte again, whatever the cache holds.
        only: the tables that will be asked for, so that a repository's others are not downloaded; None: every file.

    Raises:
        UserError: nothing is there, or what is there is not a release.
    """
    folder, commit = _locate(target, token, fresh, only)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{target} is not a release: it has no {MANIFEST}. Expected what `udasa publish` wrote.")
    return Opened(target, folder, "release", _json(path), commit)


def open_data(target: str, *, token: str | None = None) -> Opened:
    """Open a build folder, or a release as `open_release` does.

    Raises:
        UserError: nothing is there, or it is neither a release nor a finished build.
    """
    if is_folder(target) and not (Path(target).expanduser() / MANIFEST).is_file():
        folder = Path(target).expanduser()
        if not (folder / "build.json").is_file():
            raise UserError(f"{target} is neither a release ({MANIFEST}) nor a finished build (build.json).")
        return Opened(target, folder, "build", _json(folder / "build.json"))
    return open_release(target, token=token)


def _locate(target: str, token: str | None, fresh: bool, only: Sequence[Table] | None) -> tuple[Path, str | None]:
    """Return the local folder of a target, and the commit of a repository."""
    if is_folder(target):
        folder = Path(target).expanduser()
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}. Give a release's folder, or a Hub id (org/name[@revision]).")
        return folder, None
    from huggingface_hub import snapshot_download

    repo, _, revision = target.partition("@")
    wanted = None if only is None else [MANIFEST, *(_FILES[table] for table in only)]
    with hub_errors(repo, "read"):
        path = snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision or None,
            token=token,
            force_download=fresh,
            allow_patterns=wanted,
        )
    return Path(path), Path(path).name


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(found).__name__}.")
    return found


@contextmanager
def hub_errors(repo: str, doing: Literal["read", "write"], done: str = _NOTHING) -> Iterator[None]:
    """Say what a refusal or a failure of the Hub means and what to do; `done` is what holds when it is seen.

    Raises:
        UserError: in place of the clients' errors.
    """
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    log_in = _LOG_IN.format("read it" if doing == "read" else "write there")
    after = "" if doing == "read" else f"; {done}"
    lost = after.replace(_NOTHING, "no release was tagged")  # the answer may be lost, and not the request
    try:
        yield
    except HFValidationError as error:
        raise UserError(
            f"'{repo}' is neither a folder (./name) nor a Hub repository (org/name[@revision]): {error}"
        ) from error
    except LocalTokenNotFoundError as error:
        raise UserError(f"No Hub token was found{after}. {log_in}") from error
    except HfHubHTTPError as error:
        raise UserError(_refusal(error, repo, doing, lost if error.response.status_code >= 500 else after)) from error
    except (LocalEntryNotFoundError, httpx.HTTPError, ConnectionError) as error:
        raise UserError(f"The connection to the Hub failed ({type(error).__name__}){lost}. Run it again.") from error


def _refusal(error: HfHubHTTPError, repo: str, doing: str, after: str) -> str:
    status, log_in = error.response.status_code, _LOG_IN.format("read it" if doing == "read" else "write there")
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no such revision{after}. Give a tag (v1.0.0), a branch or a commit sha."
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated and this token has no access{after}. Ask for access on its page."
    if status == 412:
        return f"{repo} changed while this release was being prepared{after}. Run it again."
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        return f"The Hub asks to slow down (429){after}. Run it again {f'in {wait} s' if wait else 'later'}."
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return f"The Hub does not accept the token, or there is none{after}. {log_in}"
    if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
        return f"The token (or its absence) does not let you {doing} {repo}, or it is not there{after}. {log_in}"
    if status >= 500:
        return f"The Hub failed ({status}){after}. Run it again later."
    return f"The Hub refused ({status}): {error.server_message or error}{after}."
