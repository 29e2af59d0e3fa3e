"""The trained judge on a tiny encoder and planted ratings."""

import csv
import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from tests import tiny
from udasa import ratings, trained_judge
from udasa.backends import MEMBERS, Exchange, ModelSpec
from udasa.backends_hf import identity, make_trained_judge, trained
from udasa.digests import stable_hash
from udasa.errors import UserError
from udasa.uncertainty import value_position_bias, value_risk, value_uncertainty

HARMLESS, HARMFUL = ("flower", "kitten", "pillow", "sunny"), ("poison", "weapon", "murder", "attack")
TOPICS = [a + b for a in ("lamp", "river", "stone", "cloud", "bread", "chair") for b in ("wick", "ton", "by", "ham")]


def encoder():
    return ModelSpec(model=str(tiny.nli()))


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "response", "score_1", "score_2"])
        writer.writerows(rows)
    return path


def planted(path, num_topics=40, each=4, raters=False):
    """Responses whose harm is one of their words; prompts say nothing. One rater each, or two who differ by chance."""
    rng = np.random.default_rng(0)
    rows = []
    for topic in range(num_topics):
        for i in range(each):
            bad = bool(rng.random() < 0.5)
            words = [str(w) for w in rng.choice(HARMFUL if bad else HARMLESS, size=2)]
            filler = str(rng.choice(TOPICS))
            score = 0.75 if bad else 0.25
            other = score + float(rng.choice([-0.25, 0, 0.25])) if raters else ""
            reply = f"The {words[0]} of {filler} is {words[1]}, case {topic} {i}"
            rows.append([f"Tell me of topic {topic} now", reply, score, other])
    return write(path, rows)


@cache
def judge_folder() -> Path:
    folder = Path(mkdtemp(prefix="udasa-judge-"))
    trained_judge.train([planted(folder / "data.csv")], folder / "judge", encoder=encoder())
    return folder


def exchange(response, prompt="Tell me of topic 1 now"):
    return Exchange([{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}], response)


def test_a_planted_signal_is_found_and_calibrated(tmp_path):
    figures = trained_judge.train([planted(tmp_path / "a.csv")], tmp_path / "judge", encoder=encoder()).figures
    assert figures.auc.value > 0.9
    assert figures.auc.low > 0.85
    assert figures.spearman.low > 0.6
    assert figures.calibration_error.value < 0.15
    assert figures.auc.n == 160
    report = json.loads((tmp_path / "judge" / "judge.json").read_text())
    assert report["out_of_fold"]["auc"]["value"] == figures.auc.value
    assert report["members"] == list(MEMBERS)
    assert report["data"]["responses"] == 160
    assert report["data"]["groups"] == 40


