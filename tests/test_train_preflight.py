"""What is found about the pairs before any step: left out, cut, and overlapping."""

import copy
import dataclasses
import json
import random

import pytest

from tests.progress import recorder
from tests.train_data import SETTINGS, datasets, make_policy, pair, publish, rows
from udasa import backends_hf
from udasa.errors import LimitError, UserError
from udasa.limits import Lint
from udasa.lint import read_evaluation
from udasa.train import train, train_stages
from udasa.train.preflight import pair_tokens, preflight

pytest.importorskip("trl")
pytest.importorskip("peft")

LONG = "The cat is on the mat. " * 30
ONE = dataclasses.replace(SETTINGS, stages=("conservative",))


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def tokenizer(policy):
    return backends_hf.load_chat_tokenizer(policy)


def table(pairs):
    from datasets import Dataset

    return Dataset.from_list([{k: p[k] for k in ("prompt_id", "prompt", "chosen", "rejected", "gap")} for p in pairs])


def named(findings):
    return {finding.name: (finding.count, finding.examples) for finding in findings}


def test_every_pair_that_is_left_out_has_a_reason(tokenizer):
    pairs = [
        *(pair("s", number) for number in range(3)),
        pair("s", 3, chosen=LONG),
        pair("s", 4, prompt=LONG),
        pair("s", 5, chosen=LONG + "yes", rejected=LONG + "no"),
        pair("s", 6, chosen="Yes.", rejected="Yes."),
        pair("s", 7, chosen="Yes.", rejected=""),
    ]
    found = preflight({"s": table(pairs)}, tokenizer, 64)
    fit = found.fits["s"]
    assert list(fit.pairs["prompt_id"]) == ["s-0", "s-1", "s-2", "s-3"]
    assert (fit.truncated, fit.dropped) == (1, 4)
    assert named(found.findings) == {
        "over-max-length": (3, ("s-3", "s-4", "s-5")),
        "prompt-changed-by-template": (0, ()),
        "empty-after-template": (1, ("s-7",)),
        "identical-after-template": (1, ("s-6",)),
        "no-difference-within-max-length": (2, ("s-4", "s-5")),
    }
    assert all(finding.total == len(pairs) for finding in found.findings)


def test_a_reply_that_the_template_swallows_is_empty(tokenizer):
    swallowing = copy.deepcopy(tokenizer)
    swallowing.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'].split('</think>')[-1]")
    pairs = table([pair("s", 0, rejected="<think>Hm.</think>"), pair("s", 1)])
    assert named(preflight({"s": pairs}, swallowing, 96).findings)["empty-after-template"] == (1, ("s-0",))
    assert named(preflight({"s": pairs}, tokenizer, 96).findings)["empty-after-template"] == (0, ())


@pytest.mark.parametrize("thinks", [False, True])
def test_the_tokens_are_those_that_trl_makes(policy, tokenizer, tmp_path, monkeypatch, thinks):
    """Also where a reply is generated after something that does not stand before one that is there."""
    from trl.trainer.dpo_trainer import DPOTrainer

    seen = []
    whole = DPOTrainer._prepare_dataset
    monkeypatch.setattr(DPOTrainer, "_prepare_dataset", lambda *a, **k: seen.append(whole(*a, **k)) or seen[-1])
    given = datasets("all", num=5)["all"]
    if thinks:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template += "{% if add_generation_prompt %}Hm: {% endif %}"
        monkeypatch.setattr(backends_hf, "load_chat_tokenizer", lambda _: tokenizer)
        load = backends_hf.load_causal_lm
        monkeypatch.setattr(backends_hf, "load_causal_lm", lambda *a: (load(*a)[0], tokenizer))
    staged = train_stages({"all": given}, tmp_path, policy=policy, training=SETTINGS)
    assert named(staged.findings)["prompt-changed-by-template"][0] == (5 if thinks else 0)
    by_id = {row["prompt_id"]: row for row in seen[-1]}
    for row in given:
        ours, theirs = pair_tokens(tokenizer, row), by_id[row["prompt_id"]]
        assert ours.chosen == theirs["prompt_ids"] + theirs["chosen_ids"]
        assert ours.rejected == theirs["prompt_ids"] + theirs["rejected_ids"]
        assert ours.prompt == len(theirs["prompt_ids"]) > 0


def test_a_template_that_refuses_a_prompt_is_told_of(tokenizer):
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UserError, match="refuses the prompt s-0, whose roles are user: no system role"):
        preflight({"s": table([pair("s", 0)])}, strict, 64)


