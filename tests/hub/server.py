"""The app on a free loopback port, for as long as a `with` block.

with running_hub() as hub:
    HfApi(endpoint=hub.endpoint, token=hub.token("owner")).whoami()["name"]     # "owner"
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import Call, Gate, Planned, create_app
from .errors import HubError
from .faults import Before, CutAnswer, CutRequest, Delay, Fault, Refuse
from .store import Store

STARTUP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningHub:
    """A Hub that answers.

    Users: `owner` (admin of the organisation `acme`), `reader` (may read `acme`), `outsider` (knows nobody). Each also
    owns the namespace of that name.
    """

    endpoint: str
    """Origin of the API, for HF_ENDPOINT or `HfApi(endpoint=...)`."""
    store: Store = field(repr=False)
    """The state, to look at or to prepare."""
    gate: Gate = field(repr=False)

    def token(self, user: str = "owner") -> str:
        """Access token of a known user."""
        return self.store.users[user].token

    @property
    def calls(self) -> list[Call]:
        """Every request so far, in order."""
        return self.gate.calls

    def fail_next(
        self,
        method: str,
        path_part: str,
        status: int,
        message: str = "Injected by the test",
        *,
        retry_after: int | None = None,
        times: int = 1,
    ) -> None:
        """Refuse the next `times` requests of that method whose path contains `path_part`.

        `retry_after` is in seconds, for a 429.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._plan(method, path_part, Refuse(HubError(status, message, headers=headers)), times)

    def delay_next(self, method: str, path_part: str, seconds: float, *, times: int = 1) -> None:
        """Let the next matching requests wait before they are answered."""
        self._plan(method, path_part, Delay(seconds), times)

    def act_before(self, method: str, path_part: str, act: Callable[[], object], *, times: int = 1) -> None:
        """Do something on the Hub just before the next matching requests are handled."""
        self._plan(method, path_part, Before(act), times)

    def cut_next_request(self, method: str, path_part: str, after: int, *, times: int = 1) -> None:
        """Close the connection once `after` bytes of the body have come: nothing of it is done."""
        self._plan(method, path_part, CutRequest(after), times)

    def cut_next_answer(self, method: str, path_part: str, after: int, *, times: int = 1) -> None:
        """Do what is asked, but close the connection once `after` bytes of the answer's body have left."""
        self._plan(method, path_part, CutAnswer(after), times)

    def _plan(self, method: str, path_part: str, fault: Fault, times: int) -> None:
        self.gate.planned.append(Planned(method, path_part, fault, times))

    def faults_left(self) -> int:
        """Requests that planned faults still wait for; all of them are forgotten."""
        left = sum(plan.times for plan in self.gate.planned)
        self.gate.planned.clear()
        return left


@contextmanager
def running_hub() -> Iterator[RunningHub]:
    """Start an empty Hub in a thread and stop it at the end of the block.

    The API is at 127.0.0.1, the large files are at localhost: the same socket, but another origin, as on the real Hub.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        store, endpoint = Store(), f"http://127.0.0.1:{port}"
        gate = create_app(store, endpoint=endpoint, cdn=f"http://localhost:{port}")
        config = uvicorn.Config(
            gate,
            http=_protocol(gate),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="hub", daemon=True)
        thread.start()
        try:
            _wait(server, thread)
            yield RunningHub(endpoint=endpoint, store=store, gate=gate)
        finally:
            server.should_exit = True
            thread.join(STARTUP_SECONDS)


def _protocol(gate: Gate) -> type[H11Protocol]:
    """HTTP/1.1 that lets the gate close a connection, which ASGI has no word for."""

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.address = transport.get_extra_info("peername")
            gate.connections[self.address] = transport

        def connection_lost(self, error: Exception | None) -> None:
            del gate.connections[self.address]
            super().connection_lost(error)

    return Protocol


def _wait(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError(f"the test Hub did not start within {STARTUP_SECONDS} s, see its log")
        time.sleep(0.005)
