import json

import pytest
from datasets import load_dataset
from peft import PeftModel

from tests import tiny
from tests.builds import recipe
from tests.progress import recorder
from udasa import cards
from udasa.backends import ModelSpec, Sampling
from udasa.backends_hf import load_causal_lm
from udasa.demo import demo
from udasa.errors import UserError
from udasa.recipe import Entailment, Pairing, Training

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def settings(**changes):
    """Return the demo's recipe with tiny real models in the place of its models."""
    return recipe(
        policy=ModelSpec(model=str(tiny.policy())),
        sampling=Sampling(k=3, max_new_tokens=6),
        entailment=Entailment(kind="similarity", model=ModelSpec(model=str(tiny.nli()))),
        pairing=Pairing(truncated="keep", risk_ceiling=1.0),
        training=Training(learning_rate=1e-3, batch_size=4, device_batch_size=4, max_length=128),
        **changes,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    calls = []
    return demo(settings(), tmp_path_factory.mktemp("demo") / "run", recorder(calls)), calls


def test_the_whole_job_runs_from_prompts_to_report(done, tmp_path):
    found, calls = done
    counts = found.manifest["counts"]
    assert counts["prompts"] == 40 and counts["responses"] == 3 * 40 and counts["pairs"] > 10
    data = load_dataset(str(found.dataset), "exploratory", cache_dir=str(tmp_path))
    assert data["train"].num_rows == counts["stages"]["exploratory"]["train"]
    assert {d.task.removeprefix("udasa_smoke_") for d in found.comparison} == {
        "harmlessness", "helpfulness", "truthfulness", "sentiment"
    }  # fmt: skip
    assert any(d.delta != 0 for d in found.comparison)
    page = found.report.read_text()
    assert "Embedding similarity, not entailment" in page and "<script" not in page
    assert next(cost.part for cost in found.costs) == "build" and all(cost.seconds >= 0 for cost in found.costs)
    names = list(dict.fromkeys(name for name, _, _ in calls))
    assert names[:3] == ["responses", "scored", "evaluate"] and "train conservative" in names
    last = {name: (n, total) for name, n, total in calls}
    assert all(n == total for n, total in last.values()), last


def test_the_adapter_has_a_valid_card_and_loads(done):
    found, _ = done
    text = (found.adapter / "README.md").read_text()
    cards.validate(text, "model")
    training = json.loads((found.adapter / "training.json").read_text())
    assert training["stages"][0]["first_loss"] == pytest.approx(0.693147, abs=1e-3)
    model = PeftModel.from_pretrained(load_causal_lm(settings().policy)[0], str(found.adapter))
    assert any("lora" in name for name, _ in model.named_parameters())


def test_running_again_does_nothing_again(done):
    found, _ = done
    folder = found.report.parent
    made = [p for p in folder.rglob("*") if p.suffix in (".parquet", ".safetensors", ".jsonl")]
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in made if p.parent != found.adapter}
    calls = []
    again = demo(settings(), folder, recorder(calls))
    assert calls == []
    assert again.comparison == found.comparison
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before} == before


def test_another_recipe_in_the_same_folder_is_refused(done):
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        demo(settings(seed=1), done[0].report.parent)
