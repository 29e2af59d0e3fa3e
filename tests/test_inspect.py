import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from udasa import inspect, publish, resources, schema
from udasa.cli import app
from udasa.errors import UserError
from udasa.inspect import correlations, rows, versions
from udasa.recipe import Staging, Weights
from udasa.release import Opened, open_data
from udasa.report import rank_shares
from udasa.restage import restage

from .browser import Browser, browser
from .builds import built, recipe
from .tables import EXAMPLES
from .test_cards import HOSTILE, made_manifest
from .test_figures import made_pairs, made_responses
from .test_report import OWNED, asked, made_ledger, said

FINDING = {
    "name": "length-bias", "count": 30, "total": 48, "value": 0.625, "unit": "share", "low": 0.48, "high": 0.75,
    "threshold": 0.6, "failed": True, "examples": ["p007", "r011-2"], "detail": "The chosen answer is the longer one.",
}  # fmt: skip
READY = "document.querySelectorAll('figure[data-chart] svg.marks').length === 4 && document.querySelector('#list li')"


def made_target(**changes: Any) -> inspect.Target:
    tables = made_pairs(), made_responses(), made_ledger()
    opened = Opened("a-release", Path("a-release"), "release", made_manifest())
    return inspect.Target("a-release", made_manifest(), *tables, opened)._replace(**changes)


def island_of(page: str) -> dict[str, Any]:
    text = page.split('<script type="application/json" id="data">', 1)[1].split("</script>", 1)[0]
    data: dict[str, Any] = json.loads(text)
    return data


@cache
def usual_page() -> str:
    return inspect.render_page(made_target(manifest=made_manifest(findings=[FINDING])))


def with_evidence() -> pl.DataFrame:
    """The usual responses, each with two sentences and a judgement by principle."""
    sides = [
        {
            **row,
            "claims": [{"text": "It is so.", "unsupported": 0.9}, {"text": "It is not.", "unsupported": 0.1}],
            "acceptable": [0.25, 0.75],
            "factual_reason": None,
            "judge_failure": None,
        }
        for row in rank_shares(made_responses(), Weights()).to_dicts()
    ]
    return pl.DataFrame(sides, infer_schema_length=None)


def context(**changes: Any) -> rows.Context:
    manifest = made_manifest()
    pairing = rows.Pairing(**manifest["recipe"]["pairing"])
    return rows.Context(Weights(), pairing, manifest["thresholds"], {}, {})._replace(**changes)


# ---- What the page holds


def test_the_page_holds_every_pair_with_all_its_answers() -> None:
    data = island_of(usual_page())
    held = {pair["id"]: pair for pair in data["pairs"]}
    assert held.keys() == set(made_pairs()["prompt_id"])
    columns = [name for name, _, _ in data["scores"]]
    assert set(columns) == {*schema.SCORES, *schema.ESTIMATES, "u"}
    for pair in made_pairs().iter_rows(named=True):
        row = held[pair["prompt_id"]]
        assert [row["stage"], row["gap"]] == [pair["stage"], round(pair["gap"], 4)]
        assert len(row["answers"]) == 6
        u = [answer["scores"][columns.index("u")] for answer in row["answers"]]
        assert u == sorted(u)
        assert [u[row["chosen"]], u[row["rejected"]]] == [round(pair["u_chosen"], 4), round(pair["u_rejected"], 4)]
        assert sum(row["shares"].values()) == pytest.approx(pair["gap"], abs=3e-4)
        assert [row["answers"][row[side]]["standing"] for side in ("chosen", "rejected")] == ["chosen", "rejected"]


def test_a_page_that_cannot_hold_all_pairs_says_which_it_holds() -> None:
    page = inspect.render_page(made_target(), budget=40_000)
    held = [pair["id"] for pair in island_of(page)["pairs"]]
    assert 5 < len(held) < 48
    assert f"This page holds <strong>{len(held)} of 48 pairs</strong>" in page
    assert "This page holds" not in usual_page()
    assert "All 48 pairs are here" in usual_page()


