import html
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udasa import figures, report, resources, schema
from udasa.figures import visible
from udasa.recipe import Weights

from .test_cards import HOSTILE, made_facts, made_manifest
from .test_figures import COMPARISON, Delta, made_pairs, made_responses, made_thresholds

HEADINGS = [
    "udasa-demo", "Stages", "What became of every prompt", "Uncertainty", "Before and after training", "Training",
    "Pairs", "Limits",
]  # fmt: skip
OWNED = (
    "</div></article></section></main></body></html><script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\"><svg onload=\"document.title='owned'\"></svg>"
    "<style>body{display:none}</style></style><a href=\"javascript:document.title='owned'\">x</a>"
    "<iframe srcdoc=\"<script>parent.document.title='owned'</script>\"></iframe>"
    "\u202eevil\u202c \u2066x\u2069 \u200b" + "W" * 4000
)


def made_ledger(detail: str = "row 3") -> pl.DataFrame:
    rows = [("paired", None)] * 48 + [("tie", "gap 4e-7")] * 2 + [("duplicate-prompt", detail)]
    rows += [("empty-or-truncated", None)] * 4
    table = [
        {"source": "own-prompts", "source_row": i, "prompt_id": f"p{i:03d}", "outcome": outcome, "detail": words}
        for i, (outcome, words) in enumerate(rows)
    ]
    return pl.DataFrame(table, schema_overrides={"detail": pl.String})


@cache
def usual_page() -> str:
    return page()


@cache
def calm_page() -> str:
    return hostile_page("calm")


def page(**changes: Any) -> str:
    inputs: dict[str, Any] = {
        "manifest": made_manifest(), "pairs": made_pairs(), "responses": made_responses(), "ledger": made_ledger(),
        "comparison": COMPARISON, "training": made_facts(),
    }  # fmt: skip
    return report.render_report(**(inputs | changes))


def said(responses: pl.DataFrame, text: str) -> pl.DataFrame:
    """The same table, every answer saying `text`."""
    fields = pl.element().struct.with_fields(text=pl.lit(text))
    return responses.with_columns(pl.col("responses").list.eval(fields))


def asked(pairs: pl.DataFrame, text: str) -> pl.DataFrame:
    return pairs.with_columns(prompt=pl.col("prompt").list.eval(pl.element().struct.with_fields(content=pl.lit(text))))


def hostile_page(text: str = OWNED) -> str:
    manifest = made_manifest(name=text, packages={text: text}, tasks={text[:80]: {"moderate": 3}})
    manifest["models"]["policy"] |= {"model": text, "origin": text}
    comparison = [Delta(text[:80], text[:80], 9, 0.1, 0.2, 0.1, 0.05, 0.2)]
    return page(
        manifest=manifest,
        pairs=asked(made_pairs(), text),
        responses=said(made_responses(), text),
        ledger=made_ledger(text),
        comparison=comparison,
        training=made_facts(base_model=text),
        examples_per_stage=1,
    )


@cache
def made_charts() -> Any:
    return report._charts(made_manifest(), made_pairs(), made_responses(), COMPARISON)


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the page around the charts: drawing takes most of its time."""
    charts = made_charts()
    monkeypatch.setattr(report, "_charts", lambda *_: charts)


class Outline(HTMLParser):
    """Tags, attributes and the text of headings and of model answers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.headings: list[str] = []
        self.answers: list[str] = []
        self._into: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._into = self.headings if tag in ("h1", "h2") else self.answers if ("class", "text") in attrs else None
        if self._into is not None:
            self._into.append("")

    def handle_endtag(self, tag: str) -> None:
        self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data


