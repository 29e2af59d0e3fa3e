"""A tiny random model through the smoke tier: from its weights to the files, and what is refused before."""

import json
import math
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.progress import recorder
from tests.test_evaluate import TASKS
from udasa.backends import ModelSpec
from udasa.errors import UserError
from udasa.evaluate import compare, evaluate, load

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21


def spec(folder):
    return ModelSpec(model=str(folder))


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "before"
    evaluate(spec(tiny.policy()), folder, limit=4)
    return folder


def test_tiny_model_runs_end_to_end(tmp_path, capfd):
    model, seen = spec(tiny.policy()), []
    capfd.readouterr()
    evaluation = evaluate(model, tmp_path, limit=2, progress=recorder(seen))
    assert capfd.readouterr() == ("", "")
    assert seen[-1] == ("evaluate", 16, 16) and seen == sorted(seen)
    assert load(tmp_path) == evaluation
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json", "lm_eval.log", *(f"samples_{task}.jsonl" for task in TASKS)
    }  # fmt: skip
    assert evaluation.setup.dtype == "float32" and evaluation.setup.limit == 2 and evaluation.setup.adapter is None
    assert {name: task.version for name, task in evaluation.tasks.items()} == dict.fromkeys(TASKS, "1.0")
    assert evaluation.tasks["udasa_smoke_harmlessness"].metrics["refusal"].n == 1
    assert "Custom kwargs" in (tmp_path / "lm_eval.log").read_text(encoding="utf-8")


def test_samples_have_the_form_of_lm_eval(tiny_run):
    line = (tiny_run / "samples_udasa_smoke_truthfulness.jsonl").read_text(encoding="utf-8").partition("\n")[0]
    sample = json.loads(line)
    assert {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"} <= set(sample)
    assert {"doc_hash", "prompt_hash", "target_hash", "acc", "acc_bytes", "margin"} <= set(sample)
    first_request = sample["arguments"]["gen_args_0"]
    assert first_request["arg_0"].startswith("<|im_start|>user\n") and first_request["arg_0"].endswith("assistant\n")
    assert first_request["arg_1"] == sample["doc"]["choices"][0]


def test_a_second_run_of_the_same_model_differs_by_nothing(tiny_run, tmp_path):
    evaluate(spec(tiny.policy()), tmp_path, limit=4)
    assert all(d.delta == 0.0 for d in compare(tiny_run, tmp_path).differences)
    assert (tmp_path / "results.json").read_bytes() == (tiny_run / "results.json").read_bytes()


def test_an_adapter_is_applied_and_recorded(tiny_run, tmp_path):
    evaluation = evaluate(spec(tiny.policy()), tmp_path, adapter=tiny.adapter(), limit=4)
    assert len(evaluation.setup.adapter) == 64 and "peft" in evaluation.versions
    differences = compare(tiny_run, tmp_path).differences
    assert all(d.delta != 0 for d in differences if d.metric == "margin")


def test_an_earlier_evaluation_is_replaced(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    evaluate(spec(tiny.policy()), tmp_path, tasks=["udasa_smoke_sentiment"], limit=2)
    assert [path.name for path in tmp_path.glob("samples_*")] == ["samples_udasa_smoke_sentiment.jsonl"]
    assert list(load(tmp_path).tasks) == ["udasa_smoke_sentiment"]


def test_a_diverged_model_is_refused_and_leaves_no_results(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    broken, output = tmp_path / "broken", tmp_path / "output"
    shutil.copytree(tiny.policy(), broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    model.save_pretrained(broken)
    with pytest.raises(UserError, match="4 of 4 log-likelihoods are NaN or infinite: the model has diverged"):
        evaluate(spec(broken), output, tasks=["udasa_smoke_sentiment"], limit=2)
    assert not (output / "results.json").exists()


def test_an_unknown_task_is_refused_with_the_names_of_ours(tmp_path, monkeypatch):
    import lm_eval.tasks

    real = lm_eval.tasks.TaskManager
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda include_path=None, **_: real(None, include_path, False))
    with pytest.raises(UserError, match=r"no task udasa_kindness\. Give one or more of: udasa, udasa_bias, "):
        evaluate(spec(tiny.policy()), tmp_path, tasks=["udasa_kindness"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"limit": 0}, "limit must be at least 1 document, got 0"),
        ({"tasks": []}, "No task was given"),
        ({"adapter": Path("nowhere")}, r"nowhere is not a PEFT adapter folder: it holds no adapter_config\.json"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, change, named):
    with pytest.raises(UserError, match=named):
        evaluate(spec(tiny.policy()), tmp_path, **change)


def test_a_fake_is_refused(tmp_path):
    with pytest.raises(UserError, match="A fake has no weights"):
        evaluate(ModelSpec(model="x", backend="fake"), tmp_path)


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(tiny.policy(), plain)
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        evaluate(spec(plain), tmp_path / "output", limit=1)
