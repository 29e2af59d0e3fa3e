"""The content-addressed store behind Xet: xorbs and the recipes that build files from them, with no HTTP in it.

A client uploads xorbs first, then a shard that names the files made of them. A file is known once its shard is; it can
be committed under its sha256 then, as if it had come by LFS.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from . import errors, shard, xorb
from .shard import FileRecipe, Term
from .xorb import Xorb


class Part(NamedTuple):
    """The terms that hold a range of a file, and how many bytes of the first one come before it."""

    skipped: int
    terms: list[Term]


@dataclass(slots=True)
class Cas:
    """Everything the content-addressed store remembers."""

    xorbs: dict[str, Xorb] = field(default_factory=dict)
    files: dict[str, FileRecipe] = field(default_factory=dict)
    received_bytes: int = 0
    """Size of all xorbs that clients have sent: what uploads have cost."""

    def add_xorb(self, name: str, body: bytes) -> bool:
        """Keep a xorb; False if it was here already."""
        self.received_bytes += len(body)
        parsed, is_new = xorb.parse(body), name not in self.xorbs
        self.xorbs[name] = parsed
        return is_new

    def read_shard(self, body: bytes) -> list[tuple[FileRecipe, bytes]]:
        """Recipe and content of each file of a shard, which must only name chunks that are here."""
        return [(recipe, self._content(recipe)) for recipe in shard.parse(body)]

    def _content(self, recipe: FileRecipe) -> bytes:
        pieces = []
        for term in recipe.terms:
            source = self.xorbs.get(term.xorb)
            if source is None or not term.start < term.end <= source.num_chunks:
                raise errors.HubError(400, f"The shard names chunks that were not uploaded, of xorb {term.xorb}")
            pieces.append(source.unpacked(term.start, term.end))
            if len(pieces[-1]) != term.length:
                raise errors.HubError(400, f"A term has {len(pieces[-1])} bytes instead of {term.length}")
        return b"".join(pieces)


def part(recipe: FileRecipe, first: int, last: int | None) -> Part:
    """The terms that hold the bytes `first` to `last`, both included; to the end if `last` is None."""
    placed = [
        (begin, term)
        for begin, term in _placed(recipe)
        if begin + term.length > first and (last is None or begin <= last)
    ]
    if not placed:
        raise errors.HubError(416, "Range Not Satisfiable")
    return Part(first - placed[0][0], [term for _, term in placed])


def _placed(recipe: FileRecipe) -> Iterator[tuple[int, Term]]:
    begin = 0
    for term in recipe.terms:
        yield begin, term
        begin += term.length