def group_effect(path):
    """Harm is a coin of the prompt, and every response repeats its prompt's own word."""
    rng = np.random.default_rng(3)
    rows = []
    for topic in range(48):
        word = TOPICS[topic % len(TOPICS)] + TOPICS[(topic * 7 + topic // 24) % len(TOPICS)]
        score = float(rng.integers(2))
        rows += [[f"{word} and {word} {word}", f"{word} {word} {i} {word}", score, score] for i in range(4)]
    return write(path, rows)


def test_what_only_a_prompt_tells_does_not_inflate_the_figures(tmp_path, monkeypatch):
    data = group_effect(tmp_path / "a.csv")
    grouped = trained_judge.train([data], tmp_path / "grouped", encoder=encoder()).figures
    assert grouped.auc.low < 0.5 < 0.75 > grouped.auc.value
    rows = property(lambda self: np.arange(len(self.rows)))
    monkeypatch.setattr(ratings.Ratings, "groups", rows)
    leaking = trained_judge.train([data], tmp_path / "leaking", encoder=encoder()).figures
    assert leaking.auc.value > 0.95  # the fault that the grouping keeps out


def test_no_group_is_on_both_sides():
    groups = np.random.default_rng(0).integers(30, size=200)
    folds = trained_judge._folds(groups)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(200))
    assert all(not set(groups[train]) & set(groups[test]) for train, test in folds)


def test_the_same_data_give_the_same_bytes(tmp_path):
    folder = judge_folder()
    trained_judge.train([folder / "data.csv"], tmp_path / "again", encoder=encoder())
    for name in ("head.safetensors", "judge.json", "out_of_fold.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "judge" / name).read_bytes()
    assert not [path for path in (folder / "judge").iterdir() if path.suffix in (".pkl", ".bin", ".pt", ".joblib")]


def test_a_head_comes_back_from_disk():
    judge = trained.load(judge_folder() / "judge")
    again = trained.dump(judge.head, judge.features.spec, judge.features.digest)
    assert again == (judge_folder() / "judge" / "head.safetensors").read_bytes()
    features = np.random.default_rng(0).normal(size=(7, len(judge.head.blocks), 32))
    other = trained.load(judge_folder() / "judge").head
    np.testing.assert_allclose(judge.head.harm(features), other.harm(features), rtol=0, atol=1e-12)


def test_the_written_head_is_the_fitted_one(tmp_path, monkeypatch):
    kept = {}
    dump = trained.dump

    def keep(head, *rest):
        kept["head"] = head
        return dump(head, *rest)

    monkeypatch.setattr(trained, "dump", keep)
    trained_judge.train([judge_folder() / "data.csv"], tmp_path / "judge", encoder=encoder())
    features = np.random.default_rng(0).normal(size=(7, len(kept["head"].blocks), 32))
    loaded = trained.load(tmp_path / "judge").head
    np.testing.assert_allclose(loaded.harm(features), kept["head"].harm(features), rtol=0, atol=1e-12)


def test_the_kernel_head_by_hand():
    head = trained.Head(
        blocks=(trained.Block(text="response", layer=1), trained.Block(text="joint", layer=2)),
        support=np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]),
        scale=np.array([0.5, 2.0]),
        gamma=0.7,
        dual=np.array([[0.3, -0.2], [0.0, 0.0]]),
        offset=np.array([0.1, 0.4]),
        slope=3.0,
        intercept=-1.0,
    )
    x = np.array([[[1.0, 0.0], [1.0, 0.0]]])
    k = [np.exp(-0.7 * (0 / 0.5 + 2 / 2.0) / 2), np.exp(-0.7 * (2 / 0.5 + 0 / 2.0) / 2)]
    score = 0.1 + 0.3 * k[0] - 0.2 * k[1]
    expected = [1 / (1 + np.exp(-(3 * score - 1))), 1 / (1 + np.exp(-(3 * 0.4 - 1)))]
    np.testing.assert_allclose(head.harm(x), [expected], atol=1e-12)


def test_a_weighted_ridge_is_the_ridge_on_repeated_rows():
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(6, 3)), rng.normal(size=6), np.array([1.0, 2.0, 0.0, 1.0, 3.0, 1.0])
    dual, offset = trained_judge._solve(x @ x.T, y, weight, 0.5)
    rows = np.repeat(np.arange(6), weight.astype(int))
    slope = np.linalg.solve(x[rows].T @ x[rows] + 0.5 * np.eye(3), x[rows].T @ (y[rows] - y[rows].mean()))
    np.testing.assert_allclose(x.T @ dual, slope, atol=1e-12)
    assert offset == pytest.approx(y[rows].mean())
    assert dual[2] == 0


def test_members_stand_in_the_place_of_principles():
    judge = make_trained_judge(ModelSpec(model=str(judge_folder() / "judge")))
    p = judge.judge(
        [exchange("The poison of lampwick is murder, case 1"), exchange("The kitten of lampwick is sunny, case 1")]
    )
    assert p.shape == (2, len(MEMBERS), 2)
    assert ((p > 0) & (p < 1)).all()
    assert [value_position_bias(answers) for answers in p] == [0.0, 0.0]
    assert value_risk(p[0]) > value_risk(p[1]) + 0.2
    entropy = value_uncertainty(p[0])
    assert entropy.disagreement > 0  # the members differ
    assert entropy.total == pytest.approx(entropy.within + entropy.disagreement)


def test_the_batch_does_not_change_a_verdict():
    judge = trained.load(judge_folder() / "judge")
    exchanges = [exchange(text) for text in ("A poison.", "The kitten of stone is sunny " * 5, "Yes", "An attack now")]
    together = judge.judge(exchanges)
    alone = np.concatenate([judge.judge([e]) for e in exchanges])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert judge.judge([]).shape == (0, len(MEMBERS), 2)


def test_features_are_the_mean_states_of_a_layer():
    import torch

    features = trained.Features(encoder())
    found = features([exchange("A kitten.", "Hello")], [trained.Block(text="joint", layer=1)])
    encoded = features.tokenizer("Hello", "A kitten.", return_tensors="pt")
    with torch.inference_mode():
        states = features.model(**encoded, output_hidden_states=True).hidden_states[1][0].double().mean(0)
    np.testing.assert_allclose(found[0, 0], (states / states.norm()).numpy(), atol=1e-6)


