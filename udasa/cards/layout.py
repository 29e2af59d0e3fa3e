"""manifest -> which configuration of the data set has which files and rows."""

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from udasa import schema

CONFIGS = (*schema.STAGES, "all", "responses")
"""The configurations of a published data set; `all` is the default one."""

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")
"""The Hub's size categories, in powers of ten from a thousand."""


def rows(manifest: Mapping[str, Any], config: str) -> dict[str, int]:
    """Return the rows of each split of a configuration that has any: `datasets` cannot load a split without rows."""
    if config == "responses":
        files = manifest["files"].items()
        counts = {s: sum(f["rows"] for path, f in files if path.startswith(f"responses/{s}-")) for s in schema.SPLITS}
    else:
        stages = manifest["counts"]["stages"]
        parts = [stages.get(stage, {}) for stage in (schema.STAGES if config == "all" else (config,))]
        counts = {split: sum(part.get(split, 0) for part in parts) for split in schema.SPLITS}
    return {split: count for split, count in counts.items() if count}


def num_bytes(manifest: Mapping[str, Any], config: str, split: str) -> int:
    """Return the size of a split's parquet files."""
    files = manifest["files"].items()
    return sum(facts["bytes"] for path, facts in files if fnmatch(path, glob(config, split)))


def size_category(num_rows: int) -> str:
    """Return the Hub's size category of a data set."""
    return next((name for power, name in enumerate(SIZES) if num_rows < 1000 * 10**power), SIZES[-1])


def glob(config: str, split: str) -> str:
    """Return the pattern of a split's parquet files inside the repository."""
    if config == "responses":
        return f"responses/{split}-*.parquet"
    return f"data/{'*' if config == 'all' else config}/{split}-*.parquet"


def no_pairs(stage: str) -> str:
    """Return the sentence of a card that explains why a configuration is absent."""
    return f"The stage `{stage}` has no pairs in this release"


def human_labels(manifest: Mapping[str, Any]) -> str:
    """Say which human labels a data set rests on, in words that follow "made"."""
    used = []
    if manifest["models"]["judge"].get("kind") == "trained":
        used.append("a judge trained on human labels")
    if manifest.get("calibration", {}).get("method") == "isotonic":
        used.append("uncertainties calibrated on labelled rows")
    return f"with {' and '.join(used)}" if used else "without human labels"
