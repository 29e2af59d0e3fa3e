"""Tests run on one thread, without the network, and with a Hugging Face home of their own."""

import os
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="udasa-tests-")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("HF_TOKEN", None)

import pytest
from hypothesis import HealthCheck, settings

from tests.hub.fixtures import hub  # noqa: F401

# A timing never fails a test, and the same examples run everywhere.
settings.register_profile("udasa", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("udasa")


@pytest.fixture(scope="session", autouse=True)
def own_references(tmp_path_factory):
    """Keep what references answer in these tests out of the user's cache; converted weights stay there."""
    from udasa.train import references

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("udasa-cache")
        patch.setattr(references, "cache_folder", lambda: folder)
        yield folder


@pytest.fixture
def udasa(monkeypatch, capsys):
    """Run the command line in this process; returns (exit code, stdout, stderr as one line)."""
    from udasa.cli import main

    def command(*args):
        monkeypatch.setattr(sys, "argv", ["udasa", *map(str, args)])
        with pytest.raises(SystemExit) as exit:
            main()
        shown = capsys.readouterr()
        return exit.value.code or 0, shown.out, " ".join(shown.err.split())

    return command
