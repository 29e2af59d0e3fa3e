"""training facts, paired differences and transitions -> model card."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from udasa import schema
from udasa.cards.checks import LOCAL_BASE
from udasa.cards.markdown import check_repo, hub_id, render, yaml
from udasa.figures import Difference, reading


class _Loss(NamedTuple):
    """A loss of `udasa.recipe.Training`, as TRL 1.16 has it."""

    method: str
    scale: str
    """What its values are, and which of them there is while nothing is preferred."""


_LN_2 = "in nats (ln 2 is 0.693: no preference yet)"
_LOSSES: Mapping[str, _Loss] = {
    "sigmoid": _Loss("direct preference optimisation (DPO)", f"DPO's, {_LN_2}"),
    "cdpo": _Loss("conservative DPO (Mitchell 2023)", f"conservative DPO's, {_LN_2}"),
    "robust": _Loss("robust DPO (arXiv 2403.00409)", f"robust DPO's, {_LN_2}"),
    "hinge": _Loss(
        "SLiC's hinge loss (arXiv 2305.10425)",
        "SLiC's, 1 less a pair's reward margin, at least 0 (1: no preference yet)",
    ),
    "ipo": _Loss(
        "IPO (arXiv 2310.12036)",
        "IPO's, of the log-probability ratios a token (1/(4 beta²) is {:g}: no preference yet)",
    ),
    "sft": _Loss(
        "supervised fine-tuning (SFT)", "the mean negative log-likelihood of a token of a chosen side, in nats"
    ),
}


def render_model_card(
    facts: Mapping[str, Any],
    repo: str,
    results: Sequence[Difference] | None = None,
    *,
    meaning: str | None = None,
    source: str | None = None,
    transitions: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Return the README.md of what was trained.

    Args:
        facts: what `udasa.train` wrote; `license` may be added to it, else the card says `unknown`.
        repo: Hub id that the example loads.
        results: paired differences against the base model; None if none were measured.
        meaning: what is different in the arm that was trained, if it is not `staged`; None if it is not known.
        source: where the idea of that arm is from.
        transitions: the rows of transitions.json; None if none were measured.

    Raises:
        UserError: the repository's id does not fit, or a number is NaN or infinite.
    """
    check_repo(repo)
    losses, arm = _losses(facts), facts.get("arm", "staged")
    scales: dict[str, list[str]] = {}
    for stage, loss in losses.items():
        start = 1 / (4 * _setting(facts, stage, "beta") ** 2) if loss == "ipo" else None
        scales.setdefault(_LOSSES[loss].scale.format(start), []).append(stage)
    return render(
        "model_card.md.j2",
        front_matter=yaml(_model_front_matter(facts, repo, results or ())),
        f=facts,
        repo=repo,
        results=[(result, reading(result)) for result in results or ()],
        local_base=not hub_id(facts["base_model"]),
        arm=arm,
        meaning=meaning,
        source=source,
        methods=[_LOSSES[loss].method for loss in dict.fromkeys(losses.values())],
        scales=scales,
        by_preference=set(losses.values()) != {"sft"},
        trained=list(losses),
        clear_first=len(losses) > 1 and list(losses) == [stage for stage in schema.STAGES if stage in losses],
        transitions=transitions,
        changes=[t for t in transitions or () if t["found"] != "unclear" or t["forgotten_since"]],
    )


def _losses(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the loss of every stage that was trained."""
    return {stage["stage"]: _setting(facts, stage["stage"], "loss") or "sigmoid" for stage in facts["stages"]}


def _setting(facts: Mapping[str, Any], stage: str, name: str) -> Any:
    """Return a setting of one stage, as `Training.of` does; None if an old training.json lacks it."""
    settings = facts["settings"]
    own = [override.get(name) for override in settings.get("overrides", ()) if override["stage"] == stage]
    return next((value for value in own if value is not None), settings.get(name))


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
    kinds = dict.fromkeys("sft" if loss == "sft" else "dpo" for loss in _losses(facts).values())
    tags = ["udasa", *kinds, *([] if full else ["lora"]), "trl"]
    tags += ["uncertainty"] if facts.get("arm", "staged") == "staged" else []
    tags += [] if hub_id(base) else [LOCAL_BASE]
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
