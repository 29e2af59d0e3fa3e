"""A store and two origins -> the ASGI app, with a log of the calls and faults on demand."""

from asyncio import Transport
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import api, content, lfs, wire, xet
from .errors import HubError
from .faults import Fault
from .store import Store


class Call(NamedTuple):
    """One answered request; the path is still percent-encoded."""

    method: str
    path: str
    status: int


@dataclass(slots=True)
class Planned:
    """What goes wrong with the next `times` requests of that method whose path contains `path_part`."""

    method: str
    path_part: str
    fault: Fault
    times: int

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is one of them; counts it."""
        matches = self.times > 0 and method == self.method and self.path_part in path
        self.times -= matches
        return matches


@dataclass(slots=True)
class Gate:
    """What stands before the routes: it keeps paths encoded, injects faults, logs calls and numbers answers."""

    app: ASGIApp
    calls: list[Call] = field(default_factory=list)
    planned: list[Planned] = field(default_factory=list)
    connections: dict[tuple[str, int], Transport] = field(default_factory=dict)
    """Open connections by the client's address and port."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Routes match `raw_path`, so that `feat%2Fx` stays one segment."""
        scope = {**scope, "path": scope["raw_path"].decode("ascii")}
        method, path = scope["method"], scope["path"]

        async def log(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.calls.append(Call(method, path, message["status"]))
                message = _numbered(message, len(self.calls))
            await send(message)

        for plan in self.planned:
            if plan.strikes(method, path):
                await plan.fault(self.app, scope, receive, log, self.connections[scope["client"]].close)
                return
        await self.app(scope, receive, log)


def _numbered(message: MutableMapping[str, Any], number: int) -> MutableMapping[str, Any]:
    return {**message, "headers": [*message["headers"], (b"x-request-id", f"test-{number}".encode())]}


async def _no_route(request: Request, error: Exception) -> Response:
    """An address this Hub does not know: an error without a code, which no client takes for a missing file."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.scope['path']}"
    return JSONResponse({"error": message}, error.status_code, {"X-Error-Message": message})


def create_app(store: Store, *, endpoint: str, cdn: str) -> Gate:
    """The Hub at `endpoint`, its large files at `cdn`."""
    app = Starlette(
        routes=[*api.ROUTES, *lfs.ROUTES, *xet.ROUTES, *content.ROUTES],
        exception_handlers={HubError: wire.refuse, HTTPException: _no_route},
    )
    app.router.redirect_slashes = False
    app.state.store, app.state.endpoint, app.state.cdn = store, endpoint, cdn
    return Gate(app)
