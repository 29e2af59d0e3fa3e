"""Requests -> user, repository, parameters; lists -> pages. What every route needs."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import errors
from .store import Kind, Repo, Store, User

T = TypeVar("T")

PLURALS: dict[str, Kind] = {"models": "model", "datasets": "dataset", "spaces": "space"}


def store(request: Request) -> Store:
    """The state behind the app."""
    return cast(Store, request.app.state.store)


def endpoint(request: Request) -> str:
    """Origin of the API."""
    return cast(str, request.app.state.endpoint)


def cdn(request: Request) -> str:
    """Origin of the large files; never the API's, or clients follow the redirect and lose its headers."""
    return cast(str, request.app.state.cdn)


def param(request: Request, name: str) -> str:
    """A path parameter. Routes match the encoded path, so `feat%2Fx` is one parameter, decoded here."""
    return unquote(request.path_params.get(name, ""))


def flag(request: Request, name: str) -> bool:
    """A query parameter that is on."""
    return request.query_params.get(name, "").lower() in ("true", "1")


def user(request: Request) -> User | None:
    """Who asks: None without a token; a token nobody has is refused at once."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if not scheme:
        return None
    if scheme.lower() != "bearer":
        raise errors.invalid_credentials()
    return store(request).user_of(token)


def known_user(request: Request) -> User:
    """Who asks, where nobody may ask anonymously."""
    known = user(request)
    if known is None:
        raise errors.HubError(401, "Invalid username or password.")
    return known


def kind(request: Request) -> Kind:
    """The kind of repository in the path; an address without one is a model's."""
    plural = request.path_params.get("plural", "models")
    if plural not in PLURALS:
        raise errors.HubError(404, f"Not Found: {plural}")
    return PLURALS[plural]


def _target(request: Request) -> tuple[Kind, str]:
    return kind(request), f"{param(request, 'namespace')}/{param(request, 'name')}"


def repo(request: Request) -> Repo:
    """The repository in the path, if the user may read it."""
    return store(request).readable(user(request), *_target(request))


def writable_repo(request: Request) -> tuple[Repo, User]:
    """The repository in the path, if the user may change it."""
    return store(request).writable(user(request), *_target(request))


def page(request: Request, items: Sequence[T], size: int, show: Callable[[T], Any]) -> Response:
    """One page of a list, with a `Link` header to the next. The cursor is opaque to clients; here it is an offset."""
    start = int(request.query_params.get("cursor", 0))
    end = start + min(size, int(request.query_params.get("limit", size)))
    headers = {}
    if end < len(items):
        query = urlencode({**request.query_params, "cursor": end})
        headers["Link"] = f'<{endpoint(request)}{request.scope["path"]}?{query}>; rel="next"'
    return JSONResponse([show(item) for item in items[start:end]], headers=headers)


def refuse(_: Request, error: Exception) -> Response:
    """The Hub's form of an error: the message in the body and in a header, the code in another."""
    assert isinstance(error, errors.HubError)
    headers = {**error.headers, "X-Error-Message": error.message.replace("\n", " ").encode("ascii", "replace").decode()}
    if error.code:
        headers["X-Error-Code"] = error.code
    return JSONResponse(error.body, error.status, headers)
