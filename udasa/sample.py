"""Prompts -> K responses: the `responses` step."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from udasa import schema
from udasa.backends import Failure, Message, Report, Response, Sampler, ignore
from udasa.digests import stable_hash
from udasa.errors import UserError


class SampleStep:
    """Holds the sampler; seeds hang on the prompt's id, never on its place in a batch."""

    def __init__(self, sampler: Sampler, k: int, seed: int) -> None:
        self.sampler = sampler
        self.k = k
        self.seed = seed

    def __call__(self, table: pa.Table, report: Report = ignore) -> pa.Table:
        """Return the prompts with their K responses, or why there are none, as `schema.RESPONSES`; reports prompts."""
        rows = schema.conform(table, schema.PROMPTS).to_pylist()
        prompts: list[Sequence[Message]] = [row["messages"] for row in rows]
        seeds = [[stable_hash(self.seed, row["prompt_id"], k) for k in range(self.k)] for row in rows]
        drawn = self.sampler.sample(prompts, seeds, report)
        _check_engine(drawn)
        for row, found in zip(rows, drawn, strict=True):
            failure = found if isinstance(found, Failure) else None
            row["failure"], row["failure_detail"] = failure or (None, None)
            row["responses"] = [] if isinstance(found, Failure) else self._responses(row["prompt_id"], found)
        return schema.conform(pa.Table.from_pylist(rows, schema.RESPONSES), schema.RESPONSES)

    def _responses(self, prompt_id: str, drawn: Sequence[Response]) -> list[dict[str, Any]]:
        return [
            {"response_id": f"{prompt_id}-{k}", **response._asdict()}
            for k, response in zip(range(self.k), drawn, strict=True)
        ]


def _check_engine(drawn: Sequence[list[Response] | Failure]) -> None:
    """Refuse a shard in which the engine answered nothing: it is down, and the prompts are not to blame.

    Raises:
        UserError: every prompt of the shard has an engine error; the shard is not written.
    """
    failed = [f for f in drawn if isinstance(f, Failure) and f.reason == "engine-error"]
    if failed and len(failed) == len(drawn):
        raise UserError(
            f"The policy's engine answered none of the {len(drawn)} prompts of a shard; the first error: "
            f"{failed[0].detail}. Mend the engine, and run the same command again to go on."
        )
