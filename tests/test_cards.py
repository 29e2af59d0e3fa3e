import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from udasa import cards, figures, schema

from .test_figures import COMPARISON, made_pairs, made_responses, made_thresholds

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "a | b | c",
    "one\n\n# two",
    "`code` **bold** [link](javascript:alert(1)) ![image](http://example.org/x.png)",
    "{{ 7 * 7 }} {% include 'x' %} {# gone #}",
    "\u202egnp.exe\u202c \u2066x\u2069 \u200bzero",
    "$$x$$ \\(y\\) https://example.org www.example.org a@example.org",
    "</style></td></table>",
    "---\nlicense: mit\n---",
)


def made_manifest(**changes: Any) -> dict[str, Any]:
    pairs, responses = made_pairs(), made_responses()
    stages = {s: {p: pairs.filter(stage=s, split=p).height for p in schema.SPLITS} for s in schema.STAGES}
    scored = responses["responses"].explode().struct.unnest()
    columns = {name: scored[name] for name in schema.SCORES}
    columns |= {"semantic_entropy": responses["semantic_entropy"], "gap": pairs["gap"]}
    files = {f"data/{s}/{p}-00000-of-00001.parquet": n for s, c in stages.items() for p, n in c.items()}
    files |= {"responses/train-00000-of-00001.parquet": 43, "responses/test-00000-of-00001.parquet": 5}
    manifest = {
        "format": 1, "name": "udasa-demo", "version": "0.1.0", "license": "apache-2.0",
        "recipe": {"weights": {"semantic": 1.0, "factual": 1.0, "value": 1.0}, "pairing": {"risk_ceiling": 0.5}},
        "recipe_digest": "3f" * 32, "udasa": "0.1.0", "packages": {"torch": "2.13.0", "transformers": "5.3.0"},
        "models": {
            "policy": {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "1" * 40, "origin": "hub"},
            "entailer": {"model": "cross-encoder/nli-deberta-v3-base", "revision": "2" * 40, "origin": "hub",
                         "kind": "nli"},
            "judge": {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "1" * 40,
                      "origin": "package weights:x (dequantised)", "sha256": "ab" * 32, "same_as_policy": True},
        },
        "counts": {"prompts": 55, "responses": 288, "pairs": pairs.height, "stages": stages},
        "ledger": {"paired": 48, "tie": 2, "duplicate-prompt": 1, "empty-or-truncated": 4},
        "thresholds": made_thresholds(),
        "statistics": {name: statistics(values) for name, values in columns.items()},
        "tasks": grouped(pairs, "task"), "domains": grouped(pairs, "domain"),
        "sources": [{"name": "own-prompts", "license": "apache-2.0", "revision": None, "prompts": 55}],
        "files": {path: {"sha256": "cd" * 32, "bytes": 1000 + rows, "rows": rows} for path, rows in files.items()},
    }  # fmt: skip
    return copy.deepcopy(manifest) | changes


def statistics(values: Any) -> dict[str, Any]:
    present = values.drop_nulls().to_numpy()
    q05, q50, q95 = (float(q) for q in np.quantile(present, [0.05, 0.5, 0.95]))
    mean = float(present.mean())
    return {"n": len(present), "nulls": values.null_count(), "mean": mean, "q05": q05, "q50": q50, "q95": q95}


def grouped(pairs: Any, column: str) -> dict[str, dict[str, int]]:
    groups = sorted(pairs[column].unique())
    return {g: {s: pairs.filter(pairs[column] == g).filter(stage=s).height for s in schema.STAGES} for g in groups}


def made_facts(**changes: Any) -> dict[str, Any]:
    losses = ((0.6931, 0.612), (0.6702, 0.634), (0.688, 0.679))
    facts: dict[str, Any] = {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "base_revision": "1" * 40, "data": "org/udasa-demo",
        "data_revision": "v0.1.0", "data_digest": "ef" * 32,
        "settings": {"beta": 0.1, "learning_rate": 5e-06, "lora_targets": "all-linear", "fixed_reference": None},
        "stages": [
            {"stage": stage, "pairs": 14, "truncated": 1, "steps": 6, "seconds": 71.3, "first_loss": first,
             "last_loss": last, "reward_accuracy": 0.642, "reward_margin": 0.0831, "reference": "base"}
            for stage, (first, last) in zip(schema.STAGES, losses, strict=True)
        ],
        "versions": {"trl": "1.16.0", "peft": "0.21.0"},
    }  # fmt: skip
    return facts | changes


