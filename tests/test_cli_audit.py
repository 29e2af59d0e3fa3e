"""The commands calibrate and audit, and builds by fitted maps and with abstention."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests import builds
from udasa import flow, maps, recipe, run
from udasa.errors import UserError
from udasa.publish import publish, rebuild_differs
from udasa.recipe import Calibration, Measures, Pairing, Staging, Weights
from udasa.report import rank_shares


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled rows that fail as often as their raw values say."""
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 600))
    failed = rng.random(600) < (x + y) / 2
    path = tmp_path_factory.mktemp("labels") / "labelled.csv"
    pl.DataFrame({"semantic_uncertainty": x, "factual_uncertainty": y, "failed": failed.astype(int)}).write_csv(path)
    return path


def test_calibrate_prints_what_the_recipe_pins(udasa: Any, labelled: Path, tmp_path: Path) -> None:
    code, shown, _ = udasa("calibrate", labelled, "-o", tmp_path / "maps.json", "--label", "failed")
    assert code == 0 and "held-out ECE" in shown
    line = next(line for line in shown.splitlines() if "calibration=" in line).strip().removesuffix(",")
    pinned = eval(line.removeprefix("calibration="), {"Calibration": Calibration})
    weights = Weights(value=0.0)
    assert set(maps.load(pinned, Measures(), weights).maps) == {"semantic_uncertainty", "factual_uncertainty"}
    code, _, error = udasa("calibrate", labelled, "-o", tmp_path / "maps.json")
    assert code == 2 and "has no column label" in error


def test_a_build_by_fitted_maps_carries_them_and_is_rebuilt_without_their_file(labelled: Path, tmp_path: Path) -> None:
    path = tmp_path / "maps.json"
    digest = maps.save(maps.fit_file(labelled, "failed"), path)
    pinned = Calibration(method="isotonic", maps=str(path), sha256=digest)
    changes: dict[str, Any] = {"calibration": pinned, "weights": Weights(value=0.0)}
    build = builds.built(tmp_path / "build", **changes, pairing=Pairing(gap_resamples=100))
    summary = json.loads((build / "build.json").read_text())
    fitted = maps.recorded(summary)
    assert summary["calibration"]["method"] == "isotonic" and fitted == maps.load(
        pinned, Measures(), Weights(value=0.0)
    )
    pairs = run.read_frame(build, "pairs")
    curve = fitted.maps["semantic_uncertainty"], fitted.maps["factual_uncertainty"]
    row = pairs.row(0, named=True)
    shares = [
        curve[0](np.array(row["chosen_semantic_uncertainty"])),
        curve[1](np.array(row["chosen_factual_uncertainty"])),
    ]
    assert row["u_chosen"] == pytest.approx(float(np.mean(shares)))
    shown = rank_shares(run.read_frame(build, "scored"), Weights(value=0.0), Measures(), fitted)
    u = dict(shown.select("response_id", "u").iter_rows())
    assert all(u[row["chosen_id"]] == row["u_chosen"] for row in pairs.iter_rows(named=True))
    publish(build, str(tmp_path / "release"), version="1.0.0")
    path.unlink()
    assert rebuild_differs(str(tmp_path / "release")).differ == []
    with pytest.raises(UserError, match="no calibration maps"):
        builds.built(tmp_path / "again", **changes)


def test_pairs_that_straddle_a_threshold_are_in_the_ledger(tmp_path: Path) -> None:
    pairing = Pairing(gap_resamples=200)
    plain = builds.built(tmp_path / "plain", pairing=pairing)
    wary = builds.built(tmp_path / "wary", pairing=pairing, staging=Staging(abstain=True))
    pairs, kept = (run.read_frame(folder, "pairs") for folder in (plain, wary))
    thresholds = json.loads((plain / "build.json").read_text())["thresholds"].values()
    covers = [any(r["gap_low"] < t <= r["gap_high"] for t in thresholds) for r in pairs.iter_rows(named=True)]
    assert 0 < sum(covers) < len(covers)
    assert kept["prompt_id"].to_list() == pairs.filter(~pl.Series(covers))["prompt_id"].to_list()
    ledgers = [dict(run.read_frame(f, "ledger")["outcome"].value_counts().iter_rows()) for f in (plain, wary)]
    assert ledgers[1]["gap-straddles-threshold"] == sum(covers) == ledgers[0]["paired"] - ledgers[1]["paired"]
    assert sum(ledgers[0].values()) == sum(ledgers[1].values()) == 40


def test_audit_commands(udasa: Any, tmp_path: Path) -> None:
    build = builds.built(tmp_path / "build")
    code, shown, _ = udasa("audit", "consistency", build, "-o", tmp_path / "c")
    assert code == 0 and "rescored" in shown and "one-response-fewer" in shown and "semantic_entropy" in shown
    code, shown, _ = udasa("audit", "consistency", build, "-o", tmp_path / "c", "--json")
    assert code == 0 and json.loads(shown) == json.loads((tmp_path / "c" / "consistency.json").read_text())
    code, shown, _ = udasa("audit", "stability", build, "--seed", 3, "-o", tmp_path / "s")
    assert code == 0 and "differs: seed: 0 -> 3" in shown and "moved stage" in shown
    again = tmp_path / "s" / "build"
    assert flow.is_finished(recipe.from_json((again / "recipe.json").read_text()), again)
    code, shown, _ = udasa("audit", "stability", build, "--against", again, "-o", tmp_path / "t", "--json")
    assert code == 0 and json.loads(shown) == json.loads((tmp_path / "s" / "stability.json").read_text())
    for arguments in ((), ("--seed", 3, "--against", again)):
        code, _, error = udasa("audit", "stability", build, "-o", tmp_path / "u", *arguments)
        assert code == 2 and "Give either --against" in error
