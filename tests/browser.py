"""Chromium without a window, driven over its debugging pipe: real keys, a real layout, screenshots."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("neither chromium nor google-chrome is installed")
    return found


_LAUNCH = """
import fcntl, os, sys
ours = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for theirs, number in zip((3, 4), ours):
    os.dup2(number, theirs)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads its commands from file descriptor 3 and answers on 4."""


class Browser:
    """One tab; every event it sends is kept in `events`."""

    def __init__(self, write: int, read: BinaryIO) -> None:
        self._write, self._read = write, read
        self._last, self._session = 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _message(self) -> bytes:
        parts = []
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser went away"
            parts.append(byte)
        return b"".join(parts)

    def open(self, page: Path, until: str) -> None:
        """Go to a file and wait until an expression holds there."""
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        self.wait(until)

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < end, f"{expression} did not come to hold"
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Press keys as a hand would: one character, or a name such as ArrowDown."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowDown": 40}
        for key in keys:
            facts: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
            text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", **facts, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place, and let it go at another."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def look(self, scheme: str, width: int, height: int = 900) -> None:
        """Set the colour scheme and the window."""
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, file: Path) -> None:
        """Write what is in the window."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def violations(self) -> list[str]:
        """What the page's policy refused, and scripts' errors."""
        logged = [e["params"]["entry"]["text"] for e in self.events if e.get("method") == "Log.entryAdded"]
        thrown = [e["params"]["exceptionDetails"] for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        return [*logged, *map(str, thrown)]

    def requests(self) -> list[str]:
        """Every address that was asked for, the page's own among them."""
        sent = (e for e in self.events if e.get("method") == "Network.requestWillBeSent")
        return [e["params"]["request"]["url"] for e in sent]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own."""
    to_browser, from_us = os.pipe()
    from_browser, to_us = os.pipe()
    command = [chromium(), *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    launch = [sys.executable, "-c", _LAUNCH, str(to_browser), str(to_us), *command]
    process = subprocess.Popen(
        launch, pass_fds=(to_browser, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(to_browser)
    os.close(to_us)
    with os.fdopen(from_browser, "rb") as answers:
        try:
            yield Browser(from_us, answers)
        finally:
            process.kill()
            process.wait()
            os.close(from_us)