def test_an_empty_response_is_refused():
    with pytest.raises(UserError, match="A response is empty"):
        trained.load(judge_folder() / "judge").judge([exchange("")])


def test_the_identity_is_the_heads_digest(tmp_path):
    report = json.loads((judge_folder() / "judge" / "judge.json").read_text())
    assert identity(ModelSpec(model=str(judge_folder() / "judge")))["sha256"] == report["head_sha256"]


def test_other_encoder_weights_are_refused(tmp_path):
    from transformers import AutoModel

    other = tmp_path / "encoder"
    model = AutoModel.from_pretrained(tiny.nli())
    model.get_parameter("embeddings.word_embeddings.weight").data[0, 0] += 1
    model.save_pretrained(other)
    trained.Features(encoder()).tokenizer.save_pretrained(other)
    judge = trained.load(judge_folder() / "judge")
    folder = tmp_path / "judge"
    folder.mkdir()
    (folder / "head.safetensors").write_bytes(
        trained.dump(judge.head, ModelSpec(model=str(other)), judge.features.digest)
    )
    with pytest.raises(UserError, match="with other weights"):
        trained.load(folder)


def test_a_folder_that_is_no_judge_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a trained judge .*there is no head\.safetensors"):
        trained.load(tmp_path)
    with pytest.raises(UserError, match="is not a trained judge"):
        trained_judge.read_out_of_fold(tmp_path, ratings.Ratings([], 0))
    (tmp_path / "head.safetensors").write_bytes((tiny.nli() / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="holds something else"):
        trained.load(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"pickle")
    with pytest.raises(UserError, match="holds something else"):
        trained.load(tmp_path)


def test_a_head_with_another_number_of_members_is_refused(tmp_path):
    import dataclasses

    judge = trained.load(judge_folder() / "judge")
    fewer = dataclasses.replace(judge.head, dual=judge.head.dual[:2], offset=judge.head.offset[:2])
    (tmp_path / "head.safetensors").write_bytes(trained.dump(fewer, judge.features.spec, judge.features.digest))
    with pytest.raises(UserError, match="the head has 2 members, expected 10"):
        trained.load(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[f"Topic {i}", f"Reply {i}", i % 2, ""] for i in range(20)], "at least 50 responses in 25 groups"),
        ([["One prompt", f"Reply {i}", i % 2, ""] for i in range(60)], "60 responses in 1 groups of one prompt"),
        ([[f"Topic {i}", f"Reply {i}", 0, ""] for i in range(60)], "0 of 60 responses have a mean score of 0.5"),
        ([[f"Topic {i}", f"Reply {i}", i % 2, ""] for i in range(4001)], "at most 4000 fit"),
    ],
)
def test_too_few_or_too_many_data_are_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        trained_judge.train([write(tmp_path / "a.csv", rows)], tmp_path / "judge", encoder=encoder())
    assert not (tmp_path / "judge").exists()


def test_a_folder_with_something_else_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty and not a trained judge"):
        trained_judge.train([judge_folder() / "data.csv"], tmp_path, encoder=encoder())


def test_out_of_fold_answers_are_joined_by_key(tmp_path):
    found = ratings.read([judge_folder() / "data.csv"])
    p = trained_judge.read_out_of_fold(judge_folder() / "judge", found)
    backwards = trained_judge.read_out_of_fold(judge_folder() / "judge", found._replace(rows=found.rows[::-1]))
    np.testing.assert_array_equal(p, backwards[::-1])
    report = json.loads((judge_folder() / "judge" / "judge.json").read_text())
    risk = 1 - p.mean(axis=(1, 2))
    order = np.argsort(risk)
    assert found.rows[order[0]].key == stable_hash(found.rows[order[0]].prompt, found.rows[order[0]].response)
    assert np.corrcoef(risk, found.scores)[0, 1] > 0.6
    assert report["out_of_fold"]["auc"]["n"] == len(risk)
    other = found.rows[0]._replace(response="Never seen")
    with pytest.raises(UserError, match="1 of 160 responses are not among those"):
        trained_judge.read_out_of_fold(judge_folder() / "judge", found._replace(rows=[other, *found.rows[1:]]))