def rows_of(card: str, heading: str) -> list[list[str]]:
    """The body cells of the first table after a heading."""
    lines = iter(card.split(heading, 1)[1].splitlines())
    table: list[str] = []
    for line in lines:
        if line.startswith("|"):
            table.append(line)
        elif table:
            break
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table[2:]]


def html_of(text: str) -> str:
    html: str = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    return html


def dataset_card(**changes: Any) -> str:
    return cards.render_dataset_card(made_manifest(**changes), "org/udasa-demo", [("figures/gap.svg", "The gap.")])


def test_the_dataset_card_validates_and_has_its_sections() -> None:
    card = dataset_card()
    cards.validate(card, "dataset")
    headings = re.findall(r"^##? (.*)$", card, re.M)
    assert headings == [
        "udasa-demo", "Load it", "Contents", "How it was made", "Limits", "Licence", "Citation"
    ]  # fmt: skip
    assert html_of(card.split("---\n", 2)[2]).count("<table>") == 9
    assert 'load_dataset("org/udasa-demo", "all", revision="v0.1.0")' in card
    assert "![The gap.](figures/gap.svg)" in card


def test_the_numbers_on_the_card_are_the_manifests() -> None:
    manifest, card = made_manifest(), dataset_card()
    stages = manifest["counts"]["stages"]
    assert rows_of(card, "## Contents") == [
        [s, str(stages[s]["train"]), str(stages[s]["test"]), str(sum(stages[s].values()))] for s in schema.STAGES
    ]
    ledger = rows_of(card, "What became of every prompt")
    assert {outcome: int(count) for outcome, count, _ in ledger} == manifest["ledger"]
    assert all(meaning.split(" ")[0] in schema.OUTCOMES[outcome] for outcome, _, meaning in ledger)
    for name, _, n, nulls, mean, q05, q50, q95 in rows_of(card, "### Measured"):
        expected = manifest["statistics"][name]
        assert [int(n), int(nulls)] == [expected["n"], expected["nulls"]]
        assert [mean, q05, q50, q95] == [f"{expected[key]:.4f}" for key in ("mean", "q05", "q50", "q95")]
    assert repr(manifest["thresholds"]["moderate"]) in card
    assert manifest["recipe_digest"] in card


def test_a_folder_on_no_hub_has_a_card_without_a_repository() -> None:
    card = cards.render_dataset_card(made_manifest(), None)
    cards.validate(card, "dataset")
    assert 'load_dataset("path/to/this/folder", "exploratory")' in card
    assert "revision=" not in card


@pytest.mark.parametrize("config", cards.CONFIGS)
def test_rows_of_a_configuration(config: str) -> None:
    stages = made_manifest()["counts"]["stages"]
    expected = {"responses": {"train": 43, "test": 5}, "all": {"train": 44, "test": 4}} | stages
    assert cards.rows(made_manifest(), config) == expected[config]


def test_every_column_of_a_pair_is_described() -> None:
    described = rows_of(dataset_card(), "### Columns of a pair")
    assert [row[0] for row in described] == schema.PAIRS.names
    assert all(meaning for _, _, meaning, _ in described)
    assert {unit for name, _, _, unit in described if name.endswith("value_uncertainty")} == {"nats"}


def test_similarity_is_named_as_what_it_is() -> None:
    models = made_manifest()["models"]
    models["entailer"]["kind"] = "similarity"
    card = dataset_card(models=models)
    assert "Embedding similarity, not entailment" in card.split("## Load it")[0]
    assert "mbedding similarity" not in dataset_card()


def test_a_judge_of_its_own_is_not_called_the_policy() -> None:
    models = made_manifest()["models"]
    models["judge"] |= {"model": "org/judge", "same_as_policy": False}
    assert "The model judges itself" in dataset_card()
    assert "The model judges itself" not in dataset_card(models=models)


def test_a_trained_judge_is_not_said_to_read_a_constitution() -> None:
    models = made_manifest()["models"]
    models["judge"] |= {"model": "runs/judge", "same_as_policy": False, "kind": "trained"}
    plain, trained = dataset_card(), dataset_card(models=models)
    for text in ("written constitution", "**Position bias of the judge.**", "Made without human labels"):
        assert text in plain
        assert text not in trained
    for text in (
        "trained on people's harm scores",
        "Made with a judge trained on human labels",
        "must not score the evaluation",
    ):
        assert text in trained
        assert text not in plain
    for text in ("made without human labels", "no human annotation"):
        assert text in plain
        assert text not in trained


