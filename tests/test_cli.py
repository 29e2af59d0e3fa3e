import json
import os
import re
import resource
import signal
import subprocess
import sys

import pytest

from tests import tiny
from tests.builds import FAKE, built, recipe
from udasa import recipe as recipes

PROGRAM = "from udasa.cli import main; main()"


def write_recipe(path, **changes):
    path.write_text(recipes.to_json(recipe(**changes)))
    return path


def source(path, **settings):
    return (recipes.Source(name="mine", task="helpfulness", path=str(path), **settings),)


def test_build_publish_and_card(udasa, tmp_path):
    path = write_recipe(tmp_path / "r.json")
    code, shown, _ = udasa("build", path, "-o", tmp_path / "b", "--limit", "3")
    assert code == 0 and "Ledger (12 prompts)" in shown and "paired" in shown
    code, shown, _ = udasa("publish", tmp_path / "b", tmp_path / "d", "--version", "0.1.0")
    assert code == 0
    assert f'load_dataset("{tmp_path / "d"}", "exploratory")' in shown
    snippet = "\n".join(line.strip() for line in shown.splitlines() if line.startswith("    "))
    loaded = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert "prompt_id" in loaded.stdout
    (tmp_path / "d" / "README.md").unlink()
    code, shown, _ = udasa("card", tmp_path / "d")
    assert code == 0 and "is a valid dataset card" in shown
    assert udasa("verify", tmp_path / "d")[0] == 0
    code, shown, _ = udasa("card", tmp_path / "d", "--repo", "org/other")
    assert code == 0 and "org/other" in (tmp_path / "d" / "README.md").read_text()
    assert udasa("verify", tmp_path / "d")[0] == 0
    (tmp_path / "d" / "README.md").write_text("no front matter")
    code, _, error = udasa("card", tmp_path / "d", "--check")
    assert code == 2 and error.startswith("error: ")


def test_where_prints_a_shelf(udasa):
    code, shown, _ = udasa("where", "eval")
    assert code == 0 and os.path.isfile(os.path.join(shown.strip(), "tasks", "udasa.yaml"))


