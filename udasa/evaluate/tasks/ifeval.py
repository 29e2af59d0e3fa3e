"""IFEval's prompts with instructions that a program can check -> documents; replies -> lm-eval's own checks of them.

{"key": 1000, "prompt": "Write … Do not use commas", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
"""

from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

from datasets import Dataset

from udasa.errors import MissingExtraError, require
from udasa.evaluate.sources import rows
from udasa.evaluate.tasks.documents import as_split, take
from udasa.evaluate.tasks.replies import facts, states

PROMPTS = "ifeval/input_data.jsonl"


def prompts(
    data: str | None = None, profile: str = "full", n: Mapping[str, int] | None = None, **_: object
) -> dict[str, Dataset]:
    """Return the prompts.

    Raises:
        MissingExtraError: what lm-eval's checks need is not there: it is found out before a model writes anything.
        UserError: the source is missing, or there is no such profile.
    """
    _checks()
    found = [{"id": f"ifeval-{row['key']}", **row} for row in rows(PROMPTS, data)]
    return as_split(take(found, n, profile))


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Return what lm-eval's IFEval returns (the two by instruction are lists, for `by_instruction`), and the states."""
    found: dict[str, Any] = _checks().process_results(doc, results)
    scores = {name: value if isinstance(value, list) else float(value) for name, value in found.items()}
    return {**scores, **states(facts(results[0]))}


def by_instruction(followed: Sequence[Sequence[bool]]) -> float:
    """Return the share of all instructions that were followed."""
    flat = [bool(one) for document in followed for one in document]
    return sum(flat) / len(flat)


@cache
def _checks() -> ModuleType:
    """Import lm-eval's checks, and make its guess of a language the same in every run."""
    for module in ("immutabledict", "langdetect", "nltk"):
        require(module, extra="ifeval")
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise MissingExtraError(
            "nltk's data set punkt_tab is not installed. Install it with: python -m nltk.downloader punkt_tab"
        ) from error
    import langdetect
    from lm_eval.tasks.ifeval import utils

    langdetect.DetectorFactory.seed = 0
    checks: ModuleType = utils
    return checks