def test_u_by_isotonic_maps_is_not_called_a_rank() -> None:
    ranks, mapped = dataset_card(), dataset_card(calibration={"method": "isotonic"})
    assert "rank shares" in ranks and "rank share" not in mapped
    assert "probabilities of failure" in mapped


def test_a_stage_without_pairs_has_no_configuration_and_the_card_says_so() -> None:
    counts = made_manifest()["counts"]
    counts["stages"]["moderate"] = {"train": 0, "test": 0}
    counts["stages"]["exploratory"]["test"] = 0
    card = dataset_card(counts=counts)
    cards.validate(card, "dataset")
    assert "- config_name: moderate" not in card
    assert "The stage `moderate` has no pairs" in card
    assert "data/exploratory/test-*.parquet" not in card


def test_no_local_path_reaches_a_card() -> None:
    models = made_manifest()["models"]
    models["policy"] |= {"model": "/home/someone/models/tiny", "revision": None, "origin": "local folder"}
    facts = made_facts(base_model="/home/someone/models/tiny", base_revision=None, data="/home/someone/build")
    model_card = cards.render_model_card(facts, "org/udasa-tiny")
    card = dataset_card(models=models)
    cards.validate(card, "dataset")
    cards.validate(model_card, "model")
    for shown in (card, model_card):
        assert "/home" not in shown
        assert "tiny (local folder)" in shown


