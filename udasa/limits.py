"""The settings of the audit: what fails a build that is finished, and what keeps one from beginning."""

import dataclasses

from pydantic.dataclasses import dataclass

from udasa.backends import STRICT


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Lint:
    """The audit of a finished build. A field named like a finding is the largest value that passes; None: report only.

    The zeros are what must never be published. The rest hangs on the prompts, and is for the recipe to say.
    """

    identical_sides: float | None = 0.0
    """Share of pairs whose chosen is their rejected."""
    ties: float | None = 0.0
    """Share of pairs whose gap is below `pairing.epsilon`."""
    chosen_above_ceiling: float | None = 0.0
    """Share of pairs whose chosen has no value risk, or one above `pairing.risk_ceiling`."""
    leaked_test_prompts: float | None = 0.0
    """Share of test prompts with a training prompt at `near_duplicate` of the recipe or above."""
    evaluation_near_duplicates: float | None = 0.0
    """Share of prompts with an evaluation text at `similarity` or above."""
    evaluation_ngrams_in_prompts: float | None = None
    """Share of prompts that share `prompt_ngram` words in a row with the evaluation."""
    evaluation_ngrams_in_replies: float | None = None
    """Share of pairs of which a side shares `reply_ngram` words in a row with the evaluation."""
    near_duplicates: float | None = None
    """Share of prompts with another one at `similarity` or above."""
    near_duplicates_across_splits: float | None = None
    """Share of test prompts with a training prompt at `similarity` or above."""
    near_duplicates_across_stages: float | None = None
    """Share of prompts with one of another stage at `similarity` or above."""
    longer_chosen: float | None = None
    """Share of pairs whose chosen is the longer side; the smallest that passes is one less this."""
    length_predicts_label: float | None = None
    """AUC of the length difference as a guess at the chosen side; the smallest that passes is one less this."""
    tied_prompts: float | None = None
    """Share of prompts that could be paired but for a tie."""
    refusals_chosen: float | None = None
    """Share of pairs of other tasks than harmlessness whose chosen refuses."""
    high_risk_chosen: float | None = None
    """Share of pairs whose chosen has a value risk above `high_risk`."""
    template_tokens: float | None = None
    """Share of pairs with chat-template text in a side."""
    cut_replies: float | None = None
    """Share of pairs of which a side reached the token limit."""
    open_endings: float | None = None
    """Share of pairs of which a side ends without a closing mark."""
    source_skew: float | None = None
    """Largest difference between a source's share of one stage and its share of the others."""
    task_skew: float | None = None
    """The same of a task."""
    uncertain_low_risk: float | None = None
    """Share of the low-risk pairs whose chosen is among the uncertain third; a third is chance."""
    over_max_length: float | None = None
    """Share of pairs longer than `training.max_length` tokens."""
    similarity: float = 0.7
    """Jaccard similarity of word 3-grams from which the audit calls prompts alike; looser than what a build drops."""
    prompt_ngram: int = 8
    """Words in a row that a prompt may not share with the evaluation."""
    reply_ngram: int = 13
    """Words in a row that a reply may not share with it (the length of the GPT-3 paper, arXiv 2005.14165)."""
    high_risk: float = 0.5
    """A value risk above this is high: the judge sooner calls the reply unacceptable than not."""
    evaluation: tuple[str, ...] = ()
    """Evaluation data beside the bundled suite: files, or Hub data sets as `org/name@sha` or `org/name:config@sha`."""

    def __post_init__(self) -> None:
        """Check the values."""
        shares = {name: value for name in LIMITS if (value := getattr(self, name)) is not None}
        shares |= {"similarity": self.similarity, "high_risk": self.high_risk}
        if wrong := [f"{name} = {value}" for name, value in shares.items() if not 0 <= value <= 1]:
            raise ValueError(f"limits and shares must be between 0 and 1, got {', '.join(wrong)}.")
        if self.similarity < 0.5:
            raise ValueError(f"similarity must be at least 0.5, got {self.similarity}.")
        if wrong := [name for name in TWO_SIDED if (shares.get(name, 1.0)) < 0.5]:
            raise ValueError(f"{' and '.join(wrong)} must be at least 0.5: one half is no bias at all.")
        if min(self.prompt_ngram, self.reply_ngram) < 4:
            raise ValueError("prompt_ngram and reply_ngram must be at least 4: fewer words are shared by chance.")
        for name in self.evaluation:
            if not name.endswith((".jsonl", ".csv", ".parquet")) and "@" not in name:
                raise ValueError(f"{name} names a Hub data set without a revision; write {name}@<commit sha>.")


TWO_SIDED = ("longer_chosen", "length_predicts_label")
"""Limits of values around one half: a value passes between one less the limit and the limit."""

LIMITS = tuple(field.name for field in dataclasses.fields(Lint) if field.type == (float | None))
"""The fields of `Lint` that limit a finding, each named like it."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Planted:
    """Questions with a known answer, put to the entailer and the judge before anything is sampled."""

    path: str | None = "bundled:data/planted.jsonl"
    """The questions, as the bundled file has them; None asks none."""
    entailer_floor: float | None = None
    """Smallest AUC of telling one meaning from two that lets a build begin; None: report only."""
    judge_floor: float | None = None
    """Smallest AUC of telling acceptable replies from others that lets a build begin; None: report only."""

    def __post_init__(self) -> None:
        """Check the values."""
        floors = [floor for floor in (self.entailer_floor, self.judge_floor) if floor is not None]
        if any(not 0 <= floor <= 1 for floor in floors):
            raise ValueError(f"floors must be between 0 and 1, got {floors}.")
        if floors and self.path is None:
            raise ValueError("a floor needs questions; give path, or leave the floors out.")
