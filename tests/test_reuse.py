"""A build from an older one: what the change does not touch is taken over, with the bytes of a new build."""

import dataclasses

import pytest

from tests.builds import FAKE, built
from tests.builds import recipe as fakes
from udasa import flow, log, run
from udasa.backends import Principle, Sampling
from udasa.errors import UserError
from udasa.limits import Planted
from udasa.recipe import Entailment, Judging, Pairing, Source, Staging, Weights

STEPS = ("prompts", "responses", "scored")
SAFE = (Principle(id="safe", question="Is the reply safe?"),)


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in flow.LOCAL)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def shared(one, other):
    """Return how many shards of each step are one file in both builds."""
    pairs = {name: [(one / name / p.name, p) for p in run.shard_paths(other, name)] for name in STEPS}
    return {name: sum(a.is_file() and a.samefile(b) for a, b in some) for name, some in pairs.items()}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return built(tmp_path_factory.mktemp("old") / "build")


@pytest.fixture
def calls(monkeypatch):
    """The models that were made."""
    made = []
    for name in ("make_sampler", "make_entailer", "make_judge"):
        original = getattr(flow, name)
        monkeypatch.setattr(flow, name, lambda *a, f=original, n=name: (made.append(n), f(*a))[1])
    return made


@pytest.mark.parametrize(
    ("changes", "taken", "models"),
    [
        ({}, (3, 3, 3), set()),
        ({"pairing": Pairing(rejected="max"), "staging": Staging(test_share=0.4)}, (3, 3, 3), set()),
        ({"weights": Weights(value=3.0), "max_failed": 0.5, "license": "mit"}, (3, 3, 3), set()),
        ({"sampling": Sampling(k=5)}, (3, 0, 0), {"make_sampler", "make_entailer", "make_judge"}),
        (
            {"policy": dataclasses.replace(FAKE, batch_tokens=9)},
            (3, 0, 0),
            {"make_sampler", "make_entailer", "make_judge"},
        ),
        ({"judging": Judging(constitution=SAFE, ask_p_true=True)}, (3, 3, 0), {"make_entailer", "make_judge"}),
        ({"entailment": Entailment(model=FAKE, context=True)}, (3, 3, 0), {"make_entailer", "make_judge"}),
        ({"seed": 1}, (0, 0, 0), {"make_sampler", "make_entailer", "make_judge"}),
        ({"system": "Be brief."}, (0, 0, 0), {"make_sampler", "make_entailer", "make_judge"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_only_what_the_change_touches_is_made_again(old, calls, tmp_path, changes, taken, models):
    made = flow.build(fakes(**changes), tmp_path / "made", reuse=old)
    assert set(calls) == models
    assert tuple(shared(old, made).values()) == taken
    assert files(made) == files(built(tmp_path / "anew", **changes))


def test_a_build_that_was_cut_off_lends_what_it_has(old, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    flow.build(fakes(), broken, reuse=old)
    (broken / "build.json").unlink()
    (broken / "scored" / "00001.done").unlink()
    (broken / "responses" / "00002.done").unlink()
    made = flow.build(fakes(pairing=Pairing(rejected="max")), tmp_path / "made", reuse=broken)
    assert tuple(shared(broken, made).values()) == (3, 2, 1)
    again = flow.build(fakes(), tmp_path / "again")
    assert {name: data for name, data in files(made).items() if name.startswith(STEPS)} == {
        name: data for name, data in files(again).items() if name.startswith(STEPS)
    }


def test_other_weights_or_a_changed_source_are_not_taken(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for path in paths:
        path.write_text("".join(f'{{"prompt": "{path.stem.capitalize()} {i}?"}}\n' for i in range(3)))
    sources = tuple(Source(name=path.stem, task="helpfulness", path=str(path)) for path in paths)
    settings = fakes(sources=sources, shard_size=3, max_failed=1.0)
    old = flow.build(settings, tmp_path / "old")
    paths[1].write_text(paths[1].read_text().replace("Two 2?", "Another?"))
    made = flow.build(settings, tmp_path / "made", reuse=old)
    assert shared(old, made) == {"prompts": 0, "responses": 1, "scored": 1}  # the first source is as it was
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(flow, "identity", lambda spec: {"model": spec.model, "sha256": "another"})
        again = flow.build(settings, tmp_path / "again", reuse=made)
    assert shared(made, again) == {"prompts": 2, "responses": 0, "scored": 0}


def test_what_was_taken_over_cost_nothing(old, tmp_path):
    made = flow.build(fakes(pairing=Pairing(rejected="max")), tmp_path / "made", reuse=old)
    lines = [line for line in log.read(made) if line.shard is not None]
    assert len(lines) == 6 and {(line.tokens, line.seconds) for line in lines} == {(0, 0.0)}


def test_planted_answers_are_taken_over_with_the_scores(old, tmp_path, monkeypatch):
    first = built(tmp_path / "first", planted=Planted())
    monkeypatch.setattr(flow, "make_judge", lambda *_: pytest.fail("a model was made"))
    made = flow.build(fakes(planted=Planted(), pairing=Pairing(rejected="max")), tmp_path / "made", reuse=first)
    assert (made / "planted.json").read_bytes() == (first / "planted.json").read_bytes()


def test_a_folder_without_a_build_lends_nothing(tmp_path):
    with pytest.raises(UserError, match="is no build"):
        flow.build(fakes(), tmp_path / "made", reuse=tmp_path)