def test_the_sample_is_the_same_for_any_order_and_grows_without_change() -> None:
    answers = rank_shares(made_responses(), Weights())
    some = rows.choose(made_pairs(), answers, set(), 30_000)["prompt_id"].to_list()
    more = rows.choose(made_pairs().reverse(), answers.sample(fraction=1, shuffle=True, seed=1), set(), 60_000)
    assert 0 < len(some) < more.height < 48
    assert more["prompt_id"].to_list()[: len(some)] == some


def test_what_a_finding_names_is_held_first() -> None:
    manifest = made_manifest(findings=[FINDING])
    data = island_of(inspect.render_page(made_target(manifest=manifest), budget=8_000))
    assert {"p007", "p011"} <= {pair["id"] for pair in data["pairs"]}
    assert [p["id"] for p in data["pairs"] if p["findings"]] == ["p007", "p011"] or len(data["pairs"]) < 12


def test_a_long_text_is_cut_and_its_length_kept() -> None:
    page = inspect.render_page(made_target(responses=said(made_responses(), "word " * 10_000)), budget=3_000_000)
    answer = island_of(page)["pairs"][0]["answers"][0]
    assert [len(answer["text"]), answer["length"]] == [rows.LONGEST, 50_000]


def test_evidence_is_shown_where_the_build_has_it() -> None:
    held = made_pairs().head(1)
    row = next(rows.shown(held, with_evidence(), context()))
    assert row["answers"][0]["claims"] == [["It is so.", 0.9], ["It is not.", 0.1]]
    assert row["answers"][0]["acceptable"] == [0.25, 0.75]
    assert all(not a["claims"] and not a["acceptable"] for a in island_of(usual_page())["pairs"][0]["answers"])


@pytest.mark.parametrize(
    ("changes", "standing"),
    [
        ({"text": "  "}, "left out: empty"),
        ({"finish_reason": "length"}, "left out: cut at the token limit"),
        ({"u": None}, "left out: no uncertainty"),
        ({"value_risk": 0.51}, "cannot be chosen: not under the risk ceiling of 0.5"),
        ({"value_risk": None}, "cannot be chosen: not under the risk ceiling of 0.5"),
        ({}, "not in the pair"),
        ({"response_id": "a"}, "chosen"),
    ],
)
def test_what_became_of_an_answer(changes: dict[str, Any], standing: str) -> None:
    answer = {"response_id": "x", "text": "yes", "finish_reason": "stop", "u": 0.3, "value_risk": 0.2} | changes
    assert rows._standing(answer, {"chosen_id": "a", "rejected_id": "b"}, context().pairing) == standing


@given(st.text())
def test_no_text_ends_the_island(text: str) -> None:
    shown = rows.island({"text": text})
    assert not set("<>&\u2028\u2029") & set(shown)
    assert json.loads(shown) == {"text": text}


def test_a_number_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        rows.island({"gap": float("nan")})


# ---- Correlations and versions


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)), min_size=3, max_size=20))
def test_a_weighted_rank_correlation_is_that_of_the_repeated_rows(drawn: list[tuple[int, int, int]]) -> None:
    """The oracle is polars' Spearman over the rows written out."""
    x, y, counts = (np.array(column) for column in zip(*drawn, strict=True))
    order = [np.unique(column, return_inverse=True)[1] for column in (x, y)]
    found = correlations._spearman(order, counts.astype(np.float64))
    repeated = pl.DataFrame({"x": np.repeat(x, counts), "y": np.repeat(y, counts)})
    expected = repeated.select(pl.corr("x", "y", method="spearman")).item()
    assert found == (pytest.approx(expected, abs=1e-9) if expected is not None and np.isfinite(expected) else None)


def test_correlations_of_what_is_known() -> None:
    values = np.linspace(0, 1, 90)
    table = pl.DataFrame(
        {
            "prompt_id": [f"p{i // 3}" for i in range(90)], "semantic_uncertainty": values,
            "factual_uncertainty": values**3, "value_uncertainty": np.full(90, 0.4),
        }
    )  # fmt: skip
    same, constant, _ = correlations.correlate(table)
    assert [same.rho, same.low, same.high] == pytest.approx([1, 1, 1])
    assert [same.n, same.num_prompts] == [90, 30]
    assert [constant.rho, constant.low, constant.high] == [None, None, None]
    empty = correlations.correlate(table.clear())
    assert [(c.rho, c.n) for c in empty] == [(None, 0)] * 3


