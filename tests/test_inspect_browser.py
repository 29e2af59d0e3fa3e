"""The page of a data set in headless Chromium: it draws, filters, is keyed through, and runs no text."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from udasa import inspect, schema
from udasa.inspect import rows

from .browser import Browser, browser
from .test_cards import HOSTILE, made_manifest
from .test_figures import made_pairs, made_responses
from .test_inspect import FINDING, made_target, usual_page
from .test_report import OWNED, asked, made_ledger, said

pytestmark = pytest.mark.processes

READY = "document.querySelectorAll('figure[data-chart] svg.marks').length === 4 && document.querySelector('#list li')"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.look("light", 1280)
        yield opened


def show(tab: Browser, page: str, folder: Path) -> None:
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    tab.open(file, READY)


def test_the_page_draws_asks_for_nothing_and_breaks_no_rule_of_its_policy(tab: Browser, tmp_path: Path) -> None:
    show(tab, usual_page(), tmp_path)
    assert tab.requests() == [(tmp_path / "page.html").as_uri()]
    assert tab.violations() == []
    assert tab.run("document.querySelectorAll('.marks .mark-symbol path').length") >= 288
    assert tab.run("document.getElementById('count').textContent") == "48 pairs"


def count(tab: Browser) -> str:
    return str(tab.run("document.getElementById('count').textContent"))


def choose(tab: Browser, name: str, value: str) -> None:
    control = f"document.querySelector('#filters [name={name}]')"
    tab.run(f"{control}.value = {json.dumps(value)}, {control}.dispatchEvent(new Event('change')), 1")


def test_filters_and_search_find_what_is_there(tab: Browser, tmp_path: Path) -> None:
    show(tab, usual_page(), tmp_path)
    for stage in schema.STAGES:
        choose(tab, "stage", stage)
        assert count(tab) == f"{made_pairs().filter(stage=stage).height} of 48 pairs"
    choose(tab, "task", "harmlessness")
    both = made_pairs().filter(stage="exploratory", task="harmlessness").height
    assert count(tab) == f"{both} of 48 pairs"
    tab.run("document.getElementById('clear').click()")
    choose(tab, "findings", "length-bias")
    assert count(tab) == "2 of 48 pairs"
    tab.run("document.getElementById('clear').click()")
    assert count(tab) == "48 pairs"
    tab.run("document.activeElement.blur()")
    tab.press("/", *"GUM chew")
    expected = sum("chewing gum" in prompt[0]["content"] for prompt in made_pairs()["prompt"])
    tab.wait(f"document.getElementById('count').textContent === '{expected} of 48 pairs'")
    assert {m.lower() for m in tab.run("[...document.querySelectorAll('#pair mark')].map(m => m.textContent)")} == {
        "gum", "chew"
    }  # fmt: skip
    tab.press(*"zzz")
    tab.wait("document.getElementById('count').textContent === '0 of 48 pairs'")
    assert "No pair fits" in tab.run("document.getElementById('list').textContent")
    assert "Nothing to read" in tab.run("document.getElementById('pair').textContent")


def test_the_keyboard_goes_through_the_pairs(tab: Browser, tmp_path: Path) -> None:
    show(tab, usual_page(), tmp_path)
    order = made_pairs().sort(-pl.col("gap"), "prompt_id")["prompt_id"].to_list()

    def shown() -> str:
        return str(tab.run("document.getElementById('pair').getAttribute('aria-label')")).removeprefix("Pair ")

    assert shown() == order[0]
    tab.run("document.querySelector('#filters [name=query]').focus()")
    for _ in range(12):
        tab.press("Tab")
        if tab.run("document.activeElement.id") == "list":
            break
    assert tab.run("document.activeElement.id") == "list"
    tab.press("ArrowDown", "ArrowDown", "ArrowUp")
    assert shown() == order[1]
    active = tab.run(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).ariaSelected"
    )
    assert active == "true"
    tab.press("End")
    assert shown() == order[-1]
    tab.press("Home", "Enter")
    assert tab.run("document.activeElement.id") == "pair"
    tab.press("j", "j", "k")
    assert shown() == order[1]
    tab.press("/")
    assert tab.run("document.activeElement.name") == "query"


def test_a_drag_over_the_gap_lists_the_pairs_of_that_range(tab: Browser, tmp_path: Path) -> None:
    show(tab, usual_page(), tmp_path)
    tab.run("document.getElementById('gap').scrollIntoView()")
    box = tab.run(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.querySelector('figure[data-chart=gap] .background').getBoundingClientRect())"
    )
    left, top, width, height = box
    tab.drag((left + width / 2, top + height / 2), (left + width - 1, top + height / 2))
    tab.wait("!document.getElementById('range').hidden")
    low, high = re.findall(r"\d\.\d+", tab.run("document.getElementById('range').textContent"))
    found = made_pairs().filter(pl.col("gap").is_between(float(low) - 5e-4, float(high) + 5e-4)).height
    assert 0 < found < 48
    assert count(tab) == f"{found} of 48 pairs"
    tab.run("document.getElementById('range').click()")
    assert count(tab) == "48 pairs"
    brush = "document.querySelector('figure[data-chart=gap] .brush_brush path').getBBox().width"
    tab.wait(f"{brush} === 0")


@pytest.mark.parametrize("text", [" ".join(HOSTILE), OWNED, "a\u2028b</script><script>document.title='owned'//"])
def test_hostile_text_is_shown_and_never_run(tab: Browser, tmp_path: Path, text: str) -> None:
    manifest = made_manifest(name=text, packages={text: text}, tasks={text[:80]: {"moderate": 3}})
    manifest["findings"] = [FINDING | {"name": text, "detail": text, "unit": text}]
    target = made_target(
        name=text, manifest=manifest, pairs=asked(made_pairs(), text), responses=said(made_responses(), text),
        ledger=made_ledger(text),
    )  # fmt: skip
    show(tab, inspect.render_page(target), tmp_path)
    assert tab.run("document.title").endswith("0.1.0: inspect")
    assert tab.run("document.scripts.length") == 3
    assert not tab.run("document.querySelector('img, iframe, #pair a, #list a, [onerror], [onload]')")
    shown = tab.run("document.querySelector('#pair .sides .text').textContent")
    assert shown == rows.visible(text)
    assert not tab.run("/[\\u200b\\u202a-\\u202e\\u2066-\\u2069]/.test(document.body.innerText)")
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    assert tab.violations() == []
    assert tab.requests() == [(tmp_path / "page.html").as_uri()]


def test_the_policy_stops_a_script_that_got_into_the_page(tab: Browser, tmp_path: Path) -> None:
    injected = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"></main>"
    show(tab, usual_page().replace("</main>", injected, 1), tmp_path)
    assert tab.run("document.title") == "udasa-demo 0.1.0: inspect"
    assert len(tab.violations()) >= 2


def contrast(one: list[float], two: list[float]) -> float:
    """WCAG 2's contrast ratio of two sRGB colours."""
    parts = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour] for colour in (one, two)]
    light, dark = sorted((0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in parts), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_text_is_readable_and_nothing_runs_over(tab: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    tab.look(scheme, width)
    show(tab, usual_page(), tmp_path)
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    shown = tab.run(
        """(() => {
          const rgb = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
          const ground = (e) => { for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return rgb(c); } };
          return ["body", "#list .about", "#pair .why", "#pair .note", ".tag.conservative", ".tag.moderate",
            ".tag.exploratory", "nav a", "#filters label span", "#pair .text", ".paging span"]
            .map((s) => document.querySelector(s)).filter(Boolean)
            .map((e) => [rgb(getComputedStyle(e).color), ground(e)]);
        })()"""
    )
    assert len(shown) >= 8
    assert min(contrast(*colours) for colours in shown) >= 4.5
    paper = shown[0][1]
    assert (sum(paper) > 1.5) == (scheme == "light")
    tab.look("light", 1280)


def many(copies: int) -> inspect.Target:
    """The made tables `copies` times over, with ids of their own."""
    pairs, responses = made_pairs(), made_responses()
    marks = pl.DataFrame({"copy": [f"{i:04d}-" for i in range(copies)]})
    again = [pl.concat_str("copy", name).alias(name) for name in ("prompt_id", "chosen_id", "rejected_id")]
    answers = (
        responses.join(marks, how="cross")
        .explode("responses")
        .with_columns(
            responses=pl.col("responses").struct.with_fields(
                response_id=pl.concat_str("copy", pl.col("responses").struct.field("response_id"))
            ),
            prompt_id=pl.concat_str("copy", "prompt_id"),
        )
    )
    others = [pl.col(name).first() for name in schema.SCORED.names if name not in ("prompt_id", "responses")]
    grouped = answers.group_by("prompt_id", maintain_order=True).agg(*others, pl.col("responses"))
    table = pairs.join(marks, how="cross").with_columns(again).drop("copy")
    manifest = made_manifest()
    manifest["counts"] |= {"pairs": table.height, "responses": grouped.height * 6, "prompts": grouped.height}
    return made_target(manifest=manifest, pairs=table, responses=grouped.select(schema.SCORED.names))


def test_twenty_thousand_pairs_make_a_page_that_opens(tab: Browser, tmp_path: Path) -> None:
    target = many(417)
    assert target.pairs.height == 20_016
    page = inspect.render_page(target)
    assert len(page.encode()) < 12_000_000
    show(tab, page, tmp_path)
    held = int(count(tab).removesuffix(" pairs").replace(",", ""))
    assert 2_000 < held < 20_016
    assert f"{held:,} of 20,016 pairs" in tab.run("document.getElementById('pairs').textContent")
    assert tab.run("document.querySelectorAll('#list li').length") == 50
    tab.run("document.getElementById('next').click()")
    assert tab.run("document.getElementById('span').textContent") == "51 to 100"
    tab.press("/", *"chewing")
    tab.wait("document.getElementById('count').textContent.includes(' of ')")
    assert len(tab.run("document.documentElement.outerHTML")) < 14_000_000
