"""What went wrong -> status, message and error code, in the Hub's words.

Clients choose their exception from `X-Error-Code` first and from the status second, so the code is part of the
protocol: `RepoNotFound`, `RevisionNotFound` and `EntryNotFound` are the ones this Hub needs.
"""

from collections.abc import Mapping
from typing import Any


class HubError(Exception):
    """One refused request."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.body = {"error": message, **(body or {})}


def invalid_credentials() -> HubError:
    """A token nobody has. The exact text keeps clients from reading the 401 as a missing repository."""
    return HubError(401, "Invalid credentials in Authorization header")


def repo_not_found(*, anonymous: bool) -> HubError:
    """A missing repository and a hidden one look the same; without a token even the status says "log in"."""
    if anonymous:
        return HubError(401, "Invalid username or password.", "RepoNotFound")
    return HubError(404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> HubError:
    """No branch, tag, pull request or commit of that name."""
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(message: str, commit: str) -> HubError:
    """The revision exists, the path in it does not: the commit is still named."""
    return HubError(404, message, "EntryNotFound", headers={"X-Repo-Commit": commit})


def forbidden(message: str) -> HubError:
    """A known user who may look but not touch."""
    return HubError(403, message)


def outdated_parent() -> HubError:
    """Somebody else committed since the client looked."""
    return HubError(412, "The branch was updated since you opened this page. Please refresh and try again.")
