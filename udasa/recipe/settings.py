"""The settings of a build and a training run, as frozen values that check themselves."""

from typing import Literal

from pydantic.dataclasses import dataclass

from udasa.backends import MEMBERS, STRICT, Kind, ModelSpec, Principle, Runtime, Sampling
from udasa.limits import Lint, Planted
from udasa.recipe.training import Training

Task = Literal["harmlessness", "helpfulness", "truthfulness", "sentiment"]
Domain = Literal["general", "health", "law", "technical"]

NLI = ModelSpec(
    model="cross-encoder/nli-deberta-v3-base",
    revision="6c749ce3425cd33b46d187e45b92bbf96ee12ec7",
)
"""The default entailer: a three-way NLI cross-encoder (Apache-2.0)."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Source:
    """Where prompts come from: a local file or a Hub data set."""

    name: str
    """Short name, kept in the `source` column."""
    task: Task
    """What the prompts are for."""
    path: str | None = None
    """A .jsonl, .parquet or .csv file; `bundled:data/x.jsonl` is on the builders shelf."""
    dataset: str | None = None
    """Hub id of a data set."""
    config: str | None = None
    """Configuration of the Hub data set."""
    split: str = "train"
    """Split of the Hub data set."""
    revision: str | None = None
    """Commit sha of the Hub data set: required, so that the build can be repeated."""
    prompt_column: str = "prompt"
    """Column with the prompt: a text, or a list of {role, content}."""
    domain: Domain = "general"
    """Domain of the rows without one of their own."""
    domain_column: str | None = None
    """Column with the domain."""
    license: str | None = None
    """SPDX id of the prompts' licence."""
    limit: int | None = None
    """Take at most this many rows: those with the smallest hash, so a fixed sample of the whole file."""

    def __post_init__(self) -> None:
        """Check the values."""
        if (self.path is None) == (self.dataset is None):
            raise ValueError(f"source '{self.name}' must have either a path or a dataset, and not both.")
        if self.dataset is not None and self.revision is None:
            raise ValueError(
                f"source '{self.name}' names the Hub data set {self.dataset} without a revision. "
                "Pin its commit sha, so that the build can be repeated."
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit of source '{self.name}' must be at least 1, got {self.limit}.")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Entailment:
    """Who compares texts."""

    model: ModelSpec = NLI
    """An NLI cross-encoder, a sentence embedder for `similarity`, or a language model for `prompted`."""
    kind: Kind = "nli"
    """`similarity` is the cosine of sentence embeddings: not entailment, and named so on the card. `prompted` asks a
    language model, on any engine, and reads the probabilities of three answers."""
    same_meaning: float = 0.8
    """The cosine at which two texts count as one meaning (`similarity` only)."""
    clustering: Literal["components", "first-representative", "strict", "loose"] = "components"
    """Which responses share a meaning; only the default does not depend on their order (docs/uncertainty.md)."""
    context: bool = False
    """Whether the entailer reads the prompt before each text, on both sides (Farquhar et al. 2024 do)."""
    runtime: Runtime = "torch"
    """`onnx-int8` runs an NLI model on ONNX Runtime with weights of 8 bits, one question at a time."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.same_meaning < 1:
            raise ValueError(f"same_meaning must be between 0 and 1, got {self.same_meaning}.")
        if self.runtime != "torch" and self.kind != "nli":
            raise ValueError(f"runtime '{self.runtime}' runs NLI models only, got kind '{self.kind}'.")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Judging:
    """Who reads the constitution, or judges without one."""

    constitution: tuple[Principle, ...] = ()
    """The principles, in order."""
    model: ModelSpec | None = None
    """None: the policy itself (self-alignment)."""
    kind: Literal["principles", "trained"] = "principles"
    """`trained`: `model` is a folder that `udasa judge train` wrote; it reads no constitution."""
    ask_p_true: bool = False
    """Ask the policy itself whether each of its responses is true (column `p_true`)."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.kind == "trained":
            if self.model is None:
                raise ValueError("a trained judge is a folder: set model to the one that `udasa judge train` wrote.")
            if self.constitution:
                raise ValueError("a trained judge reads no constitution; leave the constitution out.")
        elif not self.constitution:
            raise ValueError("the constitution is empty; it needs at least one principle.")
        if len({p.id for p in self.constitution}) < len(self.constitution):
            raise ValueError("the constitution has two principles with one id.")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Weights:
    """How much each dimension counts in u; 0 leaves it out."""

    semantic: float = 1.0
    factual: float = 1.0
    value: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        if min(self.semantic, self.factual, self.value) < 0 or self.semantic + self.factual + self.value <= 0:
            raise ValueError("weights must be 0 or more, and one of them above 0.")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Measures:
    """Which column of `scored` feeds each dimension of u."""

    semantic: Literal["semantic_uncertainty", "eccentricity", "degree", "cluster_surprisal"] = "semantic_uncertainty"
    factual: Literal["factual_uncertainty", "selfcheck_nli", "cocoa", "p_true"] = "factual_uncertainty"
    value: Literal["value_uncertainty", "value_disagreement", "value_risk"] = "value_uncertainty"


def can_bound_gaps(weights: Weights, measures: Measures) -> bool:
    """Say whether u has a part that can be drawn anew, so that its gaps can have intervals."""
    drawn = measures.semantic == "semantic_uncertainty", measures.factual == "factual_uncertainty"
    return (weights.semantic > 0 and drawn[0]) or (weights.factual > 0 and drawn[1])


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Calibration:
    """How a raw uncertainty becomes a share that can be averaged with the others."""

    method: Literal["rank", "isotonic"] = "rank"
    """`rank`: the share of the build's values at most as large; `isotonic`: P(failure), by maps fitted on labels."""
    maps: str | None = None
    """The maps that `udasa calibrate` wrote; `bundled:data/x.json` is on the builders shelf."""
    sha256: str | None = None
    """The maps' sha256: required, so that a changed file is noticed."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.method == "rank" and (self.maps or self.sha256):
            raise ValueError("maps and sha256 belong to method='isotonic', and only to it.")
        if self.method == "isotonic" and not (self.maps and self.sha256):
            raise ValueError("method='isotonic' needs maps and their sha256; `udasa calibrate` prints both.")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Pairing:
    """Which two responses make a pair."""

    rejected: Literal["mu_plus_2sigma", "max", "next", "random"] = "mu_plus_2sigma"
    """How the suboptimal response is picked (default after arXiv 2502.16825)."""
    risk_ceiling: float = 0.5
    """A response whose value risk is above this is never chosen."""
    epsilon: float = 1e-6
    """A gap below this is a tie, and dropped."""
    truncated: Literal["drop", "keep"] = "drop"
    """What becomes of responses that reached the token limit."""
    gap_resamples: int = 0
    """Bootstrap resamples behind every gap's 95 % interval; 0: no interval. 1,000 is a good number."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.gap_resamples < 0 or 0 < self.gap_resamples < 100:
            raise ValueError(f"gap_resamples must be 0, or at least 100, got {self.gap_resamples}.")
        if not 0 < self.risk_ceiling <= 1:
            raise ValueError(f"risk_ceiling must be in (0, 1], got {self.risk_ceiling}.")
        if self.epsilon < 0:
            raise ValueError(f"epsilon must be 0 or more, got {self.epsilon}.")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Staging:
    """How pairs become stages and splits."""

    thresholds: tuple[float, float] | None = None
    """(moderate, conservative): the smallest gap of each; None: terciles of the build."""
    test_share: float = 0.1
    """Share of prompts held out, by prompt hash."""
    abstain: bool = False
    """Drop a pair whose gap's interval covers a threshold: it may belong to either stage."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.thresholds is not None and not 0 <= self.thresholds[0] <= self.thresholds[1]:
            raise ValueError(f"thresholds must be two rising gaps of 0 or more, got {self.thresholds}.")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share must be in [0, 1), got {self.test_share}.")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Workers:
    """How many copies of a step's models a cluster holds, and what each takes. It does not change the data."""

    count: int = 1
    """Actors of each step."""
    cpus: float = 1.0
    """CPUs of each."""
    gpus: float = 0.0
    """GPUs of each."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.count < 1 or self.cpus <= 0 or self.gpus < 0:
            raise ValueError(
                f"workers need a count of 1 or more, cpus above 0 and gpus of 0 or more, got {self.count}, "
                f"{self.cpus} and {self.gpus}."
            )


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Recipe:
    """Everything that decides what a build and its training come out as."""

    name: str
    """Short name; the data set is called udasa-<name>."""
    sources: tuple[Source, ...]
    """Where the prompts come from, in order."""
    policy: ModelSpec
    """The model that answers, and is trained."""
    judging: Judging
    """Who reads the constitution."""
    sampling: Sampling = Sampling()
    """How responses are drawn."""
    entailment: Entailment = Entailment()
    """Who compares texts."""
    weights: Weights = Weights()
    """How the three uncertainties make one number."""
    measures: Measures = Measures()
    """Which column feeds each of them."""
    calibration: Calibration = Calibration()
    """How a raw uncertainty becomes a share."""
    pairing: Pairing = Pairing()
    """Which two responses make a pair."""
    staging: Staging = Staging()
    """How pairs become stages and splits."""
    training: Training = Training()
    """Staged DPO; not part of the build."""
    lint: Lint = Lint()
    """The audit; it can fail a build, and changes no row."""
    planted: Planted = Planted()
    """Questions with a known answer; they can fail a build, and change no row."""
    workers: Workers = Workers()
    """What a cluster gives to each step; not part of the build."""
    system: str | None = None
    """System message put before every prompt that has none."""
    near_duplicate: float = 0.8
    """Prompts at or above this Jaccard similarity of word 3-grams are near-duplicates."""
    shard_size: int = 256
    """Prompts per shard."""
    max_failed: float = 0.05
    """The build stops when more than this share of its prompts have no responses, or no judgement of them."""
    seed: int = 0
    """Every random choice of the build hangs on it."""
    license: str = "apache-2.0"
    """Licence of the published data set, as the Hub writes it."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.sources:
            raise ValueError("a recipe needs at least one source of prompts.")
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"two sources have one name: {names}.")
        if self.shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {self.shard_size}.")
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"max_failed must be in [0, 1], got {self.max_failed}.")
        if not 0 < self.near_duplicate <= 1:
            raise ValueError(f"near_duplicate must be in (0, 1], got {self.near_duplicate}.")
        if self.staging.abstain and not self.pairing.gap_resamples:
            raise ValueError("staging.abstain needs the gaps' intervals: set pairing.gap_resamples, such as 1000.")
        if self.pairing.gap_resamples and not can_bound_gaps(self.weights, self.measures):
            raise ValueError(
                "gap_resamples draws the responses behind semantic_uncertainty and factual_uncertainty anew, and the "
                "recipe measures by neither. Use one of them, or set pairing.gap_resamples to 0."
            )

    @property
    def judge_model(self) -> ModelSpec:
        """The judge: its own model, or the policy."""
        return self.judging.model or self.policy

    @property
    def judge_answers(self) -> tuple[str, ...]:
        """The ids of the judge's answers, in the order of the column `acceptable`: principles, or members."""
        return MEMBERS if self.judging.kind == "trained" else tuple(p.id for p in self.judging.constitution)