def numbers_in(cell: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", cell)).strip()


def table(text: str, caption: str) -> list[list[str]]:
    """The body rows of the table with this caption."""
    body = text.split(f"<caption>{caption}", 1)[1].split("<tbody>", 1)[1].split("</tbody>", 1)[0]
    return [
        [numbers_in(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
        for row in body.split("</tr>")
    ][:-1]


def test_the_page_has_its_sections_and_every_table_a_caption() -> None:
    text = usual_page()
    outline = Outline(text)
    assert outline.headings == HEADINGS
    assert outline.tags.count("table") == outline.tags.count("caption") == 6 + 3 * 4
    assert outline.tags.count("article") == 12
    assert outline.tags.count("figure") == 4
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value.removeprefix("#") for name, value in outline.attributes if name == "href"}
    assert targets <= set(ids)


def test_the_page_needs_nothing_from_outside_and_runs_nothing() -> None:
    text = usual_page()
    outline = Outline(text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & set(outline.tags)
    assert not any(name.startswith("on") or name in ("style", "src") for name, _ in outline.attributes)
    assert all(value.startswith("#") for name, value in outline.attributes if name in ("href", "xlink:href"))
    policy = next(value for _, value in outline.attributes if value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "@import" not in text
    assert "url(http" not in text


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert page() == usual_page()


def test_the_numbers_are_the_manifests() -> None:
    manifest, text = made_manifest(), usual_page()
    stages = manifest["counts"]["stages"]
    shown = [[row[0], *row[2:]] for row in table(text, "Pairs by stage and split")]
    assert shown == [[s, *(str(n) for n in stages[s].values()), str(sum(stages[s].values()))] for s in schema.STAGES]
    assert {row[0]: int(row[1]) for row in table(text, "Every prompt")} == manifest["ledger"]
    for name, _, n, nulls, mean, *_ in table(text, "Statistics"):
        expected = manifest["statistics"][name.replace(" ", "_")]
        assert [int(n), int(nulls), mean] == [expected["n"], expected["nulls"], f"{expected['mean']:.3f}"]


def test_the_differences_are_read_in_words() -> None:
    text = usual_page()
    rows = table(text, "Paired differences")
    assert [row[2] for row in rows] == [str(d.n) for d in COMPARISON]
    assert rows[0][7] == "Better: the interval leaves out 0 at n = 48."
    assert rows[1][7] == "No difference can be told apart from noise at n = 60."
    assert rows[2][7] == "Worse: the interval leaves out 0 at n = 40."
    assert rows[3][7].startswith("Better")
    assert "Of 4 comparisons, 2 are better, 1 is worse, and 1 cannot be told apart from noise." in text


def test_the_keyboard_reaches_what_scrolls_and_nothing_else(drawn_once: None) -> None:
    regions = 5  # the tables of the page, one of them folded
    assert usual_page().count('tabindex="0"') == regions + 1
    assert page(responses=said(made_responses(), "word " * 200)).count('tabindex="0"') == regions + 1 + 12 * 6


def test_without_training_and_evaluation_the_page_says_so(drawn_once: None) -> None:
    text = page(comparison=None, training=None)
    assert "No evaluation is attached" in text
    assert "No model was trained" in text
    assert Outline(text).headings == HEADINGS


def test_a_judge_that_people_trained_is_named_as_that(drawn_once: None) -> None:
    manifest = made_manifest()
    manifest["models"]["judge"] |= {"same_as_policy": False, "kind": "trained"}
    plain, trained = page(), page(manifest=manifest)
    assert "Made without human labels" in plain and "Made without human labels" not in trained
    assert "Made with a judge trained on human labels" in trained and "trained on people" not in plain
    assert "trained on people" in trained
    assert "made without human labels" in plain and "made without human labels" not in trained
    assert "made with a judge trained on human labels" in trained


def test_gaps_by_isotonic_maps_are_not_called_ranks(drawn_once: None) -> None:
    ranks, mapped = page(), page(manifest=made_manifest() | {"calibration": {"method": "isotonic"}})
    assert "rank shares" in ranks and "rank share" not in mapped
    assert "differences of mean probabilities of failure" in mapped


def test_a_build_without_pairs_has_a_page() -> None:
    text = page(pairs=made_pairs().clear())
    assert text.count("No pair in this stage.") == 3


def test_contributions_sum_to_the_gap_of_every_pair() -> None:
    weights = Weights(semantic=2.0, value=0.5)
    answers = {row["response_id"]: row for row in report.rank_shares(made_responses(), weights).iter_rows(named=True)}
    for pair in made_pairs().iter_rows(named=True):
        chosen, rejected = answers[pair["chosen_id"]], answers[pair["rejected_id"]]
        shares = report.contributions(chosen, rejected, weights)
        assert sum(shares.values()) == pytest.approx(rejected["u"] - chosen["u"], abs=1e-12)


def test_a_dimension_without_weight_contributes_nothing() -> None:
    weights = Weights(factual=0.0)
    first, second, *_ = report.rank_shares(made_responses(), weights).iter_rows(named=True)
    assert set(report.contributions(first, second, weights)) == {"semantic", "value"}


@pytest.mark.parametrize(
    ("stage", "gap", "expected"),
    [
        ("conservative", 0.5, "gap of 0.500 is at least 0.400, where conservative begins"),
        ("moderate", 0.3, "gap of 0.300 is at least 0.200, where moderate begins, and below 0.400"),
        ("exploratory", 0.1, "gap of 0.100 is below 0.200, where moderate begins"),
    ],
)
def test_why_a_pair_is_in_its_stage(stage: str, gap: float, expected: str) -> None:
    shares = {"semantic": 0.01, "factual": -0.02, "value": 0.3}
    why = report.explain_stage(stage, gap, {"moderate": 0.2, "conservative": 0.4}, shares)
    assert expected in why
    assert why.endswith("value uncertainty contributes most, +0.300 (semantic +0.010, factual -0.020).")


def test_every_shown_pair_says_why_with_its_own_gap(drawn_once: None) -> None:
    text = page(examples_per_stage=100)
    gaps = re.findall(r"because the gap of (\d\.\d{3})", text)
    assert sorted(gaps) == sorted(f"{gap:.3f}" for gap in made_pairs()["gap"])
    assert f"{made_thresholds()['conservative']:.3f}, where conservative begins" in text


def test_examples_are_evenly_spaced_and_hold_both_ends() -> None:
    for stage in schema.STAGES:
        gaps = made_pairs().filter(stage=stage)["gap"]
        shown = re.findall(rf"{stage.capitalize()}, because the gap of (\d\.\d{{3}})", usual_page())
        assert len(shown) == 4
        assert [shown[0], shown[-1]] == [*(f"{gap:.3f}" for gap in (max(gaps), min(gaps)))]


@pytest.mark.parametrize("text", [" ".join(HOSTILE), OWNED], ids=["many", "long"])
def test_hostile_text_adds_no_element_and_no_attribute(text: str) -> None:
    shown = hostile_page(text)
    calm, hostile = Outline(calm_page()), Outline(shown)
    drawn = {"text", "tspan"}  # Vega wraps no text, but may drop a label that does not fit
    assert [t for t in hostile.tags if t not in drawn] == [t for t in calm.tags if t not in drawn]
    assert {name for name, _ in hostile.attributes} == {name for name, _ in calm.attributes}
    assert hostile.headings[1:] == calm.headings[1:]
    assert not re.search(r"[\u200b\u202a-\u202e\u2066-\u2069]", shown)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    example = report.render("report.html.j2", **frame_of(text))
    answers = Outline(example).answers
    assert answers
    assert set(answers) == {visible(text)}


@cache
def made_answers() -> Any:
    return report.answers_by_prompt(made_responses(), Weights())


def frame_of(text: str) -> dict[str, Any]:
    """What the template gets for one pair whose every text is `text`, without the charts."""
    answers = made_answers()
    pair = asked(made_pairs(), text).row(0, named=True)
    mine = {pair["prompt_id"]: {k: {**a, "text": text} for k, a in answers[pair["prompt_id"]].items()}}
    example = report._example(pair, mine, Weights(), made_thresholds())
    charts = dict.fromkeys(("stages", "uncertainties", "gap", "forest"), "")
    return {
        "css": "", "policy": "", "m": made_manifest(), "stages": schema.STAGES,
        "outcomes": [], "dropped": [], "num_dropped": 0, "charts": charts, "comparison": [], "summary": "",
        "training": None, "scores": report.SCORES, "examples": {pair["stage"]: [example]},
    }  # fmt: skip


def test_a_local_path_is_not_shown(drawn_once: None) -> None:
    manifest = made_manifest()
    manifest["models"]["policy"] |= {"model": "/home/someone/models/tiny", "revision": None, "origin": "local folder"}
    text = page(manifest=manifest, training=made_facts(base_model="/home/someone/models/tiny", base_revision=None))
    assert "/home" not in text
    assert "tiny (local folder)" in text


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("neither chromium nor google-chrome is installed")
    return found


def browse(file: Path, *flags: str) -> str:
    """The document as the browser has it after loading, scripts run if the page allows any."""
    command = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={file.parent / 'profile'}", *flags, "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def test_a_browser_shows_hostile_texts_and_runs_none(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(hostile_page(), encoding="utf-8")
    dom = browse(file)
    title = re.search(r"<title>(.*?)</title>", dom, re.S)
    assert title is not None
    assert title[1].endswith("0.1.0: build report")
    outline = Outline(dom)
    assert outline.headings[1:] == HEADINGS[1:]
    assert "script" not in outline.tags
    assert any("document.title='owned'" in answer for answer in outline.answers)


def test_the_policy_stops_a_script_that_got_into_the_page(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    injected = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"></main>"
    file.write_text(usual_page().replace("</main>", injected), encoding="utf-8")
    dom = browse(file)
    assert "<title>udasa-demo 0.1.0: build report</title>" in dom
    free = tmp_path / "free.html"
    free.write_text(f"<!doctype html><title>calm</title>{injected}", encoding="utf-8")
    assert "<title>owned</title>" in browse(free)


def test_the_style_sheet_is_the_one_the_policy_allows(tmp_path: Path) -> None:
    """A blocked sheet would leave the page at the browser's own full width."""
    file, probe = tmp_path / "report.html", tmp_path / "probe.html"
    file.write_text(hostile_page(), encoding="utf-8")
    script = (
        "const d = document.querySelector('iframe').contentDocument, e = d.documentElement;"
        "document.title = [getComputedStyle(d.querySelector('.page')).maxWidth, e.scrollWidth <= e.clientWidth]"
    )
    for width in (320, 1200):
        frame = f'<iframe src="report.html" width="{width}" height="900" onload="{script}"></iframe>'
        probe.write_text(f"<!doctype html><title>x</title>{frame}", encoding="utf-8")
        assert "<title>960px,true</title>" in browse(probe, "--allow-file-access-from-files"), width


def test_reading_colours_have_a_place_in_the_style_sheet() -> None:
    css = (resources.shelf("cards") / "report.css").read_text(encoding="utf-8")
    for name in (*schema.STAGES, *list(figures.READING_COLOURS)[:2]):
        assert f".{name} " in css