def test_the_release_loads_as_the_card_says(tmp_path: Path) -> None:
    import datasets

    for stage in schema.STAGES:
        (tmp_path / "data" / stage).mkdir(parents=True)
        for split in schema.SPLITS:
            table = made_pairs().filter(stage=stage, split=split).to_arrow().cast(schema.PAIRS)
            pq.write_table(table, tmp_path / "data" / stage / f"{split}-00000-of-00001.parquet")
    (tmp_path / "responses").mkdir()
    scored = made_responses().to_arrow().cast(schema.SCORED)
    pq.write_table(scored[:43], tmp_path / "responses" / "train-00000-of-00001.parquet")
    pq.write_table(scored[43:], tmp_path / "responses" / "test-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(dataset_card(), encoding="utf-8")
    counts = made_manifest()["counts"]["stages"]
    cache = str(tmp_path / "cache")
    for stage in schema.STAGES:
        loaded = datasets.load_dataset(str(tmp_path), stage, cache_dir=cache)
        assert {split: loaded[split].num_rows for split in loaded} == counts[stage]
        assert loaded["train"].features == datasets.Features.from_arrow_schema(schema.PAIRS)
    assert datasets.load_dataset(str(tmp_path), cache_dir=cache)["train"].num_rows == 43 + 48 - 43 - counts_test(counts)
    streamed = datasets.load_dataset(str(tmp_path), "responses", split="test", streaming=True)
    assert [row["prompt_id"] for row in streamed] == [f"p{i:03d}" for i in range(43, 48)]


def counts_test(counts: dict[str, dict[str, int]]) -> int:
    return sum(stage["test"] for stage in counts.values())


def test_the_model_card_without_results_claims_nothing() -> None:
    card = cards.render_model_card(made_facts(license="apache-2.0"), "org/udasa-demo-lora")
    cards.validate(card, "model")
    assert "No evaluation has been attached" in card
    assert "model-index" not in card
    assert 'PeftModel.from_pretrained(model, "org/udasa-demo-lora")' in card
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card


def test_the_model_card_holds_the_results_with_n_and_interval() -> None:
    from huggingface_hub import ModelCard

    card = cards.render_model_card(made_facts(), "org/udasa-demo-lora", COMPARISON)
    cards.validate(card, "model")
    table = rows_of(card, "## Results")
    assert [row[2] for row in table] == [str(d.n) for d in COMPARISON]
    assert [row[6] for row in table] == [f"{d.low:.4f} to {d.high:.4f}" for d in COMPARISON]
    assert [row[7] for row in table] == ["better", "not told apart", "worse", "better"]
    measured = ModelCard(card).data.get("eval_results")
    assert measured is not None
    assert [(r.metric_type, r.metric_value) for r in measured] == [(d.metric, d.after) for d in COMPARISON]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_stay_text_in_both_cards(text: str) -> None:
    sources = [{"name": text, "license": text, "revision": text, "prompts": 3}]
    manifest = made_manifest(sources=sources, packages={text: text}, tasks={text: {"moderate": 1}}, name=text)
    card = cards.render_dataset_card(manifest, "org/x", [("figures/gap.svg", text)])
    cards.validate(card, "dataset")
    facts = made_facts(settings={text: text}, versions={text: text}, arm=text)
    changes = [made_transition(stage=text, metric=text, unit=text, found=text)]
    model_card = cards.render_model_card(facts, "org/x", meaning=text, source=text, transitions=changes)
    cards.validate(model_card, "model")
    plain, plain_model = (
        dataset_card(),
        cards.render_model_card(made_facts(), "org/x", transitions=[made_transition()]),
    )
    for hostile, usual in ((card, plain), (model_card, plain_model)):
        body, usual_body = (html_of(c.split("\n---\n", 1)[1]) for c in (hostile, usual))
        assert shape(body) - {"code"} == shape(usual_body) - {"code"}
        assert not re.search(r"[\u200b\u202a-\u202e\u2066-\u2069]", body)


def shape(html: str) -> set[str]:
    return set(re.findall(r"<([a-z][a-z0-9]*)", html))


@given(st.text(max_size=60))
def test_escaped_text_is_one_cell_that_reads_as_it_was(text: str) -> None:
    import html

    shown = html_of(f"| a | b |\n|---|---|\n| x{cards.escape(text)}x | {cards.code(text)} |\n")
    cells = re.findall(r"<td>(.*?)</td>", shown, re.S)
    assert len(cells) == 2
    assert "<" not in cells[0]
    assert html.unescape(cells[0]) == "x" + " ".join(figures.visible(text).split()) + "x"
    assert set(re.findall(r"<(\w+)", cells[1])) <= {"code"}


@given(st.text())
def test_a_literal_is_python_and_closes_no_fence(text: str) -> None:
    import ast

    assert ast.literal_eval(str(cards.literal(text))).encode("utf-16", "surrogatepass") == text.encode(
        "utf-16", "surrogatepass"
    )
    assert "`" not in cards.literal(text)


def test_what_training_recorded_beyond_the_needed_is_shown() -> None:
    facts = made_facts(base_identity={"model": "/home/x", "origin": "package weights:y"})
    facts["stages"][0]["dropped"] = 3
    facts["settings"]["fixed_reference"] = {"model": "/home/someone/reference", "revision": None}
    card = cards.render_model_card(facts, "org/x")
    assert "| 14 | 3 | 1 | 6 |" in card
    assert "package weights:y" in card
    assert "reference (local folder)" in card
    assert "/home" not in card


def tags(card: str) -> list[str]:
    from huggingface_hub import ModelCard

    return list(ModelCard(card).data.tags or ())


@pytest.mark.parametrize(
    ("loss", "method", "scale"),
    [
        (None, "by direct preference optimisation (DPO) on", "Losses are DPO's, in nats (ln 2 is 0.693:"),
        ("cdpo", "by conservative DPO (Mitchell 2023) on", "Losses are conservative DPO's, in nats (ln 2 is 0.693:"),
        ("robust", "by robust DPO (arXiv 2403.00409) on", "Losses are robust DPO's, in nats (ln 2 is 0.693:"),
        ("hinge", "by SLiC's hinge loss (arXiv 2305.10425) on", "(1: no preference yet)"),
        ("ipo", "by IPO (arXiv 2310.12036) on", "(1/(4 beta²) is 6.25: no preference yet)"),
    ],
)
def test_a_preference_loss_is_named_with_where_it_begins(loss: str | None, method: str, scale: str) -> None:
    card = cards.render_model_card(made_facts(settings={"beta": 0.2} | ({"loss": loss} if loss else {})), "org/x")
    cards.validate(card, "model")
    assert method + " preference\npairs of which the models are more and less certain, in stages from clear" in card
    assert scale in card and ("DPO's" in card) == ("DPO" in method)
    assert {"dpo", "uncertainty"} <= set(tags(card)) and "sft" not in tags(card)


def test_a_supervised_arm_is_not_called_dpo() -> None:
    stages = [made_facts()["stages"][0] | {"stage": "all"}]
    facts = made_facts(arm="sft", stages=stages, settings={"beta": 0.1, "loss": "sft", "stages": list(schema.STAGES)})
    card = cards.render_model_card(facts, "org/x", meaning="supervised on *these*", source="someone 2023")
    cards.validate(card, "model")
    assert "It is the arm `sft` of the toolkit udasa: supervised on &#42;these&#42; (someone 2023)." in card
    assert "supervised fine-tuning (SFT) on the chosen sides of preference\npairs.\n" in card
    assert "negative log-likelihood" in card and "neither the reference nor the rejected side is in the loss" in card
    assert "not made by the toolkit's staged procedure" in card
    assert not re.search(r"DPO|optimisation \(|no preference yet|both answers of a pair|models' uncertainty", card)
    assert {"sft"} == {"sft", "dpo", "uncertainty"} & set(tags(card))
    assert "`stages`" not in card, "the recipe's stages are not those of the arm"


def test_an_arm_that_is_not_known_is_named_and_no_more() -> None:
    card = cards.render_model_card(made_facts(arm="my arm"), "org/x")
    assert "an arm `my arm`, which this version of the toolkit udasa does not describe" in card
    assert "from clear to ambiguous" not in card


def test_stages_of_other_losses_and_in_another_order_are_told_apart() -> None:
    stages = made_facts()["stages"][:0:-1]
    settings = {"loss": "sft", "beta": 0.1, "overrides": [{"stage": "moderate", "loss": "ipo", "beta": 0.5}]}
    card = cards.render_model_card(made_facts(stages=stages, settings=settings), "org/x")
    assert "supervised fine-tuning (SFT) and IPO (arXiv 2310.12036) on preference\npairs of which" in card
    assert "more and less certain, stage by stage: exploratory, moderate." in card
    assert "Losses of exploratory are the mean negative" in card
    assert "Losses of moderate are IPO's" in card and "(1/(4 beta²) is 1: no" in card
    assert {"dpo", "sft"} <= set(tags(card))


def made_transition(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "stage": "moderate", "metric": "kl", "unit": "nats a response", "items": 31, "before": 0.5, "after": 0.75,
        "change": {"value": 0.25, "low": 0.125, "high": 0.375, "n": 31}, "found": "other", "forgotten_since": None,
        "change_since": None,
    }  # fmt: skip
    return row | changes


def test_what_each_stage_changed_is_told_where_it_could_be_told() -> None:
    since = {"value": -0.5, "low": -0.7, "high": -0.3, "n": 31}
    changes = [
        made_transition(),
        made_transition(metric="canary", found="unclear"),
        made_transition(metric="accuracy", found="unclear", forgotten_since="conservative", change_since=since),
        made_transition(stage="extra", metric="accuracy", found="better"),
    ]
    card = cards.render_model_card(made_facts(), "org/x", transitions=changes)
    cards.validate(card, "model")
    assert "Changes looked at: 4; told apart from 0, or forgotten: 3." in card
    assert rows_of(card, "## What each stage changed") == [
        ["moderate", "kl` (nats a response)", "31", "0.5000", "0.7500", "0.2500", "0.1250 to 0.3750", "changed"],
        ["moderate", "accuracy` (nats a response)", "31", "0.5000", "0.7500", "0.2500", "0.1250 to 0.3750",
         "**forgotten** since `conservative`: -0.5000 (-0.7000 to -0.3000)"],
        ["extra` (taken back)", "accuracy` (nats a response)", "31", "0.5000", "0.7500", "0.2500", "0.1250 to 0.3750",
         "better"],
    ]  # fmt: skip
    none = cards.render_model_card(made_facts(), "org/x", transitions=changes[1:2])
    assert "Changes looked at: 1; told apart from 0, or forgotten: none." in none and "| after stage |" not in none
    assert "This was not measured" in cards.render_model_card(made_facts(), "org/x")


def test_lists_in_a_sentence_keep_their_spaces() -> None:
    assert "torch `2.13.0`, transformers `5.3.0`." in dataset_card()
    assert "| judge (the policy judges itself) |" in dataset_card()


def test_hidden_characters_are_shown_and_joiners_between_letters_stay() -> None:
    assert figures.visible("a\u202eb\u200bc\x00") == "a[U+202E]b[U+200B]c[U+0000]"
    assert figures.visible("می\u200cخواهم 👩\u200d👧") == "می\u200cخواهم 👩\u200d👧"
