"""training facts and paired differences -> model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from udasa.cards.checks import LOCAL_BASE
from udasa.cards.markdown import check_repo, hub_id, render, yaml
from udasa.figures import Difference, reading


def render_model_card(facts: Mapping[str, Any], repo: str, results: Sequence[Difference] | None = None) -> str:
    """Return the README.md of a trained adapter.

    Args:
        facts: what `udasa.train` wrote; `license` may be added to it, else the card says `unknown`.
        repo: Hub id that the example loads.
        results: paired differences against the base model; None if none were measured.

    Raises:
        UserError: the repository's id does not fit, or a number is NaN or infinite.
    """
    check_repo(repo)
    return render(
        "model_card.md.j2",
        front_matter=yaml(_model_front_matter(facts, repo, results or ())),
        f=facts,
        repo=repo,
        results=[(result, reading(result)) for result in results or ()],
        local_base=not hub_id(facts["base_model"]),
    )


def _model_front_matter(facts: Mapping[str, Any], repo: str, results: Sequence[Difference]) -> dict[str, Any]:
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    base, data = facts["base_model"], facts["data"]
    full = facts["settings"].get("tuning") == "full"
    front: dict[str, Any] = {"license": facts.get("license", "unknown")}
    front["library_name"] = "transformers" if full else "peft"
    if hub_id(base):
        front |= {"base_model": base, "base_model_relation": "finetune" if full else "adapter"}
    if hub_id(data):
        front["datasets"] = [data]
    tags = ["udasa", "dpo", *([] if full else ["lora"]), "trl", "uncertainty", *([] if hub_id(base) else [LOCAL_BASE])]
    front |= {"pipeline_tag": "text-generation", "tags": tags}
    measured = [
        EvalResult(
            task_type="text-generation", dataset_type=r.task, dataset_name=r.task, metric_type=r.metric,
            metric_value=r.after,
            metric_args={"n": r.n, "difference": r.delta, "difference_low": r.low, "difference_high": r.high},
        )
        for r in results
    ]  # fmt: skip
    if measured:
        front["model-index"] = eval_results_to_model_index(repo.rpartition("/")[2], measured)
    return front
