"""The page of a comparison: what it says, that hostile texts do nothing in it, and how it looks in a browser."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.browser import browser
from tests.lm_eval_logs import log_run, sample
from udasa import comparison_page
from udasa.comparison_page import SHOWN, render_comparison
from udasa.evaluate import Comparison, compare

HOSTILE = "</div></article><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202e"


def suite(seed: int, harm: float, safe: float, extra: str = "") -> dict[str, list[dict[str, object]]]:
    """Return samples of a refusal task, an over-refusal task and a margin; shares as given."""
    rng = np.random.default_rng(seed)
    harmful = [
        sample(
            {"prompt": f"Harm {i}{extra}", "cluster": str(i % 8)},
            {"answer": float(rng.random() < harm)},
            answer=f"A{i}{extra}",
        )
        for i in range(80)
    ]
    benign = [
        sample({"prompt": f"Safe {i}", "cluster": str(i % 10)}, {"safe_refusal": float(rng.random() < safe)})
        for i in range(100)
    ]
    margins = [
        sample({"prompt": f"Pair {i}"}, {"margin": float(np.sin(i) + rng.normal(0.1 * seed, 0.2))}) for i in range(40)
    ]
    return {"udasa_harm_refusal": harmful, "udasa_overrefusal": benign, "hh_margin": margins}


def made(folder: Path, extra: str = "") -> Comparison:
    stages = {"base": (0.6, 0.1), "conservative": (0.3, 0.2), "exploratory": (0.2, 0.5)}
    for seed, (name, (harm, safe)) in enumerate(stages.items()):
        log_run(
            folder / name, f"org/{name}", suite(seed, harm, safe, extra), lower_is_better=["answer", "safe_refusal"]
        )  # fmt: skip
    return compare(*(folder / name for name in stages), margins={"hh_margin": 0.3})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return made(tmp_path_factory.mktemp("runs"), HOSTILE)


@pytest.fixture(scope="module")
def page(found):
    return render_comparison(found)


@pytest.fixture(scope="module")
def tab(page, tmp_path_factory):
    """The page in a browser; `tab.file` is where it lies."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(page, encoding="utf-8")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.file = file
        opened.look("light", 1000)
        opened.open(file, "document.readyState === 'complete'")
        yield opened


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_page_shows_every_part_with_its_numbers(page):
    said = text_of(page)
    for heading in (
        "Differences",
        "Refusal",
        "Right and wrong",
        "Forgetting",
        "Equivalence",
        "Broken and fixed",
        "Method",
    ):
        assert f">{heading}</h2>" in page
    assert "base → conservative → exploratory" in said
    assert page.count('<svg role="img"') == 3 + 1  # a forest for each pair of runs, one plane
    assert "Harmful requests answered against safe requests refused" in page
    assert "Compared anyway" not in said and "One run a side" in said


def test_too_many_documents_are_cut_down_and_said_to_be(found, page):
    few = {(group["task"], group["change"]): group for group in comparison_page._items(found.items)}
    assert not re.search(r"\d+ of \d+ documents, those", text_of(page))
    assert all(len(group["rows"]) == group["total"] for group in few.values())
    many = [replace(found.items[0], document=f"{i:03}", changes={"answer": "broken"}) for i in range(2 * SHOWN)]
    (group,) = comparison_page._items(many)
    assert group["total"] == 2 * SHOWN and [item.document for item in group["rows"]] == [
        f"{i:03}" for i in range(SHOWN)
    ]


def test_a_comparison_made_anyway_says_so_at_the_top(tmp_path):
    samples = [sample({"prompt": question}, {"acc": 1.0}) for question in "QR"]
    for name, size in (("a", 8), ("b", 1)):
        log_run(tmp_path / name, name, {"t": samples}, batch_size=size)
    page = render_comparison(compare(tmp_path / "a", tmp_path / "b", anyway=True))
    assert "<strong>Compared anyway.</strong>" in page and "batch size: 8 (a) and 1 (b)" in text_of(page)
    assert 'id="refusal"' not in page and 'id="forgetting"' not in page and 'id="items"' not in page


def test_the_page_is_self_contained(page):
    assert "<script" not in page and "<link" not in page and not re.search(r'(src|href)="(?!#)', page)
    assert "default-src 'none'" in page.replace("&#39;", "'")


def test_hostile_texts_are_shown_and_do_nothing(page, tab):
    assert "<script>" not in page and "<img" not in page and "\u202e" not in page and "[U+202E]" in page
    assert tab.run("document.title") == "base → conservative → exploratory: comparison"
    assert tab.run("document.querySelectorAll('script, img').length") == 0
    shown = tab.run("[...document.querySelectorAll('.text')].some(box => box.textContent.includes('onerror='))")
    assert shown and tab.violations() == [] and tab.requests() == [tab.file.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off_in_either_scheme(tab, scheme, width):
    tab.look(scheme, width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(251, 250, 247)", "dark": "rgb(19, 20, 23)"}[scheme]
