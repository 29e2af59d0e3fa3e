"""What no card may be: invalid, unrendered, or about files and repositories that are none."""

import re

import pytest

from udasa import cards
from udasa.errors import UserError

from .test_cards import dataset_card, made_facts, made_manifest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: apache-2.0", "license: free-as-in-beer", "not a licence identifier"),
        ("license: apache-2.0\n", "license: other\n", "needs a license_name"),
        ("pretty_name: udasa-demo\n", "", "no 'pretty_name'"),
        ("- n<1K", "- 1K<n<10K", "size_categories"),
        ("config_name: exploratory\n  data_files", "config_name: wild\n  data_files", "must name conservative"),
        ("  default: true\n", "", "default: true"),
        ("data/moderate/train-*", "data/conservative/train-*", "data_files of 'moderate'"),
        ("configs:\n", "configs: [\n", "cannot be read"),
        ("## Limits", "## Limits {{ left }}", "unrendered"),
        ("## Limits", "## Limits nan", "'nan'"),
        ("## Limits", "| x | None |\n\n## Limits", "'None'"),
    ],
)
def test_validate_names_what_is_wrong(old: str, new: str, message: str) -> None:
    card = dataset_card()
    assert old in card
    with pytest.raises(UserError, match=re.escape(message)):
        cards.validate(card.replace(old, new, 1), "dataset")


@pytest.mark.parametrize("key", ["license", "library_name", "base_model", "pipeline_tag", "tags"])
def test_validate_asks_for_a_models_keys(key: str) -> None:
    card = cards.render_model_card(made_facts(), "org/x")
    front, body = card.split("\n---\n", 1)
    kept = re.sub(rf"^{key}:.*\n(?:- .*\n)*", "", front + "\n", flags=re.M)
    with pytest.raises(UserError, match=f"no '{key}'"):
        cards.validate(f"{kept}---\n{body}", "model")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_cannot_be_rendered(bad: float) -> None:
    broken = made_manifest()["statistics"]
    broken["gap"]["mean"] = bad
    with pytest.raises(UserError, match="must be null"):
        dataset_card(statistics=broken)


def test_a_missing_field_of_the_manifest_is_an_error() -> None:
    from jinja2 import UndefinedError

    manifest = made_manifest()
    del manifest["udasa"]
    with pytest.raises(UndefinedError, match="udasa"):
        cards.render_dataset_card(manifest, "org/x")


@pytest.mark.parametrize("repo", ["/somewhere/x", "a/b/c", 'x"y', "org/`x`"])
def test_a_repository_id_must_be_one(repo: str) -> None:
    with pytest.raises(UserError, match="repository id"):
        cards.render_dataset_card(made_manifest(), repo)


@pytest.mark.parametrize("path", ["../x.svg", "/x.svg", "x.svg) ![", "http://a/b.svg"])
def test_a_figure_is_inside_the_repository(path: str) -> None:
    with pytest.raises(UserError, match="relative path"):
        cards.render_dataset_card(made_manifest(), "org/x", [(path, "c")])


@pytest.mark.parametrize(
    ("rows", "expected"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1B")]
)
def test_size_category(rows: int, expected: str) -> None:
    assert cards.size_category(rows) == expected