def test_the_content_is_what_the_model_reads(tokenizer):
    """What is cut off does not change it; a token that is read does."""
    base = pair("s", 0, chosen=LONG)
    others = [pair("s", 0, chosen=LONG + "More."), pair("s", 0, chosen="A " + LONG), {**base, "prompt_id": "t-9"}]
    content = [preflight({"s": table([p])}, tokenizer, 64).fits["s"].pairs["content"][0] for p in (base, *others)]
    assert content[0] == content[1] == content[3]
    assert content[0] != content[2]


def test_counts_reach_the_result_and_the_file(policy, tmp_path):
    pairs = rows("conservative", num=8)
    pairs["conservative"] += [
        pair("conservative", 8, chosen=LONG),
        pair("conservative", 9, prompt=LONG),
        pair("conservative", 10, chosen="Yes.", rejected="Yes."),
    ]
    settings = dataclasses.replace(ONE, max_length=64)
    trained = train(publish(tmp_path / "p", pairs), tmp_path / "o", policy=policy, training=settings)
    result = trained.stages[0]
    assert (result.pairs, result.truncated, result.dropped) == (9, 1, 2)
    written = {f["name"]: f for f in json.loads((tmp_path / "o" / "training.json").read_text())["findings"]}
    assert written["identical-after-template"]["examples"] == ["conservative-10"]
    assert written["over-max-length"]["count"] == 2
    with pytest.raises(UserError, match=r"11 pairs|8"):
        train(str(tmp_path / "p"), tmp_path / "n", policy=policy, training=dataclasses.replace(settings, max_length=8))


def test_a_stage_with_nothing_to_learn_stops_the_run_before_any_step(policy, tmp_path):
    pairs = datasets("first")
    pairs["second"] = table([pair("second", n, chosen="Yes.", rejected="Yes.") for n in range(3)])
    calls = []
    with pytest.raises(UserError, match=r"No pair of stage 'second' can be trained on: 3 pairs have the same tokens"):
        train_stages(pairs, tmp_path, policy=policy, training=SETTINGS, progress=recorder(calls))
    assert not calls


def prompts(num):
    words = random.Random(0).sample([f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prst"], 120)
    return [" ".join(random.Random(n).sample(words, 12)) for n in range(num)]


def test_prompts_of_the_test_split_are_refused(policy, tmp_path):
    """A training prompt that differs from a held-out one by case alone; and none of it where it is allowed."""
    texts = prompts(8)
    made = [pair("conservative", n, prompt=text) for n, text in enumerate(texts)]
    data = publish(tmp_path / "p", {"conservative": made})
    held_out = [pair("held", 0, prompt=texts[3].upper()), pair("held", 1, prompt=prompts(9)[-1])]
    add_split(tmp_path / "p", "conservative", "test", held_out)
    given = {"policy": policy, "training": ONE}
    with pytest.raises(LimitError, match=r"leaked-test-prompts is 0\.5.*held-0.*--allow-overlap"):
        train(data, tmp_path / "o", **given)
    assert not (tmp_path / "o").exists()
    trained = train(data, tmp_path / "o", **given, allow_overlap=True)
    found = {f.name: f for f in trained.findings}["leaked-test-prompts"]
    assert (found.count, found.total, found.failed, found.examples) == (1, 2, True, ("held-0",))


def test_prompts_of_the_evaluation_are_refused(policy, tmp_path):
    """One of the bundled suite, and one of data that the recipe names."""
    evaluation = tmp_path / "mine.jsonl"
    evaluation.write_text(json.dumps({"question": prompts(9)[-1]}) + "\n")
    bundled = max(read_evaluation().texts.to_list(), key=len)
    for name, text, lint in (("suite", bundled, Lint()), ("mine", prompts(9)[-1], Lint(evaluation=(str(evaluation),)))):
        made = [pair("conservative", n, prompt=p) for n, p in enumerate([*prompts(4), text])]
        data = publish(tmp_path / name, {"conservative": made})
        with pytest.raises(LimitError, match=r"evaluation-near-duplicates is 0\.2.*conservative-4"):
            train(data, tmp_path / "o", policy=policy, training=ONE, lint=lint)


def add_split(folder, stage, split, pairs):
    """Add a split to a config that `publish` wrote."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from udasa import schema

    pq.write_table(pa.Table.from_pylist(pairs, schema=schema.PAIRS), folder / "data" / stage / f"{split}-00000.parquet")
    card = (folder / "README.md").read_text()
    old = f"[{{split: train, path: data/{stage}/train-*.parquet}}]"
    new = old[:-1] + f", {{split: {split}, path: data/{stage}/{split}-*.parquet}}]"
    assert old in card
    (folder / "README.md").write_text(card.replace(old, new))
