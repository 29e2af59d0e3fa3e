"""The app on a free loopback port, for as long as a `with` block.

with running_hub() as hub:
    HfApi(endpoint=hub.endpoint, token=hub.token("owner")).whoami()["name"]     # "owner"
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn

from .app import Call, Fault, Gate, create_app
from .errors import HubError
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

    def fail_next(self, method: str, path_part: str, status: int, message: str = "Injected by the test") -> None:
        """Answer the next request of that method whose path contains `path_part` with an error; call again for more."""
        self.gate.faults.append(Fault(method, path_part, HubError(status, message)))


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
            http="h11",
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


def _wait(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError(f"the test Hub did not start within {STARTUP_SECONDS} s, see its log")
        time.sleep(0.005)