def test_the_interval_is_over_prompts_and_not_over_answers() -> None:
    """Every answer three times under its prompt is no more evidence."""
    answers = rank_shares(made_responses(), Weights())
    once, *_ = correlations.correlate(answers)
    thrice, *_ = correlations.correlate(pl.concat([answers] * 3))
    assert thrice.rho == pytest.approx(once.rho, abs=0.002)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.02)
    assert once.low < once.rho < once.high


def test_versions_count_every_pair_once_with_the_reason_of_diff(tmp_path: Path) -> None:
    build = built(tmp_path / "old")
    other = restage(build, tmp_path / "new", recipe(staging=Staging(thresholds=(0.2, 0.4))))
    old, new = open_data(str(build)), open_data(str(other))
    found = versions.compare(new, old)
    num = old.frame("pairs").height
    assert sum(change.pairs for change in found.changes) == len(found.by_prompt) == num
    assert sum(sum(row.values()) for row in found.moves.values()) == num
    still = sum(found.moves[stage][stage] for stage in schema.STAGES)
    counts = {change.label: change.pairs for change in found.changes}
    assert counts == {"moved (thresholds changed)": num - still, "same": still} and 0 < still < num
    few = built(
        tmp_path / "few", sources=tuple(replace(s, limit=8) for s in recipe().sources), staging=new.recipe.staging
    )
    fewer = versions.compare(open_data(str(few)), new)
    gone = new.frame("scored").height - open_data(str(few)).frame("scored").height
    assert {c.label: c.pairs for c in fewer.changes}["removed (prompt removed)"] <= gone
    assert sum(fewer.moves[stage]["none"] for stage in schema.STAGES) == sum(
        c.pairs for c in fewer.changes if c.name == "removed"
    )


# ---- Targets and the command


def test_a_build_and_its_release_make_one_page(tmp_path: Path) -> None:
    build = built(tmp_path / "build")
    publish.publish(build, str(tmp_path / "release"), version="1.0.0")
    first, second = (inspect.open_target(str(tmp_path / name)) for name in ("build", "release"))
    own = ("version", "repository", "card", "croissant")
    theirs, mine = ({k: v for k, v in t.manifest.items() if k not in own} for t in (first, second))
    assert theirs == mine
    for one, two in ((first.pairs, second.pairs), (first.responses, second.responses)):
        assert one.sort("prompt_id").equals(two.sort("prompt_id"))
    output = tmp_path / "page.html"
    run = CliRunner().invoke(
        app, ["inspect", str(build), "--against", str(tmp_path / "release"), "-o", str(output)], catch_exceptions=False
    )
    assert run.exit_code == 0
    text = output.read_text(encoding="utf-8")
    assert "not published" in text
    same = re.search(r'<th scope="row">same</th><td>–</td><td class="n">(\d+)</td>', text)
    assert same is not None
    assert int(same[1]) == first.pairs.height
    assert {pair["change"] for pair in island_of(text)["pairs"]} == {"same"}


def test_what_is_neither_a_build_nor_a_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither"):
        inspect.open_target(str(tmp_path))


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert inspect.render_page(made_target(manifest=made_manifest(findings=[FINDING]))) == usual_page()


# ---- In the browser


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


def test_the_script_is_small_and_writes_no_markup() -> None:
    text = (resources.shelf("cards") / "inspect.js").read_text(encoding="utf-8")
    assert text.count("\n") < 400
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|Function\(", text)
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]


def test_the_page_says_what_u_and_the_judge_are() -> None:
    manifest = made_manifest(calibration={"method": "isotonic"})
    manifest["models"]["judge"] |= {"same_as_policy": False, "kind": "trained"}
    page = inspect.render_page(made_target(manifest=manifest))
    assert "made with a judge trained on human labels" in page and "made without human labels" not in page
    assert "differences of mean probabilities of failure" in page and "rank shares within" not in page
