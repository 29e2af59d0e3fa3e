import json
import re
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

from .builds import built, recipe
from .tables import EXAMPLES
from .test_cards import made_manifest
from .test_figures import made_pairs, made_responses
from .test_report import made_ledger, said

FINDING = {
    "name": "length-bias", "count": 30, "total": 48, "value": 0.625, "unit": "share", "low": 0.48, "high": 0.75,
    "threshold": 0.6, "failed": True, "examples": ["p007", "r011-2"], "detail": "The chosen answer is the longer one.",
}  # fmt: skip


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
