import dataclasses
import json
import math
import socket
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hub.client import run_client
from tests.progress import recorder
from tests.train_data import (
    DEPRECATED,
    SETTINGS,
    make_policy,
    pair,
    publish,
    rows,
    spread,
    stage_folder,
    steps_of,
    weights,
)
from udasa import backends_hf, schema
from udasa.backends import ModelSpec
from udasa.errors import UserError
from udasa.train import Trained, train

pytest.importorskip("trl")
pytest.importorskip("peft")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("data") / "pairs", rows(*schema.STAGES))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data, policy):
    """Train once with each reference; `(output, trained, progress calls)` by reference."""
    found = {}
    for reference in ("base", "previous"):
        output, calls = tmp_path_factory.mktemp(reference), []
        settings = dataclasses.replace(SETTINGS, reference=reference)
        trained = train(data, output, policy=policy, training=settings, progress=recorder(calls))
        found[reference] = (output, trained, steps_of(calls))
    return found


# --- what is trained, against what


def test_the_first_loss_is_ln_2_where_the_policy_is_its_reference(runs):
    losses = {name: [stage.first_loss for stage in trained.stages] for name, (_, trained, _) in runs.items()}
    assert losses["previous"] == pytest.approx([math.log(2)] * 3, abs=1e-6)
    # against the base model, what the earlier stages taught is already there
    assert losses["base"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses["base"][1] < math.log(2) - 0.05
    assert losses["base"][2] < losses["base"][1]


def test_the_first_stage_is_the_same_with_either_reference(runs):
    first, second = (
        [weights(stage_folder(runs[name][0], stage)) for name in runs] for stage in ("conservative", "moderate")
    )
    assert spread(*first) < 1e-5  # the references of the first stage differ in the batches that they were read in
    assert spread(*second) > 1e-4


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_every_stage_moves_the_adapter_and_the_last_one_is_published(runs, reference):
    output = runs[reference][0]
    adapters = [weights(stage_folder(output, stage)) for stage in schema.STAGES]
    assert all(w.abs().max() > 0 for key, w in adapters[0].items() if "lora_B" in key)  # a fresh adapter's are 0
    assert all(spread(a, b) > 1e-4 for a, b in pairwise(adapters))
    assert spread(adapters[-1], weights(output)) == 0


def test_stages_run_in_the_order_of_the_settings(data, policy, tmp_path):
    calls = []
    settings = dataclasses.replace(SETTINGS, stages=("exploratory", "conservative"))
    trained = train(data, tmp_path, policy=policy, training=settings, progress=recorder(calls))
    assert [s.stage for s in trained.stages] == ["exploratory", "conservative"]
    assert list(dict.fromkeys(name for name, *_ in steps_of(calls))) == ["train exploratory", "train conservative"]
    assert sorted(p.name for p in (tmp_path / "stages").iterdir()) == ["1-exploratory", "2-conservative"]


# --- what is written


def test_progress_and_result(runs, data, policy):
    output, trained, calls = runs["base"]
    assert calls == [(f"train {stage}", step, 3) for stage in schema.STAGES for step in (1, 2, 3)]
    assert [(s.pairs, s.truncated, s.dropped, s.steps) for s in trained.stages] == [(12, 0, 0, 3)] * 3
    assert isinstance(trained, Trained)
    written = json.loads((output / "training.json").read_text(), parse_constant=pytest.fail)
    assert written == json.loads(json.dumps(dataclasses.asdict(trained)))
    assert written["settings"]["beta"] == 0.1
    assert written["base_identity"] == backends_hf.identity(policy)
    assert (written["data"], written["data_digest"], written["skipped"]) == (data, None, [])
    assert {"udasa", "torch", "transformers", "trl", "peft"} <= written["versions"].keys()


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_the_folder_holds_adapters_and_nothing_else(runs, reference):
    output = runs[reference][0]
    adapter = {"adapter_model.safetensors", "adapter_config.json"}
    expected = {*adapter, "training.json", "steps.jsonl", "figures/training.svg"}
    for stage in schema.STAGES:
        here = stage_folder(output, stage).relative_to(output)
        expected |= {f"{here}/{name}" for name in (*adapter, "stage.json", "steps.jsonl")}
    assert {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()} == expected
    assert not any(".ref." in key for key in weights(output))


def test_the_log_of_the_steps_is_kept_and_drawn(runs):
    output, trained, _ = runs["base"]
    steps = [json.loads(line, parse_constant=pytest.fail) for line in (output / "steps.jsonl").read_text().splitlines()]
    assert [(step["stage"], step["step"]) for step in steps] == [(s, n) for s in schema.STAGES for n in (1, 2, 3)]
    for stage in trained.stages:
        own = [step for step in steps if step["stage"] == stage.stage]
        assert (own[0]["loss"], own[-1]["loss"]) == (stage.first_loss, stage.last_loss)
        assert math.fsum(step["seconds"] for step in own) == pytest.approx(stage.seconds)
        assert own[-1]["rewards/margins"] == stage.reward_margin
    figure = (output / "figures" / "training.svg").read_text()
    assert "9 optimiser steps in 3 stages" in figure
    assert all(stage in figure for stage in schema.STAGES)


@pytest.mark.filterwarnings(DEPRECATED)
def test_the_adapter_loads_with_plain_peft(runs, policy):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(policy.model).eval()
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        before = base(ids).logits
        model = PeftModel.from_pretrained(base, runs["base"][0])
        assert (model(ids).logits - before).abs().max() > 1e-3
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, before)


