"""README text -> its YAML metadata, and what the Hub would say about it."""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from . import errors

FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
EMPTY = "empty or missing yaml metadata in repo card"
_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl apple-ascl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 gemma unknown other
"""
LICENSES = frozenset(_LICENSES.split())
LISTS = ("tags", "configs", "task_categories", "size_categories", "datasets", "metrics")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A card's metadata, with what is wrong and what is merely missing."""

    metadata: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, list[dict[str, str]]]:
        """The answer of `POST /api/validate-yaml`."""
        return {
            "errors": [{"message": message} for message in self.errors],
            "warnings": [{"message": message} for message in self.warnings],
        }


def read_card(content: str) -> Verdict:
    """Parse and check the block between the two `---` lines."""
    block = FRONT_MATTER.match(content)
    if block is None:
        return Verdict(warnings=[EMPTY])
    try:
        metadata = yaml.safe_load(block.group(1))
    except yaml.YAMLError as error:
        return Verdict(errors=[f"Invalid YAML: {error}"])
    if metadata is None:
        return Verdict(warnings=[EMPTY])
    if not isinstance(metadata, dict):
        return Verdict(errors=["The metadata must be a mapping"])
    return Verdict(metadata, list(_complaints(metadata)))


def _complaints(metadata: dict[str, Any]) -> list[str]:
    found = [f'"{key}" must be an array' for key in LISTS if not isinstance(metadata.get(key, []), list)]
    licenses = metadata.get("license", [])
    if not {str(name) for name in (licenses if isinstance(licenses, list) else [licenses])} <= LICENSES:
        found.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}]')
    return found


def require_valid(content: str) -> None:
    """Refuse a commit whose README the Hub could not read."""
    verdict = read_card(content)
    if verdict.errors:
        listed = "\n".join(f"- {message}" for message in verdict.errors)
        raise errors.HubError(400, f"Invalid metadata in README.md.\n{listed}", body=verdict.to_json())
