"""What a card says, against what is so: its numbers, its code as printed, and the files beside it."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from udasa import cards, publish, resources, schema
from udasa.cards import columns

from .builds import built
from .test_cards import made_facts, made_manifest, rows_of
from .test_figures import COMPARISON, Delta

FINDING = {
    "name": "length-bias", "count": 29, "total": 47, "value": 0.6251, "unit": "share of pairs", "low": 0.4813,
    "high": 0.7517, "threshold": 0.6023, "failed": True, "examples": ["p007"], "detail": "The longer answer is chosen.",
}  # fmt: skip
CHANGES = {
    "since": "0.0.9", "level": "minor", "pairs": {"before": 41, "after": 48, "differ": 13},
    "counts": [{"change": "moved", "reason": "threshold changed", "pairs": 17}],
    "settings": ["pairing.risk_ceiling: 0.5 -> 0.4"],
}  # fmt: skip


def full_manifest() -> dict[str, Any]:
    return copy.deepcopy(made_manifest(findings=[FINDING], changes=CHANGES))


def render(manifest: dict[str, Any]) -> str:
    return cards.render_dataset_card(manifest, "org/udasa-demo", [("figures/gap.svg", "The gap.")])


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    """Every number of a JSON value, by its path."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield path, value
    for key, inner in inside(value):
        yield from numbers(inner, (*path, key))


def inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a dict or a list."""
    yield from value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()


def shown(path: tuple[Any, ...]) -> bool:
    """Whether a number is one for the card: not the recipe's, and not one that `counts` says as well."""
    again = path[0] == "files" and path[1].startswith("data/") and path[2] == "rows"
    return path[0] not in ("recipe", "format") and not again and path != ("changes", "pairs", "after")


def test_every_number_of_the_manifest_reaches_the_card() -> None:
    whole, unmoved = render(full_manifest()), []
    paths = [path for path, _ in numbers(full_manifest()) if shown(path)]
    assert len(paths) > 100
    for path in paths:
        manifest = full_manifest()
        place = manifest
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] += 1 if isinstance(place[path[-1]], int) else 0.0107
        if render(manifest) == whole:
            unmoved.append(path)
    assert unmoved == []