def test_the_adapter_names_the_hub_id_and_revision_of_its_base(data, policy, tmp_path, monkeypatch):
    sha = "0123456789abcdef0123456789abcdef01234567"
    spec = ModelSpec(model="org/tiny", revision=sha)
    load = backends_hf.load_causal_lm
    tokenizer = backends_hf.load_chat_tokenizer(policy)
    monkeypatch.setattr(backends_hf, "load_causal_lm", lambda _, *more: load(policy, *more))
    monkeypatch.setattr(backends_hf, "load_chat_tokenizer", lambda _: tokenizer)
    settings = dataclasses.replace(SETTINGS, stages=schema.STAGES[:2], reference="previous")
    trained = train(data, tmp_path, policy=spec, training=settings)
    for folder in (tmp_path, stage_folder(tmp_path, "moderate")):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", sha)
        assert config["target_modules"] == sorted(config["target_modules"])
        assert policy.model not in (folder / "adapter_config.json").read_text()
    assert (trained.base_model, trained.base_revision) == ("org/tiny", sha)


def test_nothing_is_printed_or_fetched(data, policy, tmp_path, capfd, monkeypatch):
    import datasets
    from transformers.utils import logging

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setenv("CI", "1")  # TRL's telemetry
    monkeypatch.setattr(socket.socket, "connect", refuse)
    bars = (datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled())
    train(data, tmp_path, policy=policy, training=dataclasses.replace(SETTINGS, stages=schema.STAGES[:2]))
    assert capfd.readouterr() == ("", "")
    assert (datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()) == bars


def test_a_manifest_beside_the_data_is_digested(policy, tmp_path):
    import hashlib

    data = publish(tmp_path / "pairs", rows("conservative", num=4))
    (tmp_path / "pairs" / "manifest.json").write_text("{}")
    settings = dataclasses.replace(SETTINGS, stages=("conservative",))
    trained = train(data, tmp_path / "out", policy=policy, training=settings)
    assert trained.data_digest == hashlib.sha256(b"{}").hexdigest()


def test_a_merged_model_of_an_earlier_run_goes(policy, tmp_path):
    given = {"policy": policy, "training": dataclasses.replace(SETTINGS, stages=("conservative",))}
    data = publish(tmp_path / "pairs", rows("conservative", num=4))
    assert train(data, tmp_path / "out", merge=True, **given).merged
    assert (tmp_path / "out" / "merged" / "model.safetensors").is_file()
    assert not train(data, tmp_path / "out", **given).merged
    assert not (tmp_path / "out" / "merged").exists()


