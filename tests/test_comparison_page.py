"""The page of a comparison: what it says, that hostile texts do nothing in it, and how it looks in a browser."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.browser import browser
from tests.lm_eval_logs import log_run, sample
from udasa import comparison_page
from udasa.comparison_page import render_comparison
from udasa.evaluate import compare

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


def made(folder: Path, extra: str = "", **changed: object) -> str:
    stages = {"base": (0.6, 0.1), "conservative": (0.3, 0.2), "exploratory": (0.2, 0.5)}
    for seed, (name, (harm, safe)) in enumerate(stages.items()):
        log_run(
            folder / name, f"org/{name}", suite(seed, harm, safe, extra), lower_is_better=["answer", "safe_refusal"],
            **(changed if name == "exploratory" else {}),
        )  # fmt: skip
    paths = [folder / name for name in stages]
    return render_comparison(compare(*paths, anyway=bool(changed), margins={"hh_margin": 0.3}))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return made(tmp_path_factory.mktemp("runs"))


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
    assert not re.search(r"\d+ of \d+ documents, those", said)


def test_too_many_documents_are_cut_down_and_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison_page, "SHOWN", 3)
    said = text_of(made(tmp_path))
    assert re.search(r"3 of \d\d documents, those with the smallest hashes", said)


def test_a_comparison_made_anyway_says_so_at_the_top(tmp_path):
    page = made(tmp_path, batch_size=1)
    assert "<strong>Compared anyway.</strong>" in page
    assert "batch size: 8 (base, conservative) and 1 (exploratory)" in text_of(page)


def test_without_refusal_metrics_there_is_no_plane(tmp_path):
    for name, value in (("a", 1.0), ("b", 0.0)):
        log_run(
            tmp_path / name,
            name,
            {"t": [sample({"prompt": "Q"}, {"acc": value}), sample({"prompt": "R"}, {"acc": 1.0})]},
        )
    page = render_comparison(compare(tmp_path / "a", tmp_path / "b"))
    assert 'id="refusal"' not in page and 'id="forgetting"' not in page and "Broken, " in text_of(page)


def test_the_page_is_self_contained_and_the_same_each_time(page, tmp_path):
    assert "<script" not in page and "<link" not in page and not re.search(r'(src|href)="(?!#)', page)
    assert "default-src 'none'" in page.replace("&#39;", "'")
    assert made(tmp_path) == page


def test_hostile_texts_are_shown_and_do_nothing(tmp_path):
    page = made(tmp_path / "runs", HOSTILE)
    assert "<script>" not in page and "<img" not in page and "\u202e" not in page and "[U+202E]" in page
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    with browser(tmp_path / "profile") as tab:
        tab.look("light", 1000)
        tab.open(file, "document.readyState === 'complete'")
        assert tab.run("document.title") == "base → conservative → exploratory: comparison"
        assert tab.run("document.querySelectorAll('script, img').length") == 0
        shown = tab.run("[...document.querySelectorAll('.text')].some(box => box.textContent.includes('onerror='))")
        assert shown and tab.violations() == [] and tab.requests() == [file.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off_in_either_scheme(page, tmp_path, scheme, width):
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    with browser(tmp_path / "profile") as tab:
        tab.look(scheme, width)
        tab.open(file, "document.readyState === 'complete'")
        assert tab.run("document.documentElement.scrollWidth") <= width
        ground = tab.run("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(251, 250, 247)", "dark": "rgb(19, 20, 23)"}[scheme]
