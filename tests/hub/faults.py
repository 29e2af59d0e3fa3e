"""What can go wrong on the way, on demand: a refusal, a slow answer, a connection cut in either direction."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import wire
from .errors import HubError

Close = Callable[[], None]
"""Closes the connection of the request, after what was sent has left."""


class Fault(Protocol):
    """What happens to one request instead of, or on top of, what the app would do."""

    def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, close: Close) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an error; the app never sees the request."""

    error: HubError

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, close: Close) -> None:
        await wire.refuse(Request(scope), self.error)(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Delay:
    """Answer late."""

    seconds: float

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, close: Close) -> None:
        await asyncio.sleep(self.seconds)
        await app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Before:
    """Let something happen on the Hub, such as another writer's commit, just before the request is handled."""

    act: Callable[[], object]

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, close: Close) -> None:
        self.act()
        await app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class CutRequest:
    """Close the connection once `after` bytes of the body have come; the app never sees the request."""

    after: int

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, close: Close) -> None:
        come, message = 0, await receive()
        while message["type"] == "http.request" and (come := come + len(message["body"])) < self.after:
            message = await receive()
        close()
        while message["type"] != "http.disconnect":
            message = await receive()


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """Let the app do its work, but close the connection once `after` bytes of the answer's body have left."""

    after: int

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, close: Close) -> None:
        left = self.after

        async def send_some(message: Message) -> None:
            nonlocal left
            if message["type"] != "http.response.body":
                await send(message)
            elif left >= 0:
                body = message.get("body", b"")
                if len(body) < left:
                    left -= len(body)
                    await send({**message, "more_body": True})
                else:
                    await send({**message, "body": body[:left], "more_body": True})
                    left = -1
                    close()

        await app(scope, receive, send_some)
        if left >= 0:
            close()
        while (await receive())["type"] != "http.disconnect":
            pass
