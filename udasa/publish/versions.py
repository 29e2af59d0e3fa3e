"""The releases that are there, and the data to publish -> the version that this one should have, and why."""

import re
from typing import NamedTuple

from udasa.errors import UserError
from udasa.publish.differences import Level

Version = tuple[int, int, int]

FIRST: Version = (1, 0, 0)


class Proposal(NamedTuple):
    """A version as three numbers, and the reason for it."""

    version: Version
    level: Level
    """`major`: schema, thresholds or rows changed; `minor`: rows added; `patch`: only the card; `none`: nothing."""
    why: str


def parse(version: str) -> Version:
    """Return the three numbers of MAJOR.MINOR.PATCH.

    Raises:
        UserError: it has another form.
    """
    found = _numbers(version)
    if found is None:
        raise UserError(
            f"A version has the form MAJOR.MINOR.PATCH, such as 1.0.0, got '{version}'. "
            "Say --version auto to take the one that the differences ask for."
        )
    return found


def text(version: Version) -> str:
    """Return MAJOR.MINOR.PATCH."""
    return ".".join(map(str, version))


def releases(tags: dict[str, str]) -> dict[Version, str]:
    """Return version -> commit of the tags that are releases."""
    found = {_numbers(tag[1:]): commit for tag, commit in tags.items() if tag.startswith("v")}
    return {version: commit for version, commit in found.items() if version is not None}


def bump(version: Version, level: Level) -> Version:
    """Return the version that follows at a level; `none` gives the same one."""
    major, minor, patch = version
    steps = {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0), "patch": (major, minor, patch + 1)}
    return steps.get(level, version)


def _numbers(version: str) -> Version | None:
    found = re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", version, re.ASCII)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None
