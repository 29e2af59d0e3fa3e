"""New builds from stored scores: the bytes of a build that was made so from the start, and no model."""

from pathlib import Path

import pytest

from tests.builds import built
from tests.builds import recipe as fakes
from udasa import flow
from udasa.backends import Sampling
from udasa.errors import UserError
from udasa.recipe import Pairing, Staging, Weights
from udasa.restage import restage


def files(folder):
    """Everything in a folder but what no row hangs on."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in flow.LOCAL)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_restaging_runs_no_model_and_shares_the_shards(tmp_path, monkeypatch):
    changes = {"weights": Weights(value=2.0), "pairing": Pairing(rejected="next"), "staging": Staging(test_share=0.3)}
    first, wanted = built(tmp_path / "first"), built(tmp_path / "wanted", **changes)
    for name in ("make_sampler", "make_entailer", "make_judge"):
        monkeypatch.setattr(flow, name, lambda *_: pytest.fail("a model was made"))
    before = files(first)
    again = restage(first, tmp_path / "again", fakes(**changes))
    assert files(again) == files(wanted)
    assert (again / "scored/00000.parquet").stat().st_ino == (first / "scored/00000.parquet").stat().st_ino
    assert restage(first, again, fakes(**changes)) == again, "one that was stopped goes on"
    assert files(first) == before


def test_restaging_copies_where_there_can_be_no_link(tmp_path, monkeypatch):
    first = built(tmp_path / "first")

    def refuse(self, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    again = restage(first, tmp_path / "again")
    assert files(again) == files(first)


def test_restaging_refuses_what_was_sampled_or_scored_with_other_settings(tmp_path):
    first = built(tmp_path / "first")
    with pytest.raises(
        UserError, match=r"other settings: sampling\.k: 4 -> 5; seed: 0 -> 1\. Restaging can change only"
    ):
        restage(first, tmp_path / "again", fakes(sampling=Sampling(k=5), seed=1))
    assert not (tmp_path / "again").exists()
    with pytest.raises(UserError, match="holds no finished build"):
        restage(tmp_path, tmp_path / "again")
