"""One small build on the fakes, for every test of the flow."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.flow.hand import nine_prompts
from udasa import flow
from udasa.backends_fake import FakeSampler
from udasa.recipe import Recipe


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe whose sources no test changes."""
    return nine_prompts(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def undisturbed(settings: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that nothing interrupted; no test changes it."""
    return flow.build(settings, tmp_path_factory.mktemp("undisturbed") / "build")


@pytest.fixture
def whole(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to change."""
    return Path(shutil.copytree(undisturbed, tmp_path / "whole"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "build"


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of prompts of every call of the sampler."""
    calls: list[int] = []
    original = FakeSampler.sample

    def sample(self: FakeSampler, prompts: Any, seeds: Any, report: Any) -> Any:
        calls.append(len(prompts))
        return original(self, prompts, seeds, report)

    monkeypatch.setattr(FakeSampler, "sample", sample)
    return calls
