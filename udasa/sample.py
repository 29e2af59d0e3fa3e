"""Prompts -> K responses: the `responses` step."""

from collections.abc import Sequence

import pyarrow as pa

from udasa import schema
from udasa.backends import Message, Report, Sampler, ignore, stable_hash


class SampleStep:
    """Holds the sampler; seeds hang on the prompt's id, never on its place in a batch."""

    def __init__(self, sampler: Sampler, k: int, seed: int) -> None:
        self.sampler = sampler
        self.k = k
        self.seed = seed

    def __call__(self, table: pa.Table, report: Report = ignore) -> pa.Table:
        """Return the prompts with their K responses, as `schema.RESPONSES`; reports prompts."""
        rows = schema.conform(table, schema.PROMPTS).to_pylist()
        prompts: list[Sequence[Message]] = [row["messages"] for row in rows]
        seeds = [[stable_hash(self.seed, row["prompt_id"], k) for k in range(self.k)] for row in rows]
        drawn = self.sampler.sample(prompts, seeds, report)
        for row, responses in zip(rows, drawn, strict=True):
            row["responses"] = [
                {"response_id": f"{row['prompt_id']}-{k}", **response._asdict()}
                for k, response in zip(range(self.k), responses, strict=True)
            ]
        return schema.conform(pa.Table.from_pylist(rows, schema.RESPONSES), schema.RESPONSES)
