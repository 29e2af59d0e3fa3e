"""Unpatched clients in a process of their own, and bare HTTP for what clients hide.

HF_ENDPOINT is read when huggingface_hub and datasets are imported, so a client that must talk to the test Hub runs in a
new process with a clean environment:

    def shas(repo_id: str) -> list[str]:
        from huggingface_hub import HfApi
        return [commit.commit_id for commit in HfApi().list_repo_commits(repo_id)]

    run_client(hub, shas, "acme/model", home=tmp_path, token=hub.token("owner"))    # ["1f0c..."]
"""

import http.client
import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .server import RunningHub

INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
HEADER = """\
from __future__ import annotations
import json, sys, traceback

def _report(kind, error, trace):
    traceback.print_exception(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    print(json.dumps({"type": kind.__name__, "status": status, "message": str(error)}))

sys.excepthook = _report

"""


class ClientError(Exception):
    """The exception that ended a client: its class name, its HTTP status if it has one, its text."""

    def __init__(self, type: str, status: int | None, message: str, log: str) -> None:
        super().__init__(f"{type} (status {status}): {message}\n{log}")
        self.type = type
        self.status = status
        self.message = message


def run_client(
    hub: RunningHub,
    client: str | Callable[..., Any],
    /,
    *args: Any,
    home: Path,
    token: str | None = None,
    xet: bool = True,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> Any:
    """Run a client against the Hub and return its JSON result.

    `client` is a function that imports what it needs, called with `args` (JSON values), or source text that prints JSON
    on its last line. `home` holds the caches: a new folder is a fresh cache, the same one again a warm cache.
    `xet=False` sends large files by LFS, as clients without hf-xet do.
    Raises `ClientError` with what the client raised.
    """
    home.mkdir(parents=True, exist_ok=True)
    program = home / "client.py"
    program.write_text(HEADER + _source(client, args), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=home,
        env=client_env(hub, home=home, token=token, xet=xet) | dict(env or {}),
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
    )
    printed = done.stdout.strip().splitlines() or ["null"]
    if done.returncode == 0:
        return json.loads(printed[-1])
    try:
        error = json.loads(printed[-1])
        raise ClientError(error["type"], error["status"], error["message"], done.stderr)
    except (ValueError, TypeError, KeyError):
        raise RuntimeError(f"the client ended with {done.returncode}:\n{done.stdout}\n{done.stderr}") from None


def _source(client: str | Callable[..., Any], args: tuple[Any, ...]) -> str:
    if isinstance(client, str):
        return textwrap.dedent(client)
    call = f"{client.__name__}(*json.loads({json.dumps(args)!r}))"
    return textwrap.dedent(inspect.getsource(client)) + f"\n\nprint(json.dumps({call}))\n"


def client_env(hub: RunningHub, *, home: Path, token: str | None = None, xet: bool = True) -> dict[str, str]:
    """Environment of a process whose clients talk to this Hub only; nothing of the user's own login or cache.

    The process imports what this one can import, so `udasa` is the checkout or the wheel under test.
    """
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return inherited | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **({} if xet else {"HF_HUB_DISABLE_XET": "1"}),
        **({"HF_TOKEN": token} if token else {}),
    }


class Reply(NamedTuple):
    """An answer as it came; redirects are not followed. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def request(
    hub: RunningHub,
    method: str,
    path: str,
    *,
    token: str | None = None,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One bare HTTP request to the Hub."""
    connection = http.client.HTTPConnection(hub.endpoint.removeprefix("http://"), timeout=30)
    try:
        sent = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()
