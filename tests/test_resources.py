"""The shelves, in a wheel and in a checkout."""

from pathlib import Path
from typing import get_args

import pytest

from udasa import resources
from udasa.errors import UserError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder that holds nothing, in a folder that is no checkout."""
    package = tmp_path / "site" / "udasa"
    package.mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    return package


def add(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("name", get_args(resources.Shelf))
def test_every_shelf_is_there_and_holds_something(name: resources.Shelf) -> None:
    folder = resources.shelf(name)
    assert folder.name == name
    assert any(path.is_file() for path in folder.iterdir())


def test_the_wheels_shelf_comes_before_the_checkouts(package: Path) -> None:
    (package.parent / "pyproject.toml").touch()
    checkout = add(package.parent / "cards", "a.md.j2")
    assert resources.shelf("cards") == checkout
    bundled = add(package / "_bundled" / "cards", "a.md.j2")
    assert resources.shelf("cards") == bundled


def test_a_folder_without_pyproject_is_no_checkout(package: Path) -> None:
    add(package.parent / "eval", "suite.yaml")
    with pytest.raises(FileNotFoundError) as caught:
        resources.shelf("eval")
    assert str(package / "_bundled" / "eval") in str(caught.value)
    assert str(package.parent / "eval") in str(caught.value)


def test_names_are_the_sorted_stems_of_one_kind_of_file(package: Path) -> None:
    shelf = add(package / "_bundled" / "builders", "b.py", "a.py", "README.md", "a.json")
    add(shelf / "__pycache__", "c.py")
    assert resources.names("builders", ".py") == ["a", "b"]
    assert resources.names("builders", ".yaml") == []


def test_find_takes_a_path_or_a_stem(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = add(package / "_bundled" / "builders", "demo.py")
    own = tmp_path / "own.py"
    own.touch()
    assert resources.find("builders", "demo", ".py") == shelf / "demo.py"
    assert resources.find("builders", own, ".py") == own
    monkeypatch.chdir(tmp_path)
    assert resources.find("builders", "own.py", ".py") == Path("own.py")


def test_a_file_called_like_a_shelf_item_does_not_hide_it(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = add(package / "_bundled" / "builders", "demo.py")
    monkeypatch.chdir(tmp_path)
    Path("demo").touch()
    assert resources.find("builders", "demo", ".py") == shelf / "demo.py"


@pytest.mark.parametrize("item", ["nope", "nope.py", "../secret", "data/inner", "", "."])
def test_what_is_neither_a_path_nor_a_stem_is_refused_with_the_stems(package: Path, item: str) -> None:
    shelf = add(package / "_bundled" / "builders", "demo.py", "large.py")
    add(shelf / "data", "inner.py")
    (shelf.parent / "secret.py").touch()
    with pytest.raises(UserError) as caught:
        resources.find("builders", item, ".py")
    assert str(caught.value) == (
        f"'{item}' is neither a file nor a name on the shelf 'builders'. Give a path, or one of: demo, large."
    )


def test_an_empty_shelf_says_so(package: Path) -> None:
    add(package / "_bundled" / "cards")
    with pytest.raises(UserError, match="one of: none there"):
        resources.find("cards", "x", ".md.j2")
