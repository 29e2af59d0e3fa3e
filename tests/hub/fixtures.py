"""Fixtures of the test Hub."""

from collections.abc import Iterator

import pytest

from .server import RunningHub, running_hub


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    """An empty Hub for the tests of one module, which keep apart by the names of their repositories."""
    with running_hub() as running:
        yield running
