"""A 7B policy on a GPU with vLLM, on public prompt sets: the recipe of a first full release.

Needs `pip install 'udasa[vllm]'` in an environment of its own, and the Hub. Where the source of the harmlessness
prompts has withheld a text it says REDACTED; those rows are one prompt, and deduplication leaves one of them. The
floors of the planted questions are above chance and below what such models should reach; no run has tried them yet.
"""

from udasa.backends import ModelSpec, Sampling
from udasa.recipe import Judging, Planted, Recipe, Source, Staging, Training, constitution

POLICY = ModelSpec(
    model="Qwen/Qwen2.5-7B-Instruct",
    revision="a09a35458c702b33eeacc393d103063234e8bc28",
    backend="vllm",
    dtype="bfloat16",
)

RECIPE = Recipe(
    name="pairs-v1",
    sources=(
        Source(
            name="aegis-2",
            task="harmlessness",
            dataset="nvidia/Aegis-AI-Content-Safety-Dataset-2.0",
            revision="d86bb8bedff51d25ac834ab7838f1cc61acb7a2c",
            license="cc-by-4.0",
            limit=6000,
        ),
        Source(
            name="dolly-15k",
            task="helpfulness",
            dataset="databricks/databricks-dolly-15k",
            revision="bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
            prompt_column="instruction",
            license="cc-by-sa-3.0",
            limit=6000,
        ),
        Source(
            name="trivia-qa",
            task="truthfulness",
            dataset="mandarjoshi/trivia_qa",
            config="rc.nocontext",
            revision="0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
            prompt_column="question",
            limit=6000,
        ),
        Source(
            name="sentiment",
            task="sentiment",
            path="bundled:data/sentiment.jsonl",
            domain_column="domain",
            license="apache-2.0",
        ),
    ),
    policy=POLICY,
    sampling=Sampling(k=8, temperature=1.0, max_new_tokens=512),
    judging=Judging(constitution=constitution("bundled:data/constitution.jsonl")),
    staging=Staging(test_share=0.05),
    planted=Planted(entailer_floor=0.8, judge_floor=0.6),
    training=Training(learning_rate=5e-6, batch_size=32, device_batch_size=4, max_length=1024, lora_rank=16),
    license="cc-by-sa-3.0",
    shard_size=512,
)