def upload(folder):
    """Return the commit of a release, and the one after it, which has no manifest."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo("acme/pairs", repo_type="dataset", private=True)
    commit = api.upload_folder(repo_id="acme/pairs", repo_type="dataset", folder_path=folder).oid
    api.create_tag("acme/pairs", tag="v1.0.0", repo_type="dataset")
    return commit, api.delete_file("manifest.json", repo_id="acme/pairs", repo_type="dataset").oid


def train_from_hub(policy, output):
    """Train on the tag, and on the head, which moves while it is trained on."""
    from dataclasses import asdict
    from pathlib import Path

    from huggingface_hub import HfApi

    from udasa.backends import ModelSpec
    from udasa.recipe import Training
    from udasa.train import train

    def move(stage, folder):
        HfApi().delete_file("README.md", repo_id="acme/pairs", repo_type="dataset")
        return "go on"

    settings = Training(learning_rate=2e-3, batch_size=4, max_length=96, stages=("conservative",))
    given = {"policy": ModelSpec(model=policy), "training": settings}
    return [
        asdict(train("acme/pairs", Path(output) / "tag", revision="v1.0.0", **given)),
        asdict(train("acme/pairs", Path(output) / "head", after_stage=move, **given)),
    ]


def test_a_release_on_the_hub(hub, runs, policy, tmp_path):
    """A tag or head is resolved to the commit that is read; the adapter is the one that the pairs in a folder give."""
    folder = publish(tmp_path / "pairs", rows("conservative"))
    (tmp_path / "pairs" / "manifest.json").write_text("{}")
    commit, later = run_client(hub, upload, folder, home=tmp_path / "owner", token=hub.token())
    out = tmp_path / "out"
    home, token = tmp_path / "reader", hub.token()
    tagged, latest = run_client(hub, train_from_hub, policy.model, str(out), home=home, token=token, timeout=300)
    assert (tagged["data"], tagged["data_revision"]) == ("acme/pairs", commit)
    assert len(tagged["data_digest"]) == 64
    assert (latest["data_revision"], latest["data_digest"]) == (later, None)
    first = weights(stage_folder(runs["base"][0], "conservative"))
    assert spread(weights(out / "tag"), first) == spread(weights(out / "head"), first) == 0


# --- resuming


def test_complete_stages_are_not_trained_again(runs, data, policy, tmp_path):
    """Stopped in the second stage, a second run trains two of the three, to the very bytes of an unbroken run."""

    class Stopped(Exception):
        pass

    @contextmanager
    def stop(name, total):
        seen = []

        def report(n):
            seen.append(n)
            if name == "train moderate" and len(seen) == 2:
                raise Stopped

        yield report

    with pytest.raises(Stopped):
        train(data, tmp_path, policy=policy, training=SETTINGS, progress=stop)
    assert not (tmp_path / "training.json").exists()
    calls = []
    resumed = train(data, tmp_path, policy=policy, training=SETTINGS, progress=recorder(calls))
    assert steps_of(calls) == [(f"train {stage}", step, 3) for stage in schema.STAGES[1:] for step in (1, 2, 3)]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / name).read_bytes() == (runs["base"][0] / name).read_bytes()

    def untimed(trained):
        return [dataclasses.replace(stage, seconds=0) for stage in trained.stages]

    assert untimed(resumed) == untimed(runs["base"][1])
    calls.clear()
    again = train(data, tmp_path, policy=policy, training=SETTINGS, progress=recorder(calls))
    assert (again, calls) == (resumed, [])


@pytest.mark.parametrize(
    ("change", "said"),
    [({"beta": 0.2}, "settings.beta: 0.1 -> 0.2"), ({"stages": ("exploratory",)}, "settings.stages")],
)
def test_another_run_in_the_same_folder_is_refused(runs, data, policy, change, said):
    with pytest.raises(UserError, match=said):
        train(data, runs["base"][0], policy=policy, training=dataclasses.replace(SETTINGS, **change))


def test_other_pairs_in_the_same_folder_are_refused(runs, policy, tmp_path):
    changed = rows(*schema.STAGES)
    changed["exploratory"][3] = pair("exploratory", 3, chosen="Paris.")
    with pytest.raises(UserError, match=r"pairs\.exploratory: .* -> ") as caught:
        train(publish(tmp_path / "p", changed), runs["base"][0], policy=policy, training=SETTINGS)
    assert "pairs.moderate" not in str(caught.value)
    assert (runs["base"][0] / "training.json").exists()


# --- what is refused


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(data, policy, tmp_path, monkeypatch):
    from trl.trainer.dpo_trainer import DPOTrainer

    whole = DPOTrainer.compute_loss
    steps = iter(range(100))
    monkeypatch.setattr(
        DPOTrainer, "compute_loss", lambda *a, **k: whole(*a, **k) * (math.nan if next(steps) == 4 else 1)
    )
    with pytest.raises(
        UserError, match=r"loss is nan at step 2 of stage 'moderate'.* checkpoint is the adapter in"
    ) as e:
        train(data, tmp_path, policy=policy, training=SETTINGS)
    assert str(stage_folder(tmp_path, "conservative")) in str(e.value)
    assert [p.parent.name for p in tmp_path.rglob("stage.json")] == ["1-conservative"]


def test_empty_stages_are_skipped_and_said_so(policy, tmp_path):
    data = publish(tmp_path / "pairs", rows("conservative", "exploratory", num=4) | {"moderate": []})
    trained = train(data, tmp_path / "out", policy=policy, training=SETTINGS)
    assert trained.skipped == ("moderate",)
    assert [s.stage for s in trained.stages] == ["conservative", "exploratory"]
    assert json.loads((tmp_path / "out" / "training.json").read_text())["skipped"] == ["moderate"]


def test_no_pairs_at_all_is_an_error(policy, tmp_path):
    data = publish(tmp_path / "pairs", rows("conservative"))
    with pytest.raises(UserError, match="no training pairs in moderate"):
        train(data, tmp_path / "o", policy=policy, training=dataclasses.replace(SETTINGS, stages=("moderate",)))


def test_a_folder_without_stages_is_an_error(policy, tmp_path):
    (tmp_path / "pairs").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        train(str(tmp_path / "pairs"), tmp_path / "o", policy=policy, training=SETTINGS)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "pairs" / "a.parquet")
    with pytest.raises(UserError, match="not a udasa data set: its configs are default"):
        train(str(tmp_path / "pairs"), tmp_path / "o", policy=policy, training=SETTINGS)
    assert not (tmp_path / "o").exists()


def test_a_folder_that_was_written_again_is_read_again(policy, tmp_path):
    """`datasets` caches a folder by its name and card: 5.2 gives the first rows for ever."""
    settings = dataclasses.replace(SETTINGS, stages=("conservative",))
    pairs = {}
    for num in (4, 8):
        data = publish(tmp_path / str(num) / "pairs", rows("conservative", num=num))
        pairs[num] = train(data, tmp_path / f"out-{num}", policy=policy, training=settings).stages[0].pairs
    assert pairs == {4: 4, 8: 8}


def test_a_missing_column_is_an_error(policy, tmp_path):
    data = publish(tmp_path / "pairs", rows("conservative"), leave_out=["rejected"])
    with pytest.raises(UserError, match="lacks rejected; it has prompt_id, prompt, chosen"):
        train(data, tmp_path / "o", policy=policy, training=dataclasses.replace(SETTINGS, stages=("conservative",)))


def test_rows_that_trl_leaves_out_are_an_error(data, policy, tmp_path, monkeypatch):
    from trl.trainer.dpo_trainer import DPOTrainer

    whole = DPOTrainer._prepare_dataset
    monkeypatch.setattr(DPOTrainer, "_prepare_dataset", lambda *a, **k: whole(*a, **k).select(range(5)))
    with pytest.raises(UserError, match="TRL kept 5 of the 12 pairs"):
        train(data, tmp_path, policy=policy, training=SETTINGS)


def test_a_tokenizer_without_a_chat_template_is_an_error(data, policy, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(policy.model).save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(policy.model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="no chat template"):
        train(data, tmp_path / "o", policy=ModelSpec(model=str(tmp_path / "model")), training=SETTINGS)


def test_import_is_light():
    heavy = ("torch", "transformers", "trl", "peft", "datasets")
    code = f"import sys, udasa.train; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