def test_help_imports_nothing_heavy():
    code = (
        "import sys, udasa.cli; heavy = {'torch', 'transformers', 'datasets', 'polars', 'lm_eval', 'altair', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


BAD_SOURCES = [
    (None, "there is no file at"),
    ("", "is empty"),
    ('{"prompt": "Hi"}\n{"prompt": " "}\n', "Row 1 of source 'mine' has no prompt"),
    ('{"question": "Hi"}\n', "has no column 'prompt'; its columns are ['question']"),
    ("not json\n", "Row 0 of source 'mine' is not JSON"),
]


@pytest.mark.parametrize(("content", "message"), BAD_SOURCES)
def test_a_bad_source_is_the_users_mistake(udasa, tmp_path, content, message):
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_text(content)
    code, _, error = udasa("build", write_recipe(tmp_path / "r.json", sources=source(path)), "-o", tmp_path / "b")
    assert (code, error.startswith("error: "), message in error) == (2, True, True), error
    path.write_text('{"prompt": "Hi"}\n{"prompt": "What is a cat?"}\n')
    assert udasa("build", tmp_path / "r.json", "-o", tmp_path / "b")[0] == 0


def test_k_below_two_is_refused(udasa, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(recipes.to_json(recipe()).replace('"k": 4', '"k": 1'))
    code, _, error = udasa("build", path, "-o", tmp_path / "b")
    assert code == 2 and "k must be at least 2 to measure disagreement, got 1." in error
    assert not (tmp_path / "b").exists()


def test_an_unknown_recipe_names_those_that_exist(udasa, tmp_path):
    code, _, error = udasa("build", "nonsense", "-o", tmp_path / "b")
    assert code == 2 and "'nonsense' is neither a file nor a name" in error and "demo, udasa_pairs_v1" in error


def test_an_unknown_task_names_those_that_exist(udasa, tmp_path):
    path = write_recipe(tmp_path / "r.json", policy=recipes.ModelSpec(model=str(tiny.policy())))
    code, _, error = udasa("eval", path, "-o", tmp_path / "e", "--tasks", "udasa_nonsense")
    assert code == 2 and "There is no task udasa_nonsense" in error and "udasa_smoke_truthfulness" in error


def test_a_model_without_a_chat_template_is_refused_and_can_be_mended(udasa, tmp_path):
    policy = recipes.ModelSpec(model=str(tiny.policy(chat=False)))
    code, _, error = udasa("build", write_recipe(tmp_path / "r.json", policy=policy), "-o", tmp_path / "b")
    assert code == 2 and "has no chat template" in error


def test_another_recipe_in_the_same_folder_is_refused(udasa, tmp_path):
    built(tmp_path / "b")
    code, _, error = udasa("build", write_recipe(tmp_path / "r.json", seed=1), "-o", tmp_path / "b")
    assert code == 2 and "these fields differ: seed: 0 -> 1" in error


def test_a_place_that_cannot_be_written_is_the_machines_failure(udasa, tmp_path):
    (tmp_path / "file").write_text("")
    path = write_recipe(tmp_path / "r.json")
    code, _, error = udasa("build", path, "-o", tmp_path / "file" / "b")
    assert code == 1 and "Not a directory" in error


def test_a_read_only_folder_is_said_so(udasa, tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    path = write_recipe(tmp_path / "r.json")
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    code, _, error = udasa("build", path, "-o", tmp_path / "b")
    assert code == 1 and f"Permission denied ({tmp_path / 'b'}" in error


def test_a_full_disk_leaves_a_build_that_goes_on(tmp_path):
    """The kernel refuses to let any file grow beyond a limit; then the limit is lifted."""

    def limit(size):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    path = write_recipe(tmp_path / "r.json")
    command = [sys.executable, "-c", PROGRAM, "build", str(path), "-o", str(tmp_path / "b")]
    failed = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: limit(6000))
    assert failed.returncode == 1, failed.stderr
    assert re.search(r"File too large|disk I/O error", failed.stderr) and "run the same command again" in failed.stderr
    assert not list((tmp_path / "b").rglob(".unfinished-*"))
    assert subprocess.run(command, capture_output=True).returncode == 0
    built(tmp_path / "unbroken")
    for file in (tmp_path / "unbroken").rglob("*.parquet"):
        assert (tmp_path / "b" / file.relative_to(tmp_path / "unbroken")).read_bytes() == file.read_bytes()


def test_compare_prints_json_and_refuses_what_is_no_evaluation(udasa, tmp_path):
    code, _, error = udasa("compare", tmp_path, tmp_path)
    assert code == 2 and "no evaluation was finished there" in error
    from udasa.evaluate import evaluate

    evaluate(recipes.ModelSpec(model=str(tiny.policy())), tmp_path / "e", limit=2)
    code, shown, _ = udasa("compare", tmp_path / "e", tmp_path / "e", "--json")
    rows = json.loads(shown)["differences"]
    assert code == 0 and {row["delta"] for row in rows} == {0.0}
    assert {row["task"] for row in rows} >= {"udasa_smoke_harmlessness", "udasa_smoke_sentiment"}


def test_a_judge_is_trained_and_audited(udasa, tmp_path):
    from tests.test_trained_judge import planted

    data = planted(tmp_path / "data.csv", raters=True)
    code, shown, _ = udasa("judge", "train", data, "-o", tmp_path / "judge", "--encoder", tiny.nli())
    assert code == 0
    assert "AUC, mean score >= 0.5" in shown and "160 responses in 40 groups" in shown
    figures = json.loads((tmp_path / "judge" / "judge.json").read_text())["out_of_fold"]
    assert f"{figures['auc']['value']:.3f}" in shown
    path = write_recipe(tmp_path / "r.json")
    report = tmp_path / "audit.json"
    code, shown, _ = udasa("judge", "audit", data, "--judge", tmp_path / "judge", "--recipe", path, "-o", report)
    assert code == 0
    found = json.loads(report.read_text())
    assert set(found["judges"]) == {"trained, out of fold", "fake/fake"}
    trained = found["judges"]["trained, out of fold"]
    assert trained["harm_auc"] == figures["auc"]  # all responses have two raters: the same rows
    assert trained["position_bias"]["value"] == 0
    assert f"{trained['disagreement_spearman']['total']['value']:.3f}" in shown
    code, _, _ = udasa("judge", "audit", data, "--judge", tmp_path / "judge", "--limit", "40", "-o", report)
    assert code == 0 and json.loads(report.read_text())["baselines"]["length of the response"]["n"] == 40


def test_an_audit_without_a_judge_or_with_a_trained_recipe_is_refused(udasa, tmp_path):
    from tests.test_trained_judge import planted

    data = planted(tmp_path / "data.csv", raters=True)
    code, _, error = udasa("judge", "audit", data)
    assert code == 2 and "There is no judge to audit" in error
    path = write_recipe(tmp_path / "r.json", judging=recipes.Judging(kind="trained", model=FAKE))
    code, _, error = udasa("judge", "audit", data, "--recipe", path)
    assert code == 2 and "which may have seen these responses" in error
    code, _, error = udasa("judge", "audit", planted(tmp_path / "one.csv"), "--recipe", path)
    assert code == 2 and "0 responses have several raters" in error
    code, _, error = udasa("judge", "audit", data, "--judge", tmp_path)
    assert code == 2 and "is not a trained judge" in error