def test_every_number_of_the_card_is_the_manifests_or_the_templates() -> None:
    manifest = full_manifest()
    manifest["counts"] |= {"prompts": 70_001, "responses": 560_003}
    for index, name in enumerate(manifest["ledger"]):
        manifest["ledger"][name] = 10_007 + index
    card = render(manifest).split("\n---\n", 1)[1]
    said = {text for _, value in numbers(manifest) for text in (f"{value:,}", f"{value:.4f}", repr(value))}
    stages = manifest["counts"]["stages"]
    said |= {f"{sum(stages[stage].values()):,}" for stage in schema.STAGES}
    said.add(f"{sum(manifest['ledger'].values()):,}")
    fixed = (resources.shelf("cards") / "dataset_card.md.j2").read_text(encoding="utf-8")
    fixed += json.dumps([columns.MEANINGS, schema.OUTCOMES], ensure_ascii=False) + " ".join(digests(manifest))
    found = set(re.findall(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)", re.sub(r"&#\d+;", " ", card)))
    known = set(re.findall(r"\d+(?:\.\d+)?", fixed + str(schema.PAIRS) + str(schema.SCORED)))
    assert len(found & said) > 60
    assert {n for n in found if n not in said and n.strip("-") not in known} == set()


def digests(value: Any) -> Iterator[str]:
    """Every text of a JSON value: names, versions, revisions, sentences."""
    if isinstance(value, str):
        yield value
    for _, inner in inside(value):
        yield from digests(inner)


def test_findings_and_changes_are_there_only_if_the_manifest_has_them() -> None:
    card, plain = render(full_manifest()), render(made_manifest())
    cards.validate(card, "dataset")
    assert rows_of(card, "## Findings") == [
        ["length-bias` **failed**", "29", "47", "0.6251", "0.4813 to 0.7517", "share of pairs", "0.6023",
         "The longer answer is chosen."]
    ]  # fmt: skip
    assert rows_of(card, "## Changes") == [["moved", "threshold changed", "17"]]
    assert "risk&#95;ceiling: 0.5 -&#62; 0.4" in card or "pairing.risk_ceiling: 0.5 -" in card
    assert "## Findings" not in plain
    assert "## Changes" not in plain
    assert "nothing was audited" in render(made_manifest(findings=[]))


@pytest.mark.parametrize("table", [schema.PAIRS, schema.SCORED], ids=["pairs", "scored"])
def test_every_column_and_field_is_described(table: Any) -> None:
    described = list(columns.described(table))
    assert [c.name for c in described if "." not in c.name] == table.names
    assert all(c.meaning for c in described)
    if table is schema.SCORED:
        struct = table.field("responses").type.value_type
        assert {f"responses.{field.name}" for field in struct} <= {c.name for c in described}
        assert rows_of(render(full_manifest()), "### Columns of a prompt with its answers")[0][0] == "prompt_id"


def test_what_the_entailer_sees_is_said() -> None:
    recipe = made_manifest()["recipe"]
    assert "sees each text alone" in render(made_manifest())
    assert "sees the prompt before" in render(made_manifest(recipe=recipe | {"entailment": {"context": True}}))


# ---- Code that runs as printed


def printed_code(card: str) -> str:
    return card.split("```python\n", 1)[1].split("```", 1)[0]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A release under its Hub id in a folder, where `load_dataset` looks first."""
    home = tmp_path_factory.mktemp("hub")
    folder = home / "org" / "udasa-fake"
    publish.publish(built(home / "build"), str(folder), version="1.2.0")
    return home, json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_the_data_sets_code_runs_as_printed(
    release: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home, manifest = release
    monkeypatch.chdir(home)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    names: dict[str, Any] = {}
    exec(printed_code(cards.render_dataset_card(manifest, "org/udasa-fake")), names)
    assert {split: names["pairs"][split].num_rows for split in names["pairs"]} == cards.rows(manifest, "all")
    assert sum(1 for _ in names["stream"]) == cards.rows(manifest, "all")["train"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_models_code_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from . import tiny

    shutil.copytree(tiny.policy(), tmp_path / "org" / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "org" / "base")
    peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2)).save_pretrained(
        tmp_path / "org" / "x"
    )
    assert (tmp_path / "org" / "x" / "adapter_model.safetensors").is_file()
    card = cards.render_model_card(made_facts(base_model="org/base"), "org/x")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(printed_code(card).replace("max_new_tokens=128", "max_new_tokens=4"), names)
    assert isinstance(names["model"], peft.PeftModel)
    assert names["output"].shape[1] > names["inputs"]["input_ids"].shape[1]


# ---- The data set for machines


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib and pandas, which mlcroissant calls
def test_the_croissant_is_valid_and_its_records_are_the_rows(release: tuple[Path, dict[str, Any]]) -> None:
    import polars as pl

    mlc = pytest.importorskip("mlcroissant")
    home, manifest = release
    folder = home / "org" / "udasa-fake"
    data = mlc.Dataset(str(folder / "croissant.json"))
    assert list(data.metadata.issues.errors) == []
    assert {r.uuid for r in data.metadata.record_sets} == {c for c in cards.CONFIGS if cards.rows(manifest, c)}
    expected = pl.concat([pl.read_parquet(path) for path in folder.glob("data/*/*.parquet")]).sort("prompt_id")
    records = sorted(data.records("all"), key=lambda record: record["all/prompt_id"])
    assert [r["all/prompt_id"].decode() for r in records] == expected["prompt_id"].to_list()
    assert [r["all/gap"] for r in records] == expected["gap"].to_list()
    first = [(m["all/prompt/role"].decode(), m["all/prompt/content"].decode()) for m in records[0]["all/prompt"]]
    assert first == [(m["role"], m["content"]) for m in expected["prompt"][0]]
    answers = pl.read_parquet(folder / "responses" / "train-00000-of-00001.parquet").row(0, named=True)
    record = next(r for r in data.records("responses") if r["responses/prompt_id"].decode() == answers["prompt_id"])
    for mine, theirs in zip(record["responses/responses"], answers["responses"], strict=True):
        assert mine["responses/responses/text"].decode() == theirs["text"]
        assert np.isclose(mine["responses/responses/semantic_uncertainty"], theirs["semantic_uncertainty"])


def test_the_croissant_names_every_file_with_its_sha256(release: tuple[Path, dict[str, Any]]) -> None:
    home, manifest = release
    folder = home / "org" / "udasa-fake"
    written = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    files = {f["@id"]: f for f in written["distribution"] if f["@type"] == "cr:FileObject" and f["@id"] != "repo"}
    assert files.keys() == manifest["files"].keys()
    for path, file in files.items():
        assert file["sha256"] == hashlib.sha256((folder / path).read_bytes()).hexdigest()
    for config in written["recordSet"]:
        table = schema.SCORED if config["@id"] == "responses" else schema.PAIRS
        assert [f["@id"].partition("/")[2] for f in config["field"]] == table.names


def test_on_the_hub_the_croissant_points_at_the_releases_tag() -> None:
    written = json.loads(cards.croissant(made_manifest(), "org/udasa-demo"))
    home = "https://huggingface.co/datasets/org/udasa-demo"
    assert written["url"] == home
    addresses = [f["contentUrl"] for f in written["distribution"] if "contentUrl" in f]
    assert addresses[0] == home
    assert all(address.startswith(f"{home}/resolve/v0.1.0/") for address in addresses[1:])


def test_a_stage_without_pairs_is_in_no_record_set() -> None:
    manifest = made_manifest()
    manifest["counts"]["stages"]["moderate"] = {"train": 0, "test": 0}
    written = json.loads(cards.croissant(manifest, None))
    assert [r["@id"] for r in written["recordSet"]] == ["conservative", "exploratory", "all", "responses"]


# ---- Results


GPQA = Delta("gpqa_diamond_cot_zeroshot", "exact_match,flexible-extract", 198, 0.301, 0.3283, 0.0273, -0.0152, 0.0697)


def test_only_a_whole_benchmark_is_a_benchmarks_result() -> None:
    part = copy.replace(GPQA, n=100) if hasattr(copy, "replace") else Delta(**{**vars(GPQA), "n": 100})
    assert cards.eval_results([*COMPARISON, part]) == {}
    files = cards.eval_results([*COMPARISON, GPQA])
    assert list(files) == [".eval_results/gpqa-diamond.yaml"]
    entry, *others = parse_eval_result_entries(yaml.safe_load(files[".eval_results/gpqa-diamond.yaml"]))
    assert others == []
    assert [entry.dataset_id, entry.task_id, entry.value] == ["Idavidrein/gpqa", "diamond", 32.83]
    assert "n = 198" in entry.notes
    assert "+2.7 points, 95 % interval -1.5 to +7.0" in entry.notes


def test_the_model_index_holds_n_and_the_interval_of_the_difference() -> None:
    from huggingface_hub import ModelCard

    measured = ModelCard(cards.render_model_card(made_facts(), "org/x", COMPARISON)).data.eval_results
    assert measured is not None
    for found, expected in zip(measured, COMPARISON, strict=True):
        assert found.metric_args == {
            "n": expected.n, "difference": expected.delta, "difference_low": expected.low,
            "difference_high": expected.high,
        }  # fmt: skip


def test_a_model_card_says_what_was_found_about_the_pairs_and_how_the_run_ended() -> None:
    found = {"name": "evaluation-near-duplicates", "count": 1, "detail": "1 of 7 prompts are *alike*.", "failed": True}
    none = {"name": "identical-after-template", "count": 0, "detail": "0 of 7 pairs.", "failed": False}
    findings = [found | {"threshold": 0.0}, none | {"threshold": None}]
    card = cards.render_model_card(made_facts(findings=findings, verdict="stop", merged=True), "org/x")
    cards.validate(card, "model")
    assert "`evaluation-near-duplicates`: 1 of 7 prompts are &#42;alike&#42;. **Beyond the limit of 0.**" in card
    assert "identical-after-template" not in card
    assert "(figures/training.svg)" in card and "ended after a stage (`stop`)" in card
    assert 'AutoTokenizer.from_pretrained("org/x", subfolder="merged")' in card


def test_a_card_of_all_weights_needs_no_peft() -> None:
    facts = made_facts(base_model="org/base")
    facts["settings"]["tuning"] = "full"
    card = cards.render_model_card(facts, "org/x")
    cards.validate(card, "model")
    assert "PeftModel" not in card and "All weights of" in card
    assert "lora_" not in card and "adapter" not in card
    assert "library_name: transformers" in card
    assert "base_model_relation: finetune" in card


def test_a_card_of_an_adapter_on_four_bits_says_so() -> None:
    facts = made_facts()
    facts["settings"]["tuning"] = "qlora"
    card = cards.render_model_card(facts, "org/x")
    assert "A LoRA adapter for `HuggingFaceTB/SmolLM2-135M-Instruct` in 4 bits (QLoRA), trained by" in card
    assert "trained on the base model in 4 bits (NF4); this puts it on the base model as it was published" in card
